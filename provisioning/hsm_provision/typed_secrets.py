"""PINs and passphrases people type: the question says whose it is, and one that is to be set is typed twice."""

from __future__ import annotations

import getpass
from collections.abc import Callable

from hsm_msl.backend.pin import Pin, PinSource, PromptPin, pin_source
from hsm_msl.errors import BackendConfigurationError


class TypedSecret:
    """A PIN source that asks on the terminal, once per process, and can have the answer repeated.

    Args:
        whose: what is asked for, e.g. ``user PIN of token 'a'``.
        ask: reads a line without echo.
    """

    __slots__ = ("_ask", "_prompt", "_whose")

    def __init__(self, whose: str, ask: Callable[[str], str] = getpass.getpass) -> None:
        self._whose = whose
        self._ask = ask
        self._prompt = PromptPin(f"{whose[0].upper()}{whose[1:]}: ", ask)

    def __str__(self) -> str:
        return "the prompt"

    def read(self) -> Pin:
        """Return what was typed. Raises BackendConfigurationError without a terminal or an answer."""
        return self._prompt.read()

    def read_new(self) -> Pin:
        """Return what was typed twice. Raises BackendConfigurationError as ``read``, and when the two differ."""
        first = self._prompt.read()
        if PromptPin(f"The same {self._whose}, once more: ", self._ask).read() != first:
            self._prompt = PromptPin(f"{self._whose[0].upper()}{self._whose[1:]}: ", self._ask)
            raise BackendConfigurationError(f"the two entries of the {self._whose} differ; nothing was changed")
        return first

    def __repr__(self) -> str:
        return f"TypedSecret({self._whose!r})"


def secret_source(text: str, whose: str) -> PinSource:
    """Parse the way a ceremony or an option names a secret.

    Args:
        text: as ``pin_source`` takes it.
        whose: what is asked for when it is ``prompt``.

    Raises:
        BackendConfigurationError: the text names no source.
    """
    return TypedSecret(whose) if text == "prompt" else pin_source(text)


def read_new(source: PinSource) -> Pin:
    """Read a secret that is to be set from now on. Raises as the source, and when a typed one is not repeated."""
    return source.read_new() if isinstance(source, TypedSecret) else source.read()

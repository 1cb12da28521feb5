"""A PIN asked for once, for commands that open the token several times."""

from __future__ import annotations

from hsm_msl.backend.pin import Pin, PinSource


class KeptPin:
    """A PIN source that asks another one the first time only.

    Args:
        source: where the PIN comes from.
    """

    __slots__ = ("_pin", "_source")

    def __init__(self, source: PinSource) -> None:
        self._source = source
        self._pin: Pin | None = None

    def read(self) -> Pin:
        """Return the PIN. Raises BackendConfigurationError, naming the source, when it cannot."""
        if self._pin is None:
            self._pin = self._source.read()
        return self._pin

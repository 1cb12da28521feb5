"""What tokens say about their PINs, asked now and then: a warning before somebody is locked out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol, runtime_checkable

from hsm_msl.service.watch.health import Check, Examiner
from hsm_msl.service.watch.metrics import Sample

FLAGS: Final = tuple(
    f"{who}_pin_{what}" for who in ("user", "so") for what in ("count_low", "final_try", "locked", "to_be_changed")
)


@runtime_checkable
class HasPinFlags(Protocol):
    """A token that tells its flags."""

    def pin_flags(self) -> frozenset[str]:
        """Return those about PINs that are set now."""


class PinFlags:
    """Asks tokens for their flags, at most once per period.

    Args:
        tokens: the open ones by name; those that do not tell are left out.
        every: seconds between two questions.
        patience: seconds to wait for an answer.
    """

    def __init__(
        self, tokens: Callable[[], Mapping[str, object]], every: float = 60.0, patience: float = 5.0
    ) -> None:
        self._tokens = tokens
        self._examiner = Examiner(self._checks, every, patience)
        self._found: dict[str, frozenset[str]] = {}

    def samples(self) -> Iterator[Sample]:
        """Yield every flag of every token that answered; of the others, what they said last."""
        self._examiner.ask()
        for name, flags in list(self._found.items()):
            for flag in FLAGS:
                yield Sample("pin_flags", (name, flag), float(flag in flags))

    def _checks(self) -> Iterable[Check]:
        for name, token in self._tokens().items():
            if isinstance(token, HasPinFlags):
                yield Check(f"flags of {name}", partial(self._read, name, token))

    def _read(self, name: str, token: HasPinFlags) -> None:
        self._found[name] = token.pin_flags()

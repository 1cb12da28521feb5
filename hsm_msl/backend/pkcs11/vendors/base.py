"""The shape of a vendor profile: data about one kind of token, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import PKCS11Error


@dataclass(frozen=True, slots=True)
class VendorProfile:
    """What has to be known about a token beyond what it says about itself.

    Args:
        name: how a configuration names the profile.
        tested: whether our contract suite runs on it; the rest is from public documentation.
        sessions: sessions to keep for calls, at most; a token's own limit lowers it.
        homes: sessions that carry unwrapped keys, besides those for calls.
        broken: mechanisms the token lists but does not do right, or for which it gives wrong answers.
        vague: exceptions with which the token reports bad input as well as its own failures; after one of these
            the key is tried on good input before anybody is blamed.
        padded_wrap: the mechanism that is RFC 5649 on this token, or None.
        ragged_key_wrap: whether RFC 5649 is right for lengths that are no multiple of 8.
        bytes_lost_per_unwrap: memory the module keeps for each key unwrapped or made in a session.
        unwraps_per_process: after how many such keys it should start anew; 0 means never.
        keep_alive_seconds: how often an idle token wants a call; None means never.
        largest_input: the most bytes the token takes in one call; None means no limit worth knowing. Longer data is
            encrypted in pieces or hashed on the host; to authenticate it is refused, and from others it is not
            authentic.
        one_call: whether two calls must never run side by side in one process, because the module does not stand it.
        title: what people call it.
        source: where the facts are from.
        quirks: what an operator should know and the code cannot mend, a sentence each.
        forced_uses: uses the token gives every private key, whatever the template said.
        unknown_attributes: attributes it does not know, so that a template that names one makes no key; what they
            would say cannot be read back either.
        nominal_rights: whether the module merely notes what a key may do, for anybody to change, and what keeps the
            key in is the device alone.
        read_write_sessions: whether the token has no read-only sessions.
        manufacturers: how the token's manufacturer ID begins, to recognise it.
        models: how its model begins; empty means any.
    """

    name: str
    tested: bool = False
    title: str = ""
    source: str = ""
    quirks: tuple[str, ...] = ()
    forced_uses: frozenset[Attribute] = frozenset()
    unknown_attributes: frozenset[Attribute] = frozenset()
    nominal_rights: bool = False
    read_write_sessions: bool = False
    manufacturers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    one_call: bool = False
    sessions: int = 4
    homes: int = 2
    broken: frozenset[Mechanism] = frozenset()
    vague: tuple[type[PKCS11Error], ...] = ()
    padded_wrap: Mechanism | None = Mechanism.AES_KEY_WRAP_KWP
    ragged_key_wrap: bool = True
    bytes_lost_per_unwrap: int = 0
    unwraps_per_process: int = 0
    keep_alive_seconds: float | None = None
    largest_input: int | None = None

"""The attributes every key is created with, and what must be read back from it.

These are constants of the tool, not of a profile: no ceremony can weaken them. Only the usage flags differ, and all
of them are always stated, because tokens and bindings fill in generous defaults for what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hsm_provision.profiles import KeyProfile, Usage

Half = Literal["secret", "private", "public"]
Provenance = Literal["generated", "escrowed", "imported", "restored"]
"""Born in this token and never out of it; born here and wrapped into a backup at birth; brought in; brought back."""
Template = Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Traits:
    """What is particular about the attributes of one kind of token.

    Attributes:
        unknown: attributes it does not know; they are neither set nor read back.
        forced: uses it gives every key pair, whatever is asked for.
        by_blocks: whether keys whose profile allows it wrap by blocks on it: they encrypt and decrypt instead.
    """

    unknown: frozenset[str] = frozenset()
    forced: frozenset[str] = frozenset()
    by_blocks: bool = False


PLAIN = Traits()

_PROTECTED: Template = {
    # COPYABLE stands before MODIFIABLE: some tokens stop accepting the former once the latter is false.
    "TOKEN": True,
    "PRIVATE": True,
    "SENSITIVE": True,
    "EXTRACTABLE": False,
    "COPYABLE": False,
    "MODIFIABLE": False,
}
_OPEN: Template = {"TOKEN": True, "PRIVATE": False, "COPYABLE": False, "MODIFIABLE": False}

_FLAGS: Mapping[Half, tuple[str, ...]] = {
    "secret": ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE"),
    "private": ("SIGN", "SIGN_RECOVER", "DECRYPT", "UNWRAP", "DERIVE"),
    "public": ("VERIFY", "VERIFY_RECOVER", "ENCRYPT", "WRAP", "DERIVE"),
}
_PUBLIC_COUNTERPART: Mapping[Usage, str] = {"sign": "VERIFY", "decrypt": "ENCRYPT", "unwrap": "WRAP"}

BORN_HERE: Template = {"ALWAYS_SENSITIVE": True, "NEVER_EXTRACTABLE": True, "LOCAL": True}
"""What a token says of a key it generated itself and never let out."""


def halves(profile: KeyProfile) -> tuple[Half, ...]:
    """Return the objects a key of this profile consists of, the protected one first."""
    return ("private", "public") if profile.type in ("rsa", "ec") else ("secret",)


def creation_template(profile: KeyProfile, half: Half, traits: Traits = PLAIN) -> dict[str, bool]:
    """Return the complete boolean attributes of one object of a key.

    Args:
        profile: the kind of key.
        half: which object of it.
        traits: of the token.

    Returns:
        Attribute names as in PKCS#11 without the CKA_ prefix, in the order in which they are to be sent.
    """
    base = _OPEN if half == "public" else _PROTECTED
    if half == "public":
        wanted = {_PUBLIC_COUNTERPART[usage] for usage in profile.usage if usage in _PUBLIC_COUNTERPART}
    else:
        wanted = {usage.upper() for usage in profile.usage}
    if traits.by_blocks and profile.blocks:
        wanted = {"ENCRYPT", "DECRYPT"}
    if half != "secret":
        wanted |= traits.forced
    flags = {flag: flag in wanted for flag in _FLAGS[half]}
    protections = {name: value for name, value in base.items() if name != "MODIFIABLE"}
    template = {**protections, **flags, "MODIFIABLE": False}
    return {name: value for name, value in template.items() if name not in traits.unknown}


def expected_attributes(
    profile: KeyProfile, half: Half, provenance: Provenance, traits: Traits = PLAIN
) -> dict[str, bool]:
    """Return what reading the attributes back must show; a key born here must also say that it never left."""
    expected = creation_template(profile, half, traits)
    if half != "public" and provenance == "generated":
        expected.update(BORN_HERE)
    return expected

"""How keys are named on a token: ``<purpose>.<role>.v<version>``, and the ID that follows from the label.

The purpose is what the key serves (``msl.token``, ``psk.<identity>``, ``service.<name>``, ``identity``), the role
is what it does there (``encryption``, ``mac``, ``wrap``, ``rsa`` ...). A purpose may hold any character an identity
may hold, dots included: role and version are read from the right.

CKA_ID is the first 16 bytes of SHA-256 over ``"hsm-provision key id v1"``, a zero byte and the UTF-8 label. It is
therefore the same on every token that holds the key, the two halves of a pair share it, and a restored key keeps it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from hsm_msl.errors import ConfigurationError

_ID_DOMAIN = b"hsm-provision key id v1\x00"
_LABEL = re.compile(r"^(?P<purpose>.+)\.(?P<role>[a-z][a-z0-9-]*)\.v(?P<version>[1-9][0-9]*)$")
MAXIMUM_LABEL_BYTES = 255
"""Longer labels are cut or refused by some tokens."""


@dataclass(frozen=True, slots=True, order=True)
class KeyName:
    """One key version: purpose, role and version, e.g. ``msl.token`` / ``encryption`` / 1."""

    purpose: str
    role: str
    version: int

    @property
    def label(self) -> str:
        """The CKA_LABEL of the key."""
        return f"{self.purpose}.{self.role}.v{self.version}"

    @property
    def key_id(self) -> bytes:
        """The 16-byte CKA_ID of the key."""
        return key_id(self.label)

    @property
    def family(self) -> str:
        """Purpose and role: what all versions of one key have in common."""
        return f"{self.purpose}.{self.role}"


def key_id(label: str) -> bytes:
    """Return the 16-byte CKA_ID that belongs to ``label``."""
    return hashlib.sha256(_ID_DOMAIN + label.encode()).digest()[:16]


def make_name(purpose: str, role: str, version: int) -> KeyName:
    """Return the checked name of a key version.

    Raises:
        ConfigurationError: the label would be unreadable, too long or not parse back into the same parts.
    """
    name = KeyName(purpose, role, version)
    if not purpose.isprintable() or purpose != purpose.strip():
        raise ConfigurationError(f"purpose {purpose!r}: only printable text without outer spaces is allowed")
    if len(name.label.encode()) > MAXIMUM_LABEL_BYTES:
        raise ConfigurationError(f"purpose {purpose!r}: the label exceeds {MAXIMUM_LABEL_BYTES} bytes")
    if parse_label(name.label) != name:
        raise ConfigurationError(f"{name.label!r} is not of the form <purpose>.<role>.v<version>")
    return name


def parse_label(label: str) -> KeyName | None:
    """Return the parts of a label of this convention, or None for any other label."""
    match = _LABEL.match(label)
    if match is None:
        return None
    return KeyName(match["purpose"], match["role"], int(match["version"]))

"""Which attributes a key must and must not have before it may serve, by the role it is to play.

One key, one purpose: a key that may both wrap and decrypt opens in host memory whatever it wrapped. Attributes are
read on every fresh handle, because they can change under us, and the value is asked for, because a token may show
the right attributes and still hand the key out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import KeyName, key_type_of, read
from hsm_msl.errors import KeyPolicyError

_USES = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)


@dataclass(frozen=True, slots=True)
class Role:
    """What a key is for.

    Args:
        name: for messages.
        object_class: secret or private key.
        key_types: the types that can do it.
        uses: usage attributes that may be set; no other may be.
        needs: of these at least one must be.
    """

    name: str
    object_class: ObjectClass
    key_types: frozenset[KeyType]
    uses: frozenset[Attribute]
    needs: frozenset[Attribute] = frozenset()

    def __post_init__(self) -> None:
        if not self.needs:
            object.__setattr__(self, "needs", self.uses)


_SECRET = ObjectClass.SECRET_KEY
_PRIVATE = ObjectClass.PRIVATE_KEY
_HMAC_TYPES = frozenset(
    (
        KeyType.GENERIC_SECRET,
        KeyType.SHA_1_HMAC,
        KeyType.SHA256_HMAC,
        KeyType.SHA384_HMAC,
        KeyType.SHA512_HMAC,
    )
)
_AES = frozenset((KeyType.AES,))
_RSA = frozenset((KeyType.RSA,))

ENCRYPTION = Role("encryption", _SECRET, _AES, frozenset((Attribute.ENCRYPT, Attribute.DECRYPT)))
# A tag is checked by making it again, so a key that may only verify is of no use here.
_TAGS = frozenset((Attribute.SIGN, Attribute.VERIFY))
HMAC = Role("HMAC", _SECRET, _HMAC_TYPES, _TAGS, needs=frozenset((Attribute.SIGN,)))
CMAC = Role("CMAC", _SECRET, _AES, _TAGS, needs=frozenset((Attribute.SIGN,)))
WRAPPING = Role("key wrapping", _SECRET, _AES, frozenset((Attribute.WRAP, Attribute.UNWRAP)))
BLOCK_WRAPPING = Role("key wrapping by blocks", _SECRET, _AES, frozenset((Attribute.ENCRYPT, Attribute.DECRYPT)))
SIGNING = Role("signing", _PRIVATE, frozenset((KeyType.RSA, KeyType.EC)), frozenset((Attribute.SIGN,)))
DECRYPTION = Role("decryption", _PRIVATE, _RSA, frozenset((Attribute.DECRYPT,)))
UNWRAPPING = Role("opening keys", _PRIVATE, _RSA, frozenset((Attribute.UNWRAP,)))
AGREEMENT = Role("key agreement", _PRIVATE, frozenset((KeyType.EC, KeyType.DH)), frozenset((Attribute.DERIVE,)))


def admission(role: Role, forced: frozenset[Attribute] = frozenset()) -> Callable[[Handle, KeyName], None]:
    """Return the check for one role, as ``TokenObject`` takes it.

    Args:
        role: what the key is to do.
        forced: uses the token gives every private key (``VendorProfile.forced_uses``).
    """

    def admit(handle: Handle, name: KeyName) -> None:
        faults = violations(handle, role, forced)
        if faults:
            raise KeyPolicyError(f"{name} may not serve for {role.name}: {'; '.join(faults)}")

    return admit


def violations(handle: Handle, role: Role, forced: frozenset[Attribute] = frozenset()) -> list[str]:
    """Return what is wrong with a key, for people; empty when it may serve.

    Args:
        handle: the key; the binding's exceptions pass.
        role: what it is to do.
        forced: as for ``admission``.
    """
    faults = []
    key_type = key_type_of(handle)
    if key_type not in role.key_types:
        expected = " or ".join(sorted(kind.name for kind in role.key_types))
        faults.append(f"its type is {key_type.name if key_type else 'unknown'}, not {expected}")
    uses = {use for use in _USES if read(handle, use, False)}
    if not uses & role.needs:
        faults.append(f"it needs {' or '.join(sorted(f'CKA_{use.name}' for use in role.needs))}")
    # VERIFY and ENCRYPT on a private key mean nothing; the other excess uses are how keys leak each other.
    tolerated = role.uses | forced if role.object_class is ObjectClass.PRIVATE_KEY else role.uses
    faults.extend(f"CKA_{use.name} must be false" for use in sorted(uses - tolerated))
    faults.extend(exposure(handle))
    return faults


def exposure(handle: Handle) -> list[str]:
    """Return in which ways a key's value could leave the token, by its attributes and by asking for it.

    Args:
        handle: the key; the binding's exceptions pass.
    """
    faults = []
    if not read(handle, Attribute.SENSITIVE, False):
        faults.append("CKA_SENSITIVE must be true")
    if read(handle, Attribute.EXTRACTABLE, True):
        faults.append("CKA_EXTRACTABLE must be false")
    if _shows_value(handle):
        faults.append("the token hands out its value")
    return faults


def _shows_value(handle: Handle) -> bool:
    secret = Attribute.VALUE
    if key_type_of(handle) is KeyType.RSA:
        secret = Attribute.PRIVATE_EXPONENT
    try:
        return bool(handle[secret])
    except PKCS11Error:
        return False  # refused, in whatever words

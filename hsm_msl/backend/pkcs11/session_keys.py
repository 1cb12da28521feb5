"""Templates of keys that live in a session, and the check that the token made them as asked.

A token may ignore the template (openCryptoki does), so the attributes are read back, and set once more where that
helps, before the key is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from pkcs11 import Attribute, KeyType, MechanismFlag
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.errors import KeyPolicyError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey

Make = Callable[[Lease], Handle]
"""Makes a key in a session; the binding's exceptions pass."""

DATA_KEY = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
MAC_KEY = MechanismFlag.SIGN | MechanismFlag.VERIFY
WRAPPING_KEY = MechanismFlag.WRAP | MechanismFlag.UNWRAP

_USES = {
    Attribute.ENCRYPT: MechanismFlag.ENCRYPT,
    Attribute.DECRYPT: MechanismFlag.DECRYPT,
    Attribute.SIGN: MechanismFlag.SIGN,
    Attribute.VERIFY: MechanismFlag.VERIFY,
    Attribute.WRAP: MechanismFlag.WRAP,
    Attribute.UNWRAP: MechanismFlag.UNWRAP,
    Attribute.DERIVE: MechanismFlag.DERIVE,
}


def mac_key_type(algorithm: MacAlgorithm) -> KeyType:
    """Return the key type a session key of an algorithm has.

    Args:
        algorithm: HMAC keys are generic secrets, which every token with HMAC takes.
    """
    return KeyType.AES if algorithm is MacAlgorithm.AES_CMAC else KeyType.GENERIC_SECRET


def kind_of(key: AesKey | MacKey) -> tuple[KeyType, MechanismFlag]:
    """Return type and uses of a session key as it is unwrapped.

    Args:
        key: its handle.
    """
    if isinstance(key, MacKey):
        return mac_key_type(key.algorithm), MAC_KEY
    return KeyType.AES, DATA_KEY


def template(uses: MechanismFlag, *, extractable: bool) -> dict[Attribute, Any]:
    """Return the whole template of a session key; nothing is left to a token's defaults.

    Args:
        uses: what the key may do, and nothing else.
        extractable: whether it may leave the token wrapped.
    """
    attributes: dict[Attribute, Any] = {attribute: bool(uses & flag) for attribute, flag in _USES.items()}
    attributes |= {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
    }
    return attributes


def enforce(handle: Handle, uses: MechanismFlag, *, extractable: bool) -> Handle:
    """Return the key when it is as asked; destroy it otherwise.

    Args:
        handle: a fresh session key; the binding's exceptions pass.
        uses: what it may do.
        extractable: whether it may leave the token wrapped.

    Raises:
        KeyPolicyError: the token made something weaker and cannot be talked out of it.
    """
    wrong = _differences(handle, uses, extractable)
    for attribute in (Attribute.SENSITIVE, Attribute.EXTRACTABLE):
        if attribute in wrong:
            with contextlib.suppress(PKCS11Error):
                handle[attribute] = attribute is Attribute.SENSITIVE or extractable
    if wrong:
        wrong = _differences(handle, uses, extractable)
    if wrong:
        with contextlib.suppress(PKCS11Error):
            handle.destroy()
        names = ", ".join(sorted(f"CKA_{attribute.name}" for attribute in wrong))
        raise KeyPolicyError(f"the token made a session key with other attributes than asked: {names}")
    return handle


def _differences(handle: Handle, uses: MechanismFlag, extractable: bool) -> set[Attribute]:
    wanted = template(uses, extractable=extractable)
    wanted.pop(Attribute.PRIVATE)  # session objects are out of others' reach either way
    found = handle.get_attributes(list(wanted))
    return {attribute for attribute, value in wanted.items() if found.get(attribute) != value}

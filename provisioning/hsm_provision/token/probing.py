"""What a key proves by being used: its check value, and that it refuses what it must refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend import rfc3394
from hsm_msl.backend.key_derivation import COUNTER_BYTES, fixed_data
from hsm_msl.backend.pkcs11.derivation import masked_last_block
from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_provision.check_values import (
    HMAC_TEXT,
    ZERO_BLOCK,
    CheckValue,
    check_method,
    public_check_value,
    symmetric_check_value,
)
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import Half, halves
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, find_object, public_spki

_VALUE: Mapping[tuple[str, Half], Attribute] = {
    ("aes", "secret"): Attribute.VALUE,
    ("hmac-sha256", "secret"): Attribute.VALUE,
    ("rsa", "private"): Attribute.PRIVATE_EXPONENT,
    ("ec", "private"): Attribute.VALUE,
}
_DERIVED = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.ENCRYPT: True,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
_WRAPPING: Mapping[Half, tuple[Mechanism, ...]] = {
    "secret": (Mechanism.AES_KEY_WRAP, Mechanism.AES_KEY_WRAP_PAD, Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_CBC_PAD),
    "private": (Mechanism.AES_KEY_WRAP_PAD, Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_CBC_PAD),
}
"""What a key is tried to be wrapped out with: the first that the token lists."""

_REFUSALS = frozenset({Fault.POLICY, Fault.MECHANISM})
"""A refusal is a decision about the key. An outage is not one, and fails the probe instead of passing it."""


def token_check_value(session: TokenSession, profile: KeyProfile, label: str) -> CheckValue:
    """Compute a key's check value in the token.

    Raises:
        KeyNotFoundError: no such key.
        KeyPolicyError: the key refuses the operation its profile is for.
        BackendUnavailableError: the token fails.
    """
    method = check_method(profile)
    if method == "spki-sha256":
        return public_check_value(public_spki(session, label))
    handle = find_object(session, label, "secret")
    with token_errors(f"check value of {label}"):
        return check_value_of_handle(session, profile, handle)


def check_value_of_handle(session: TokenSession, profile: KeyProfile, handle: Any) -> CheckValue:
    """Compute the check value of a symmetric key object at hand. Raises the binding's errors."""
    method = check_method(profile)
    if method == "ecb-zero":
        output = bytes(handle.encrypt(ZERO_BLOCK, mechanism=Mechanism.AES_ECB))
    elif method == "derive-zero":
        output = _derive_zero(handle)
    elif method == "hmac-label":
        output = bytes(handle.sign(HMAC_TEXT, mechanism=Mechanism.SHA256_HMAC))
    else:
        output = (
            _wrap_zero_by_blocks(handle)
            if session.traits.by_blocks and profile.blocks
            else _wrap_zero(session, handle)
        )
    return symmetric_check_value(method, output)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing a key must refuse: what was tried, what it means when the token allows it, whether it refused."""

    tried: str
    danger: str
    refused: bool


def try_refusals(session: TokenSession, profile: KeyProfile, label: str) -> tuple[Refusal, ...]:
    """Try on the real key what it must refuse: reading, wrapping out, copying, gaining rights.

    Args:
        session: the token.
        profile: the kind of key.
        label: the key.

    Returns:
        Each attempt with its outcome. A copy made by a successful attempt is a session object and is destroyed at
        once.

    Raises:
        KeyNotFoundError: no such key.
        BackendUnavailableError: the token fails, so nothing is proved.
    """
    half = halves(profile)[0]
    handle = find_object(session, label, half)
    escalation = next(name for name, on in session.template(profile, half).items() if not on and name in _RIGHTS)
    attempts: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("read its value", "its value can be read", lambda: handle[_VALUE[profile.type, half]]),
        ("wrap it out", "it can be wrapped out", lambda: _wrap_out(session, half, handle)),
        (
            "copy it",
            "it can be copied into an extractable key",
            lambda: handle.copy({Attribute.TOKEN: False, Attribute.EXTRACTABLE: True}).destroy(),
        ),
        (
            "add a right",
            f"it can be given the right to {escalation.lower()}",
            lambda: handle.__setitem__(Attribute[escalation], True),
        ),
        (
            "make extractable",
            "it can be made extractable",
            lambda: handle.__setitem__(Attribute.EXTRACTABLE, True),
        ),
    )
    if session.vendor.nominal_rights:  # to change what nobody minds proves nothing, and would not change back
        attempts = tuple(attempt for attempt in attempts if attempt[0] not in _CHANGES)
    return tuple(Refusal(tried, danger, not _allowed(label, danger, attempt)) for tried, danger, attempt in attempts)


_CHANGES = frozenset({"add a right", "make extractable"})
_RIGHTS = frozenset({"ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "SIGN", "DERIVE"})


def _allowed(label: str, name: str, attempt: Callable[[], object]) -> bool:
    with token_errors(f"probing {label} ({name})"):
        try:
            attempt()
        except PKCS11Error as error:
            if fault_of(error) in _REFUSALS:
                return False
            raise
    return True


def _wrap_out(session: TokenSession, half: Half, handle: Any) -> None:
    listed = session.binding.token.slot.get_mechanisms()
    mechanism = next((item for item in _WRAPPING[half] if item in listed), _WRAPPING[half][0])
    wrapping = session.binding.generate_key(
        KeyType.AES,
        256,
        store=False,
        mechanism=Mechanism.AES_KEY_GEN,
        template={
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.ENCRYPT: False,
            Attribute.DECRYPT: False,
            Attribute.WRAP: True,
            Attribute.UNWRAP: False,
            Attribute.SIGN: False,
            Attribute.VERIFY: False,
            Attribute.DERIVE: False,
        },
    )
    try:
        parameter = bytes(len(ZERO_BLOCK)) if mechanism is Mechanism.AES_CBC_PAD else None
        wrapping.wrap_key(handle, mechanism=mechanism, mechanism_param=parameter)
    finally:
        wrapping.destroy()


def zero_key(session: TokenSession) -> Any:
    """Create a session object of sixteen zero bytes, the constant input of ``wrap-zero``. The caller destroys it."""
    return session.binding.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: ZERO_BLOCK,
            Attribute.TOKEN: False,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
    )


def _derive_zero(handle: Any) -> bytes:
    """Encrypt a zero block under the key derived with zeros, as a server derives keys of entities."""
    message = (1).to_bytes(COUNTER_BYTES) + fixed_data(ZERO_BLOCK, ZERO_BLOCK, len(ZERO_BLOCK))
    derived = handle.derive_key(
        KeyType.AES,
        8 * len(ZERO_BLOCK),
        mechanism=Mechanism.AES_ECB_ENCRYPT_DATA,
        mechanism_param=masked_last_block(handle, message),
        store=False,
        template=_DERIVED,
    )
    try:
        return bytes(derived.encrypt(ZERO_BLOCK, mechanism=Mechanism.AES_ECB))
    finally:
        derived.destroy()


def _wrap_zero_by_blocks(handle: Any) -> bytes:
    return rfc3394.wrap(lambda block: bytes(handle.encrypt(block, mechanism=Mechanism.AES_ECB)), ZERO_BLOCK)


def _wrap_zero(session: TokenSession, handle: Any) -> bytes:
    zero = zero_key(session)
    try:
        return bytes(handle.wrap_key(zero, mechanism=Mechanism.AES_KEY_WRAP))
    finally:
        zero.destroy()

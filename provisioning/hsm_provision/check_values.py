"""Key check values: short public proof that two parties, two tokens or two moments hold the same key.

Each kind of key has the one method its usage flags allow, so that no key needs an extra permission to be checked:

* ``ecb-zero``: AES in ECB mode over one zero block (keys that encrypt);
* ``wrap-zero``: RFC 3394 wrap of sixteen zero bytes (keys that wrap and may not encrypt);
* ``derive-zero``: AES in ECB mode over one zero block under the 16-byte key derived (SP 800-108, AES-CMAC, as in
  ``hsm_msl.backend.key_derivation``) with sixteen zero bytes as label and as context (keys that derive);
* ``hmac-label``: HMAC-SHA256 over a constant text (keys that authenticate);
* ``spki-sha256``: SHA-256 of the public half, SubjectPublicKeyInfo DER (key pairs).

Symmetric check values are eight bytes, the first three being what is traditionally read aloud.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from hsm_msl.backend.key_derivation import derive_bytes
from hsm_provision.profiles import KeyProfile

CheckMethod = Literal["ecb-zero", "wrap-zero", "derive-zero", "hmac-label", "spki-sha256"]

HMAC_TEXT = b"hsm-provision check value v1"
ZERO_BLOCK = bytes(16)
SYMMETRIC_BYTES = 8


class CheckValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method and its result in lower-case hexadecimal."""

    method: CheckMethod
    value: str

    @property
    def short(self) -> str:
        """What fits in a table: three bytes of a symmetric check value, eight of a fingerprint."""
        return self.value[:16] if self.method == "spki-sha256" else self.value[:6]


def check_method(profile: KeyProfile) -> CheckMethod:
    """Return the method that fits the usage of a profile."""
    if profile.type in ("rsa", "ec"):
        return "spki-sha256"
    if profile.type == "hmac-sha256":
        return "hmac-label"
    if "derive" in profile.usage:
        return "derive-zero"
    return "ecb-zero" if "encrypt" in profile.usage else "wrap-zero"


def symmetric_check_value(method: CheckMethod, output: bytes) -> CheckValue:
    """Return the check value for what the key made of the method's constant input."""
    return CheckValue(method, output[:SYMMETRIC_BYTES].hex())


def public_check_value(spki: bytes) -> CheckValue:
    """Return the check value of a key pair from its SubjectPublicKeyInfo DER."""
    return CheckValue("spki-sha256", hashlib.sha256(spki).hexdigest())


def check_value_of_secret(profile: KeyProfile, secret: bytes) -> CheckValue:
    """Compute the check value of a secret still held by the host, before it is imported."""
    method = check_method(profile)
    if method == "hmac-label":
        return symmetric_check_value(method, hmac.digest(secret, HMAC_TEXT, "sha256"))
    if method == "wrap-zero":
        return symmetric_check_value(method, aes_key_wrap(secret, ZERO_BLOCK))
    if method == "derive-zero":
        secret = derive_bytes(secret, ZERO_BLOCK, ZERO_BLOCK, len(ZERO_BLOCK))
    # One constant block for a check value, never data: the mode's weakness does not apply.
    encryptor = Cipher(algorithms.AES(secret), modes.ECB()).encryptor()  # noqa: S305  # see above
    return symmetric_check_value(method, encryptor.update(ZERO_BLOCK))

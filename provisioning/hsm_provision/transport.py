"""Keys sealed for a token by the party that has them now, and opened only inside the token.

The sender wraps the key under a fresh AES-256 key (RFC 3394; RFC 5649 for PKCS#8 of pairs) and that one under the
token's transport key (RSA-OAEP with SHA-1, the one OAEP every token speaks). The file names the check value, so that
the receiver can prove what arrived. Whoever carries it learns nothing.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding

from hsm_msl.errors import ConfigurationError
from hsm_provision.check_values import CheckValue, check_value_of_secret, public_check_value
from hsm_provision.key_material import PrivateMaterial, SecretMaterial
from hsm_provision.profiles import KeyProfile

FORMAT = "hsm-provision transport 1"


class TransportFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sealed key; binary members are Base64."""

    format: str
    type: str
    size: int | str
    carrier: str
    sealed_key: str
    wrapped: str
    check: CheckValue
    spki: str | None = None


class SealedMaterial(msgspec.Struct, frozen=True):
    """A sealed key on its way into the token: opened there by the private half of ``carrier``."""

    carrier: str
    sealed_key: bytes
    wrapped: bytes
    check: CheckValue
    spki: bytes | None = None


def seal(material: SecretMaterial | PrivateMaterial, profile: KeyProfile, carrier: str, spki: bytes) -> TransportFile:
    """Seal a key for a token.

    Args:
        material: the key.
        profile: what it is.
        carrier: label of the token's transport key.
        spki: its public half, SubjectPublicKeyInfo DER.

    Raises:
        ConfigurationError: the transport key is no RSA key.
    """
    public = serialization.load_der_public_key(spki)
    if not isinstance(public, rsa.RSAPublicKey):
        raise ConfigurationError("the transport key must be an RSA public key")
    inner = os.urandom(32)
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303  # see the module docstring
    own = None
    size: int | str
    if isinstance(material, SecretMaterial):
        wrapped = aes_key_wrap(inner, material.value)
        check = check_value_of_secret(profile, material.value)
        size = len(material.value) * 8
    else:
        encoded = material.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        wrapped = aes_key_wrap_with_padding(inner, encoded)
        own = material.spki
        check = public_check_value(own)
        size = material.size
    return TransportFile(
        format=FORMAT,
        type=profile.type,
        size=size,
        carrier=carrier,
        sealed_key=_text(public.encrypt(inner, scheme)),
        wrapped=_text(wrapped),
        check=check,
        spki=_text(own) if own is not None else None,
    )


def read_sealed(path: Path, profile: KeyProfile) -> SealedMaterial:
    """Read a sealed key and check that it says it fits the profile.

    Raises:
        ConfigurationError: the file cannot be read, is no sealed key, or is for another type or size.
    """
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=TransportFile)
        parts = [base64.b64decode(text, validate=True) for text in (sealed.sealed_key, sealed.wrapped)]
        spki = base64.b64decode(sealed.spki, validate=True) if sealed.spki is not None else None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a sealed key: {error}") from error
    if sealed.format != FORMAT:
        raise ConfigurationError(f"{path}: format {sealed.format!r} is not known; expected {FORMAT!r}")
    if sealed.type != profile.type or sealed.size not in (*profile.bits, *profile.curves):
        raise ConfigurationError(
            f"{path}: holds {sealed.type} {sealed.size}, which profile {profile.name} does not allow"
        )
    if (spki is None) != (profile.type in ("aes", "hmac-sha256")):
        raise ConfigurationError(f"{path}: a pair has a public half, a symmetric key has none")
    return SealedMaterial(sealed.carrier, parts[0], parts[1], sealed.check, spki)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

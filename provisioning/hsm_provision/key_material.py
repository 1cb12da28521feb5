"""Existing keys, read from files for import; the only values of keys this package ever holds."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file
from hsm_provision.jwk_import import private_key_from_jwk, secret_from_jwk
from hsm_provision.open_files import demand_private
from hsm_provision.profiles import KeyProfile

Form = Literal["hex", "raw", "base64", "pkcs8", "jwk", "sealed"]
MAXIMUM_FILE_BYTES = 64 * 1024

_KPW_SALT = bytes.fromhex("027617984f6227539a630b897c017d69")
_KPW_INFO = bytes.fromhex("809f82a7addf548d3ea9dd067ff9bb91")

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}


@dataclass(frozen=True, slots=True)
class SecretMaterial:
    """A symmetric key on its way into the token."""

    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PrivateMaterial:
    """An RSA or EC private key on its way into the token."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def size(self) -> int | str:
        """Bits of an RSA key, name of an EC key's curve."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.key_size
        return _CURVES.get(self.key.curve.name, self.key.curve.name)

    @property
    def spki(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )


OpenMaterial = SecretMaterial | PrivateMaterial


def derive_wrapping_key(encryption: bytes, mac: bytes) -> bytes:
    """Derive the 16-byte pre-shared wrapping key Kpw (msl-schemes section 9.3).

    Args:
        encryption: Kpe, 16 bytes.
        mac: Kph, 32 bytes.
    """
    extracted = hmac.digest(_KPW_SALT, encryption + mac, "sha256")
    return hmac.digest(extracted, _KPW_INFO, "sha256")[:16]


def read_material(path: Path, form: Form, profile: KeyProfile) -> OpenMaterial:
    """Read one existing key and check that it fits the profile.

    Args:
        path: the file; at most 64 KiB.
        form: ``hex``, ``raw`` or ``base64`` for symmetric keys, ``pkcs8`` (PEM or DER) for pairs, ``jwk`` for both.
        profile: what the key must be.

    Raises:
        ConfigurationError: the file cannot be read or is open to others, is not of that form, or the key has another
            type or size.
    """
    content = read_key_file(path)
    material: OpenMaterial
    try:
        if profile.type in ("rsa", "ec"):
            material = PrivateMaterial(_private_key(content, form))
        else:
            material = SecretMaterial(_secret(content, form))
    except (ValueError, binascii.Error, TypeError, KeyError, UnsupportedAlgorithm):
        # The parser's own text may quote the key.
        raise ConfigurationError(f"{path}: not a {profile.type} key in {form} form") from None
    _check_fit(path, material, profile)
    return material


def write_new_secret(path: Path, size: int) -> None:
    """Create a hex file, readable by its owner only, with ``size`` fresh random bytes (development ceremonies).

    Raises:
        ConfigurationError: the file exists or cannot be written.
    """
    create_private_file(path, (secrets.token_bytes(size).hex() + "\n").encode())


def read_key_file(path: Path) -> bytes:
    """Return a file that holds a plaintext key. Raises ConfigurationError: unreadable, open to others, too large."""
    try:
        with path.open("rb") as file:
            demand_private(path, file.fileno(), "a key")
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAXIMUM_FILE_BYTES} bytes: this is not a key file")
    return content


def _secret(content: bytes, form: Form) -> bytes:
    match form:
        case "raw":
            return content
        case "hex":
            return bytes.fromhex(content.decode("ascii"))
        case "base64":
            return base64.b64decode(b"".join(content.split()), validate=True)
        case "jwk":
            return secret_from_jwk(json.loads(content))
    raise ValueError(form)


def _private_key(content: bytes, form: Form) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if form == "jwk":
        return private_key_from_jwk(json.loads(content))
    if form != "pkcs8":
        raise ValueError(form)
    load = (
        serialization.load_pem_private_key
        if content.lstrip().startswith(b"-----BEGIN")
        else serialization.load_der_private_key
    )
    key = load(content, None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(form)
    return key


def _check_fit(path: Path, material: OpenMaterial, profile: KeyProfile) -> None:
    if isinstance(material, SecretMaterial):
        if len(material.value) * 8 not in profile.bits:
            raise ConfigurationError(
                f"{path}: holds {len(material.value)} bytes; profile {profile.name} allows "
                f"{', '.join(str(bits // 8) for bits in profile.bits)}"
            )
        return
    key = material.key
    if isinstance(key, rsa.RSAPrivateKey):
        fits = profile.type == "rsa" and key.key_size in profile.bits
        found = f"RSA {key.key_size}"
    else:
        fits = profile.type == "ec" and _CURVES.get(key.curve.name) in profile.curves
        found = f"EC {key.curve.name}"
    if not fits:
        allowed = ", ".join([*map(str, profile.bits), *profile.curves])
        raise ConfigurationError(f"{path}: holds {found}; profile {profile.name} allows {profile.type} {allowed}")

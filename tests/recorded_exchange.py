"""Recorded exchanges of the reference stack, and an opener for answers that shares no code with the project.

The opener works with ``cryptography``, ``json`` and ``base64`` alone, so that an error the project makes in both
directions cannot hide.
"""

from __future__ import annotations

import base64
import gzip
import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_private_key

FOLDER = Path(__file__).parent / "vectors/exchanges"
HANDLED_COMPRESSION = "GZIP"


@dataclass(frozen=True)
class Recording:
    """One file: a client's steps against the reference server, with every secret."""

    name: str
    data: dict[str, Any]

    @property
    def secrets(self) -> dict[str, str]:
        return self.data["secrets"]

    @property
    def pairs(self) -> list[dict[str, Any]]:
        return self.data["exchanges"]

    @property
    def identity(self) -> str:
        """The identity the server knows the client by (msl-schemes section 2.2)."""
        authdata = self.pairs[0]["request"]["entityauthdata"]["authdata"]
        if self.data["entity_auth"] == "PSK_PROFILE":
            return f"{authdata['pskid']}-{authdata['profile']}"
        if self.data["entity_auth"] == "NONE_SUFFIXED":
            return f"{authdata['root']}.{authdata['suffix']}"
        return str(authdata["identity"])

    def client_secret(self, step: str) -> dict[str, Any]:
        """Return the client's one-time key material of a step."""
        return next(result for result in self.data["client_results"] if result["step"] == step)


def recordings(
    *, entity_auth: tuple[str, ...] | None = None, mechanisms: tuple[str | None, ...] | None = None
) -> list[Recording]:
    """Return the recordings, or those of some entity schemes and key exchange mechanisms (None: Diffie-Hellman)."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text())
        if (entity_auth is None or data["entity_auth"] in entity_auth) and (
            mechanisms is None or data["mechanism"] in mechanisms
        ):
            found.append(Recording(path.stem, data))
    return found


def split(body: bytes) -> list[dict[str, Any]]:
    """Return the objects of a message, demanding that nothing stands between them."""
    text = body.decode("ascii")
    objects = []
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        objects.append(value)
        text = text[end:]
    return objects


@dataclass(frozen=True)
class SessionSecret:
    """Raw AES and HMAC keys of one side, as the recording names them."""

    encryption: bytes
    mac: bytes

    def open(self, protected: str, signature: str) -> dict[str, Any]:
        """Verify and decrypt one protected member."""
        envelope = base64.b64decode(protected, validate=True)
        expected = hmac.digest(self.mac, envelope, "sha256")
        assert hmac.compare_digest(expected, base64.b64decode(signature, validate=True))
        parts = json.loads(envelope)
        assert list(parts) == ["ciphertext", "sha256", "keyid", "iv"]
        assert parts["sha256"] == "AA=="
        decryptor = Cipher(algorithms.AES(self.encryption), modes.CBC(base64.b64decode(parts["iv"]))).decryptor()
        padded = decryptor.update(base64.b64decode(parts["ciphertext"])) + decryptor.finalize()
        assert 1 <= padded[-1] <= 16
        return json.loads(padded[: -padded[-1]])


def open_signed(private_pkcs8: bytes, protected: str, signature: str) -> dict[str, Any]:
    """Verify a member signed by the server's RSA key; it is not encrypted."""
    key = load_der_private_key(private_pkcs8, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    data = base64.b64decode(protected, validate=True)
    key.public_key().verify(base64.b64decode(signature), data, padding.PKCS1v15(), hashes.SHA256())
    return json.loads(data)


def open_token(secret: SessionSecret, token: dict[str, str], member: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify a token with the issuer's keys; return its clear part and its decrypted ``member``."""
    data = base64.b64decode(token["tokendata"], validate=True)
    assert hmac.compare_digest(hmac.digest(secret.mac, data, "sha256"), base64.b64decode(token["signature"]))
    clear = json.loads(data)
    envelope = json.loads(base64.b64decode(clear[member]))
    decryptor = Cipher(algorithms.AES(secret.encryption), modes.CBC(base64.b64decode(envelope["iv"]))).decryptor()
    padded = decryptor.update(base64.b64decode(envelope["ciphertext"])) + decryptor.finalize()
    return clear, json.loads(padded[: -padded[-1]])


def payload_of(secret: SessionSecret, chunks: list[dict[str, Any]], message_id: int) -> bytes:
    """Open and join the chunks of a message, demanding the right IDs, numbers and end."""
    data = b""
    for number, chunk in enumerate(chunks, 1):
        inner = secret.open(chunk["payload"], chunk["signature"])
        assert inner["messageid"] == message_id
        assert inner["sequencenumber"] == number
        assert inner.get("endofmsg", False) is (number == len(chunks))
        piece = base64.b64decode(inner["data"])
        algorithm = inner.get("compressionalgo")
        assert algorithm in (None, HANDLED_COMPRESSION)
        data += gzip.decompress(piece) if algorithm else piece
    return data

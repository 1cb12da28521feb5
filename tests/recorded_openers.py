"""Opens recorded and live key responses with the recorded client's secrets; shares no code with the project."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_private_key

from recorded_exchange import Recording, SessionSecret

Open = Callable[[bytes], bytes]
OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


def session_of_response(recording: Recording, pair: dict[str, Any], response: dict[str, Any]) -> SessionSecret:
    """Return the session keys a key response gives the recorded client (msl-schemes sections 5 to 8)."""
    scheme, keydata = response["scheme"], response["keydata"]
    own = recording.client_secret(pair["step"])
    if scheme == "DIFFIE_HELLMAN":
        return _agreed(recording, own, keydata)
    asked = next(r for r in pair["request"]["header"]["keyrequestdata"] if r["scheme"] == scheme)["keydata"]
    if scheme == "ASYMMETRIC_WRAPPED":
        open_key = _rsa_mechanism(own, asked["mechanism"])
    elif scheme == "SYMMETRIC_WRAPPED":
        open_key = _unwrap(bytes.fromhex(recording.secrets["psk_wrap_key_hex"]))
    else:
        open_key = _ladder(recording, scheme, asked, keydata)
    return SessionSecret(*(open_key(base64.b64decode(keydata[name])) for name in ("encryptionkey", "hmackey")))


def _agreed(recording: Recording, own: dict[str, Any], keydata: dict[str, str]) -> SessionSecret:
    prime = int(recording.secrets["dh_p_hex"], 16)
    peer = int.from_bytes(base64.b64decode(keydata["publickey"]), "big")
    shared = pow(peer, int(own["client_dh_x"], 16), prime)
    digest = hashlib.sha384(b"\x00" + shared.to_bytes((shared.bit_length() + 7) // 8, "big")).digest()
    return SessionSecret(digest[:16], digest[16:])


def _rsa_mechanism(own: dict[str, Any], mechanism: str) -> Open:
    key = load_der_private_key(base64.b64decode(own["client_rsa_pkcs8_b64"]), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    oaep: Open = lambda data: key.decrypt(data, OAEP)  # noqa: E731 - one expression, named by its type
    mechanisms: dict[str, Open] = {
        "JWK_RSA": lambda data: _jwk(oaep(data)),
        "JWK_RSAES": lambda data: _jwk(key.decrypt(data, padding.PKCS1v15())),
        "JWE_RSA": lambda data: _jwk(_compact_jwe(data.decode(), oaep)),
        "JWEJS_RSA": lambda data: _jwk(_json_jwe(data, oaep)),
    }
    return mechanisms[mechanism]


def _ladder(recording: Recording, scheme: str, asked: dict[str, str], keydata: dict[str, str]) -> Open:
    issuer = _unwrap(bytes.fromhex(recording.secrets["msl_token_wrap_key_hex"]))
    if asked["mechanism"] == "PSK":
        anchor = bytes.fromhex(recording.secrets["psk_wrap_key_hex"])
    else:
        anchor = issuer(base64.b64decode(asked["wrapdata"]))
    forms: dict[str, Callable[[bytes], Open]] = {
        "JWK_LADDER": lambda kek: lambda data: _jwk(_unwrap(kek)(data)),
        "JWE_LADDER": lambda kek: lambda data: _jwk(_json_jwe(data, _unwrap(kek))),
    }
    form = forms[scheme]
    next_key = form(anchor)(base64.b64decode(keydata["wrapkey"]))
    assert issuer(base64.b64decode(keydata["wrapdata"])) == next_key
    return form(next_key)


def _unwrap(kek: bytes) -> Open:
    return lambda data: aes_key_unwrap(kek, data)


def _url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _jwk(text: bytes) -> bytes:
    jwk = json.loads(text)
    assert jwk["kty"] == "oct"
    assert jwk["extractable"] is False
    return _url(jwk["k"])


def _jwe(header: str, key: str, iv: str, ciphertext: str, tag: str, unwrap: Open) -> bytes:
    assert set(json.loads(_url(header))) == {"alg", "enc"}
    associated = ".".join((header, key, iv)).encode()
    return AESGCM(unwrap(_url(key))).decrypt(_url(iv), _url(ciphertext) + _url(tag), associated)


def _compact_jwe(text: str, unwrap: Open) -> bytes:
    header, key, iv, ciphertext, tag = text.split(".")
    return _jwe(header, key, iv, ciphertext, tag, unwrap)


def _json_jwe(data: bytes, unwrap: Open) -> bytes:
    jwe = json.loads(data)
    (recipient,) = jwe["recipients"]
    return _jwe(
        recipient["header"],
        recipient["encrypted_key"],
        jwe["initialization_vector"],
        jwe["ciphertext"],
        recipient["integrity_value"],
        unwrap,
    )

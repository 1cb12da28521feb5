"""JWK and the draft-era JWE of the key exchanges: shapes and the authenticated text, no cryptography.

These are always JSON text with Base64url values, whatever the encoder format of the message (msl-schemes 1.1, 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary, codec, fields
from hsm_msl.wire.limits import KEY_WRAP_UNIT_BYTES

JWK_USES = frozenset(("sig", "enc", "wrap"))
JWK_KEY_OPS = frozenset(("sign", "verify", "encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"))
JWK_ALGORITHMS = frozenset(("HS256", "RSA1_5", "RSA-OAEP", "A128KW", "A128CBC"))

_JWE_PARTS = 5


@dataclass(frozen=True, slots=True)
class Jwk:
    """A JSON web key in the protocol's dialect; the secret members stay out of its representation.

    ``kty`` is ``oct`` (then ``k`` is set) or ``rsa`` (then ``n`` and at least one of ``e`` and ``d`` are); numbers
    are minimal unsigned big-endian. ``use`` and ``key_ops`` are the two forms of saying what a key is for.
    """

    kty: str = "oct"
    use: str | None = None
    key_ops: tuple[str, ...] | None = None
    alg: str | None = None
    kid: str | None = None
    extractable: bool = False
    k: bytes | None = field(default=None, repr=False)
    n: bytes | None = None
    e: bytes | None = None
    d: bytes | None = field(default=None, repr=False)


def encode_jwk(jwk: Jwk) -> bytes:
    """Write a JWK in the reference's member order.

    Args:
        jwk: the key; members that are None are left out, ``extractable`` is always written.

    Returns:
        The JSON text.

    Source: msl-schemes section 9.1.
    """
    return codec.encode(
        {
            "kty": jwk.kty,
            "use": jwk.use,
            "extractable": jwk.extractable,
            "kid": jwk.kid,
            "key_ops": jwk.key_ops,
            "k": _url(jwk.k),
            "n": _url(jwk.n),
            "e": _url(jwk.e),
            "d": _url(jwk.d),
            "alg": jwk.alg,
        }
    )


def decode_jwk(text: bytes, error: ErrorCode = ErrorCode.INVALID_JWK) -> Jwk:
    """Read a JWK. White space after either brace, which pads it for key wrapping, is part of JSON.

    Args:
        text: the JSON text.
        error: the code when the text is not a JSON object at all; it differs by key exchange.

    Returns:
        The key. Nothing is said about its length, or whether its purposes fit each other.

    Raises:
        MslError: ``error``; UNIDENTIFIED_JWK_TYPE, _USAGE, _KEYOP or _ALGORITHM for unknown names (all are
            case-sensitive); INVALID_JWK_KEYDATA for empty key material; MSL_PARSE_ERROR for a member that is
            missing, of the wrong type or not Base64url.

    Source: msl-schemes section 9.1.
    """
    obj = codec.decode(text, error)
    kty = fields.string(obj, "kty")
    if kty not in ("oct", "rsa"):
        raise MslError(ErrorCode.UNIDENTIFIED_JWK_TYPE, "kty: unknown")
    use = fields.optional_string(obj, "use")
    if use is not None and use not in JWK_USES:
        raise MslError(ErrorCode.UNIDENTIFIED_JWK_USAGE, "use: unknown")
    key_ops = tuple(fields.strings(obj, "key_ops")) if "key_ops" in obj else None
    if key_ops is not None and not JWK_KEY_OPS.issuperset(key_ops):
        raise MslError(ErrorCode.UNIDENTIFIED_JWK_KEYOP, "key_ops: unknown")
    alg = fields.optional_string(obj, "alg")
    if alg is not None and alg not in JWK_ALGORITHMS:
        raise MslError(ErrorCode.UNIDENTIFIED_JWK_ALGORITHM, "alg: unknown")
    extractable = fields.optional_boolean(obj, "extractable", False)
    kid = fields.optional_string(obj, "kid")
    if kty == "oct":
        return Jwk(kty, use, key_ops, alg, kid, extractable, k=_key_data(obj, "k"))
    n = _key_data(obj, "n")
    e = _key_data(obj, "e") if "e" in obj else None
    d = _key_data(obj, "d") if "d" in obj else None
    if e is None and d is None:
        raise MslError(ErrorCode.MSL_PARSE_ERROR, "e: missing, and so is d")
    return Jwk(kty, use, key_ops, alg, kid, extractable, n=n, e=e, d=d)


def pad_jwk(text: bytes) -> bytes:
    """Lengthen a JWK to whole RFC 3394 units with spaces after its opening brace.

    Args:
        text: the JSON text as ``encode_jwk`` wrote it.

    Returns:
        The same object in a multiple of eight bytes.

    Source: msl-schemes section 8.
    """
    return text[:1] + b" " * (-len(text) % KEY_WRAP_UNIT_BYTES) + text[1:]


@dataclass(frozen=True, slots=True)
class Jwe:
    """A JWE taken apart; ``associated`` is the text that the tag authenticates besides the ciphertext."""

    algorithm: str
    encryption: str
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes
    associated: bytes

    def require(self, algorithm: str, encryption: str) -> None:
        """Insist on the configured pair. Raises MslError(JWE_ALGORITHM_MISMATCH) for any other."""
        if (self.algorithm, self.encryption) != (algorithm, encryption):
            raise MslError(ErrorCode.JWE_ALGORITHM_MISMATCH, "alg or enc differs from the mechanism's")


def associated_data(algorithm: str, encryption: str, encrypted_key: bytes, iv: bytes) -> bytes:
    """Return the text to authenticate: header, encrypted key and IV in Base64url, joined by dots.

    Args:
        algorithm: the key management name (``alg``), such as RSA-OAEP or A128KW.
        encryption: the content encryption name (``enc``), A128GCM or A256GCM.
        encrypted_key: the wrapped content key.
        iv: the nonce, 12 bytes.

    Returns:
        The ASCII text. RFC 7516 takes the header alone; the protocol froze an earlier draft.

    Source: msl-schemes section 9.2.
    """
    header = codec.encode({"enc": encryption, "alg": algorithm})
    return ".".join(map(binary.encode_url, (header, encrypted_key, iv))).encode("ascii")


def encode_jwe_compact(associated: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """Write the compact form: the five parts joined by dots.

    Args:
        associated: the text from ``associated_data`` that was authenticated.
        ciphertext: the encrypted content.
        tag: the authentication tag, 16 bytes.

    Returns:
        The ASCII text.

    Source: msl-schemes section 9.2.
    """
    return b".".join((associated, *(binary.encode_url(part).encode("ascii") for part in (ciphertext, tag))))


def encode_jwe_json(associated: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """Write the draft JSON form with its one recipient; arguments as ``encode_jwe_compact``.

    Source: msl-schemes section 9.2.
    """
    header, encrypted_key, iv = associated.decode("ascii").split(".")
    recipient = {"integrity_value": binary.encode_url(tag), "encrypted_key": encrypted_key, "header": header}
    return codec.encode(
        {
            "ciphertext": binary.encode_url(ciphertext),
            "recipients": [recipient],
            "initialization_vector": iv,
        }
    )


def decode_jwe(data: bytes) -> Jwe:
    """Take a JWE apart, in the form its first byte tells; of several recipients only the first counts.

    Args:
        data: the JWE text.

    Returns:
        The parts, with the authenticated text made of the received Base64url as it stands.

    Raises:
        MslError: JWE_PARSE_ERROR for a missing, empty or malformed part; lengths are the cipher's business.

    Source: msl-schemes section 9.2.
    """
    parts = _json_parts(data) if data.startswith(b"{") else _compact_parts(data)
    values = [binary.decode_url(part, ErrorCode.JWE_PARSE_ERROR) for part in parts]
    if not all(values):
        raise MslError(ErrorCode.JWE_PARSE_ERROR, "empty part")
    header, encrypted_key, iv, ciphertext, tag = values
    names = codec.decode(header, ErrorCode.JWE_PARSE_ERROR)
    return Jwe(
        algorithm=fields.string(names, "alg", ErrorCode.JWE_PARSE_ERROR),
        encryption=fields.string(names, "enc", ErrorCode.JWE_PARSE_ERROR),
        encrypted_key=encrypted_key,
        iv=iv,
        ciphertext=ciphertext,
        tag=tag,
        associated=".".join(parts[:3]).encode("ascii"),
    )


def _compact_parts(data: bytes) -> list[str]:
    if not data.isascii() or data.count(b".") != _JWE_PARTS - 1:
        raise MslError(ErrorCode.JWE_PARSE_ERROR, "not five parts")
    return data.decode("ascii").split(".")


def _json_parts(data: bytes) -> list[str]:
    error = ErrorCode.JWE_PARSE_ERROR
    obj = codec.decode(data, error)
    recipients = fields.mappings(obj, "recipients", error)
    if not recipients:
        raise MslError(error, "recipients: empty")
    return [
        fields.string(recipients[0], "header", error),
        fields.string(recipients[0], "encrypted_key", error),
        fields.string(obj, "initialization_vector", error),
        fields.string(obj, "ciphertext", error),
        fields.string(recipients[0], "integrity_value", error),
    ]


def _url(value: bytes | None) -> str | None:
    return None if value is None else binary.encode_url(value)


def _key_data(obj: Mapping[str, Any], name: str) -> bytes:
    value = binary.decode_url(fields.string(obj, name))
    if not value:
        raise MslError(ErrorCode.INVALID_JWK_KEYDATA, f"{name}: empty")
    return value

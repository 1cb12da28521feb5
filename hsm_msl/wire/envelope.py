"""Ciphertext and signature envelopes: the bytes between a crypto operation and an MSL field (sections 4.2, 4.3)."""

from __future__ import annotations

import re

import pybase64

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import codec, fields

SIGNATURE_ALGORITHMS = frozenset(("HmacSHA256", "SHA256withRSA", "AESCmac"))
"""Algorithm names of version 2 signature envelopes."""

_PARSE = ErrorCode.CIPHERTEXT_ENVELOPE_PARSE_ERROR
_HEAD = b'{"ciphertext":"'
_HEAD_BYTES = len(_HEAD)
# The rest of an envelope in the reference's member order with plain text only; all else takes the general reader.
_TAIL = re.compile(rb'","sha256":"AA==","keyid":"[ !#-\[\]-~]*"(?:,"iv":"([A-Za-z0-9+/]{22}==)")?\}\Z')
_OPENING_BRACE = 0x7B
_VERSION_2 = 2


def key_id_json(text: str) -> bytes:
    """Write a key ID as the quoted JSON text that ``encode_ciphertext`` takes, once per context.

    Raises:
        MslError: MSL_ENCODE_ERROR for text with lone surrogates.
    """
    return codec.encode_text(text)


def encode_ciphertext(key_id_json: bytes, iv: bytes | None, ciphertext: bytes) -> bytes:
    """Write a version 1 ciphertext envelope.

    Args:
        key_id_json: the key ID as ``key_id_json`` returned it.
        iv: the initialisation vector, 16 bytes for AES; None (RSA) leaves the member out.
        ciphertext: the encrypted bytes, may be empty.

    Returns:
        The envelope in the reference's member order, with the constant ``sha256`` every stack sends.

    Source: msl-wire section 4.2; member order from the clients that cut the text at fixed places.
    """
    if iv is None:
        return b'{"ciphertext":"%b","sha256":"AA==","keyid":%b}' % (pybase64.b64encode(ciphertext), key_id_json)
    return b'{"ciphertext":"%b","sha256":"AA==","keyid":%b,"iv":"%b"}' % (
        pybase64.b64encode(ciphertext),
        key_id_json,
        pybase64.b64encode(iv),
    )


def decode_ciphertext(data: bytes) -> tuple[bytes | None, bytes]:
    """Read a version 1 ciphertext envelope.

    The key ID must be text and ``sha256`` must be Base64; no stack compares either, so their values are dropped.
    A ``version`` member is ignored, which refuses a pure version 2 envelope for want of the other members.

    Args:
        data: the envelope; its signature has been verified already.

    Returns:
        The initialisation vector (None when absent, its length is the crypto context's business) and the ciphertext.

    Raises:
        MslError: CIPHERTEXT_ENVELOPE_PARSE_ERROR for anything else.

    Source: msl-wire section 4.2.
    """
    if data.startswith(_HEAD):
        end = data.find(b'"', _HEAD_BYTES)
        tail = _TAIL.match(data, end) if end > 0 else None
        if tail is not None:
            try:
                ciphertext = pybase64.b64decode(data[_HEAD_BYTES:end], None, True)
            except ValueError:
                pass  # White space or an escape inside: legal, but for the general reader.
            else:
                iv = tail[1]
                return (None if iv is None else pybase64.b64decode(iv, None, True)), ciphertext
    envelope = codec.decode(data, _PARSE)
    fields.string(envelope, "keyid", _PARSE)
    iv = fields.optional_binary(envelope, "iv", _PARSE)
    ciphertext = fields.binary(envelope, "ciphertext", _PARSE)
    fields.binary(envelope, "sha256", _PARSE)
    return iv, ciphertext


def encode_signature(algorithm: str, signature: bytes) -> bytes:
    """Write a version 2 signature envelope, which the Java and C++ stacks read; nobody emits it.

    Args:
        algorithm: one of ``SIGNATURE_ALGORITHMS``.
        signature: the raw signature.

    Returns:
        The envelope.

    Source: msl-wire section 4.3.
    """
    return b'{"signature":"%b","version":2,"algorithm":%b}' % (
        pybase64.b64encode(signature),
        codec.encode_text(algorithm),
    )


def decode_signature(data: bytes) -> tuple[str | None, bytes]:
    """Tell the version of a signature envelope and return what is in it.

    Args:
        data: the bytes of a ``signature`` member.

    Returns:
        ``(None, data)`` for version 1, which is every value that is not a complete version 2 envelope with a known
        algorithm; otherwise the algorithm name, which the caller must hold against its key, and the raw signature.

    Source: msl-wire section 4.3. Raises nothing: whatever this is, verification decides.
    """
    if not data or data[0] != _OPENING_BRACE:
        return None, data
    try:
        envelope = codec.decode(data)
        if fields.integer(envelope, "version") != _VERSION_2:
            return None, data
        algorithm = fields.string(envelope, "algorithm")
        signature = fields.binary(envelope, "signature")
    except MslError:
        return None, data
    return (algorithm, signature) if algorithm in SIGNATURE_ALGORITHMS else (None, data)

"""Binary values as text: the Base64 of MSL objects and the Base64url of JWK and JWE (msl-wire section 2.5)."""

from __future__ import annotations

import pybase64

from hsm_msl.errors import ErrorCode, MslError

_WHITE_SPACE = dict.fromkeys(map(ord, " \t\r\n"))
_WHITE_SPACE_BYTES = b" \t\r\n"


def encode(data: bytes) -> str:
    """Write bytes as standard padded Base64 without line breaks; empty bytes are the empty text.

    Source: msl-wire section 2.3, rule 3.
    """
    return pybase64.b64encode_as_string(data)


def decode(text: str | bytes, error: ErrorCode = ErrorCode.MSL_PARSE_ERROR) -> bytes:
    """Read standard padded Base64; space, tab, CR and LF inside are skipped, unused bits are dropped.

    Args:
        text: the Base64 text, as text or as its ASCII bytes.
        error: the code to refuse with.

    Returns:
        The bytes.

    Raises:
        MslError: ``error`` for a foreign character (URL-safe ones included), missing or misplaced padding, or data
            after padding.

    Source: msl-wire section 2.5.
    """
    try:
        return pybase64.b64decode(text, None, True)
    except ValueError:
        pass
    spaceless = text.translate(_WHITE_SPACE) if isinstance(text, str) else text.translate(None, _WHITE_SPACE_BYTES)
    try:
        return pybase64.b64decode(spaceless, None, True)
    except ValueError:
        # The cause is dropped: nothing of the value may reach a log.
        raise MslError(error, "malformed Base64") from None


def encode_url(data: bytes) -> str:
    """Write bytes as Base64url without padding (RFC 7515 section 2)."""
    return pybase64.b64encode_as_string(data, b"-_").rstrip("=")


def decode_url(text: str, error: ErrorCode = ErrorCode.MSL_PARSE_ERROR) -> bytes:
    """Read Base64url without padding; unused bits are dropped.

    Args:
        text: the Base64url text.
        error: the code to refuse with.

    Returns:
        The bytes.

    Raises:
        MslError: ``error`` for a foreign character (padding, white space, ``+`` and ``/`` included) or an impossible
            length.

    Source: RFC 7515 section 2; msl-schemes section 1.1.
    """
    if "+" in text or "/" in text or "=" in text:
        raise MslError(error, "malformed Base64url")
    try:
        return pybase64.b64decode(text + "=" * (-len(text) % 4), b"-_", True)
    except ValueError:
        raise MslError(error, "malformed Base64url") from None

"""Checks every client store makes before it looks (msl-engine section 16)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports.client import UserIdTokenKey
from hsm_msl.wire.limits import MAX_LONG


def check_query(master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None) -> None:
    """Refuse to look for service tokens of a user ID token outside its master token.

    Raises:
        MslError: USERIDTOKEN_MASTERTOKEN_NULL, USERIDTOKEN_MASTERTOKEN_MISMATCH.
    """
    if user_id_token is not None and master_token_serial_number is None:
        raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_NULL)
    check_binding(master_token_serial_number, user_id_token)


def check_binding(master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None) -> None:
    """Refuse two tokens that are given together and not bound. Raises MslError USERIDTOKEN_MASTERTOKEN_MISMATCH."""
    if (
        user_id_token is not None
        and master_token_serial_number is not None
        and user_id_token.master_token_serial_number != master_token_serial_number
    ):
        raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH)


def following(last: int) -> int:
    """Return the number after ``last``; 0 comes after 2^53 (msl-engine section 14)."""
    return 0 if last == MAX_LONG else last + 1

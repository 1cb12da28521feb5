"""The error header: one object, always under the sender's entity authentication (msl-wire section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_msl.crypto.context import protect, unprotect
from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.base import EntityAuthData
from hsm_msl.wire import codec, fields

_NAMES = {code.value: code.name for code in ErrorCode}
_RESPONSES = {code.value: code for code in ResponseCode}


@dataclass(frozen=True, slots=True)
class ErrorHeader:
    """An MSL error as received.

    Attributes:
        entity_auth: who says so.
        message_id: the ID of the error message.
        response: what to do about it; unknown values are read as FAIL.
        internal_code: the wire number, or -1 when absent; unknown numbers are kept as they are.
        message: developer text.
        user_message: localised text for a user.
        timestamp: the sender's time, seconds.
    """

    entity_auth: EntityAuthData
    message_id: int
    response: ResponseCode
    internal_code: int = -1
    message: str | None = None
    user_message: str | None = None
    timestamp: int | None = None

    @property
    def name(self) -> str:
        """The name of the internal code, for people."""
        return _NAMES.get(self.internal_code, "unknown code")

    def __str__(self) -> str:
        """Say the error in one line, and its name once: developer texts often begin with it."""
        detail = self.user_message or f"{self.message or self.name}: ".removeprefix(f"{self.name}: ")[:-2]
        return f"{self.response.name} ({self.internal_code} {self.name})" + (f": {detail}" if detail else "")


def encode_error_header(
    context: MslContext,
    message_id: int,
    code: ErrorCode,
    message: str | None = None,
    user_message: str | None = None,
) -> bytes:
    """Write an error message.

    Args:
        context: the sending entity.
        message_id: ID of the answered message + 1, or a random one.
        code: the error; its response code goes along.
        message: developer text without secrets.
        user_message: localised text.

    Returns:
        The one object of the message.

    Raises:
        MslError, BackendError: this entity cannot protect the message.
    """
    data: dict[str, object] = {"internalcode": code.value, "messageid": message_id}
    if user_message:
        data["usermsg"] = user_message
    data["errorcode"] = code.response.value
    data["errormsg"] = message or code.name
    data["timestamp"] = int(context.clock())
    local = context.local
    protected, signature = protect(local.context, codec.encode(data))
    return codec.encode({"signature": signature, "errordata": protected, "entityauthdata": local.data.to_wire()})


def decode_error_header(
    context: MslContext, entity: EntityAuthData | None, protected: bytes, signature: bytes
) -> ErrorHeader:
    """Authenticate and read an error message.

    Raises:
        MslError: HEADER_DATA_MISSING, MESSAGE_ENTITY_NOT_FOUND, MESSAGE_VERIFICATION_FAILED, MSL_PARSE_ERROR,
            MESSAGE_ID_OUT_OF_RANGE, INTERNAL_CODE_NEGATIVE, or what the entity's scheme raises.
        BackendError, StoreError: no answer.
    """
    if not protected:
        raise MslError(ErrorCode.HEADER_DATA_MISSING)
    if entity is None:
        raise MslError(ErrorCode.MESSAGE_ENTITY_NOT_FOUND)
    crypto = context.entity_schemes[entity.scheme].context(entity)
    data = codec.decode(unprotect(crypto, protected, signature, ErrorCode.MESSAGE_VERIFICATION_FAILED))
    message_id = fields.integer(data, "messageid")
    fields.ranged(message_id, ErrorCode.MESSAGE_ID_OUT_OF_RANGE)
    timestamp = fields.optional_integer(data, "timestamp")
    response = _RESPONSES.get(fields.integer(data, "errorcode"), ResponseCode.FAIL)
    internal = fields.optional_integer(data, "internalcode")
    if internal is not None and internal < 0:
        raise MslError(ErrorCode.INTERNAL_CODE_NEGATIVE)
    message, user_message = data.get("errormsg"), data.get("usermsg")
    return ErrorHeader(
        entity,
        message_id,
        response,
        -1 if internal is None else internal,
        message if isinstance(message, str) else None,
        user_message if isinstance(user_message, str) else None,
        timestamp,
    )

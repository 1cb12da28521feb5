"""Service tokens: named data an application keeps with the other side (msl-wire section 8.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.master_token import MasterToken, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.wire import binary, codec, compression, fields

ServiceTokenKeys = Mapping[str, CryptoContext]
"""Contexts by token name; the empty name is the default."""


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A service token; ``data`` is None where it is opaque here. Empty data means: deleted."""

    tokendata: str
    signature: str
    name: str
    master_token_serial_number: int | None
    user_id_token_serial_number: int | None
    data: bytes | None

    @property
    def deleted(self) -> bool:
        """Whether this is the marker that tells the receiver to forget the token."""
        return self.data == b""

    @property
    def identity(self) -> tuple[str, bool, bool]:
        """What replaces and deletes match on: name and kind of binding (msl-engine section 13.3)."""
        return self.name, self.master_token_serial_number is not None, self.user_id_token_serial_number is not None

    @property
    def key(self) -> tuple[str, int | None, int | None]:
        """What makes two tokens the same one on the wire: name and both serial numbers."""
        return self.name, self.master_token_serial_number, self.user_id_token_serial_number

    def to_wire(self) -> dict[str, object]:
        """Return the token as it was received or made."""
        return {"tokendata": self.tokendata, "signature": self.signature}

    def check_binding(self, master_token: MasterToken | None, user_id_token: UserIdToken | None) -> None:
        """Refuse a token bound to another master token or user ID token than the message's.

        Raises:
            MslError: SERVICETOKEN_MASTERTOKEN_MISMATCH, SERVICETOKEN_USERIDTOKEN_MISMATCH.
        """
        serial = self.master_token_serial_number
        if serial is not None and (master_token is None or master_token.serial_number != serial):
            raise MslError(ErrorCode.SERVICETOKEN_MASTERTOKEN_MISMATCH)
        serial = self.user_id_token_serial_number
        if serial is not None and (user_id_token is None or user_id_token.serial_number != serial):
            raise MslError(ErrorCode.SERVICETOKEN_USERIDTOKEN_MISMATCH)


def parse_service_token(
    obj: Mapping[str, Any],
    keys: ServiceTokenKeys,
    cache: TokenCache,
    master_token: MasterToken | None,
    user_id_token: UserIdToken | None,
) -> ServiceToken:
    """Read a service token; one that does not verify stays opaque and never fails the message.

    Args:
        obj: the token as decoded from the message.
        keys: contexts by name.
        cache: verified tokens, so that keys held in an HSM are asked once per token.
        master_token: the verification master token of the message.
        user_id_token: the message's user ID token.

    Raises:
        MslError: the codes of msl-wire section 8.3, bindings last.
        BackendError: a service token key in a token gave no answer.
    """
    token: ServiceToken | None = cache.get(obj.get("tokendata"), obj.get("signature"))
    if token is None:
        token = _parse(obj, keys, cache)
    token.check_binding(master_token, user_id_token)
    return token


def _parse(obj: Mapping[str, Any], keys: ServiceTokenKeys, cache: TokenCache) -> ServiceToken:
    tokendata = fields.string(obj, "tokendata")
    signature = fields.string(obj, "signature")
    raw = binary.decode(tokendata)
    if not raw:
        raise MslError(ErrorCode.SERVICETOKEN_TOKENDATA_MISSING)
    inner = codec.decode(raw)
    name = fields.string(inner, "name")
    master = fields.optional_integer(inner, "mtserialnumber")
    user = fields.optional_integer(inner, "uitserialnumber")
    encrypted = fields.boolean(inner, "encrypted")
    algorithm = fields.optional_string(inner, "compressionalgo")
    data = fields.binary(inner, "servicedata")
    if master is not None:
        fields.ranged(master, ErrorCode.SERVICETOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE)
    if user is not None:
        fields.ranged(user, ErrorCode.SERVICETOKEN_USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE)
    if algorithm is not None and algorithm not in compression.ALGORITHMS:
        raise MslError(ErrorCode.UNIDENTIFIED_COMPRESSION)
    context = keys.get(name) or keys.get("")
    content: bytes | None = None
    # Empty data deletes the token whoever signed it, unless its signer calls it compressed: GZIP makes nothing empty.
    if (data or algorithm is not None) and context is not None and context.verify(raw, binary.decode(signature)):
        content = context.decrypt(data) if encrypted and data else data
        if algorithm is not None:
            content = compression.uncompress(algorithm, content)
    elif not data:
        content = b""
    token = ServiceToken(tokendata, signature, name, master, user, content)
    if content:
        cache.put(tokendata, signature, token)
    return token


def make_service_token(
    name: str,
    data: bytes,
    context: CryptoContext,
    *,
    master_token: MasterToken | None = None,
    user_id_token: UserIdToken | None = None,
    encrypted: bool = True,
    algorithm: str | None = None,
) -> ServiceToken:
    """Make a service token, bound to the tokens given.

    Args:
        name: the token's name.
        data: what it carries; empty makes a deletion marker for a receiver without the keys.
        context: the keys for this name; the null context for a deletion marker.
        master_token: bind to it.
        user_id_token: bind to it, and then also to its master token.
        encrypted: whether ``data`` is encrypted.
        algorithm: compression to try; used only when it makes the data strictly shorter.

    Raises:
        MslError: USERIDTOKEN_MASTERTOKEN_MISMATCH when the two tokens do not belong together, or a crypto code.
        BackendError: a key operation did not happen.
    """
    if user_id_token is not None and not user_id_token.is_bound_to(master_token):
        raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH)
    compressed = compression.compress(algorithm, data) if algorithm is not None else None
    content = data if compressed is None else compressed
    inner: dict[str, object] = {}
    if master_token is not None:
        inner["mtserialnumber"] = master_token.serial_number
    inner["encrypted"] = encrypted
    inner["name"] = name
    if compressed is not None and algorithm is not None:
        inner["compressionalgo"] = algorithm
    inner["servicedata"] = binary.encode(context.encrypt(content) if encrypted and content else content)
    if user_id_token is not None:
        inner["uitserialnumber"] = user_id_token.serial_number
    raw = codec.encode(inner)
    return ServiceToken(
        binary.encode(raw),
        binary.encode(context.sign(raw)),
        name,
        None if master_token is None else master_token.serial_number,
        None if user_id_token is None else user_id_token.serial_number,
        data,
    )

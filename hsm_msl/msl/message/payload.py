"""Payload chunks: application data, protected piece by piece (msl-wire section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary, codec, compression, fields

FIRST_CHUNK_NUMBER = 1


class Chunk(msgspec.Struct, frozen=True):
    """One chunk as received: its data, uncompressed, and whether it ends the message."""

    data: bytes
    end_of_message: bool


def encode_chunk(
    context: CryptoContext, message_id: int, sequence_number: int, data: bytes, *, end: bool, algorithm: str | None
) -> bytes:
    """Write one chunk; Base64 and numbers need no escaping, so the text is put together directly.

    Args:
        context: what protects the payload.
        message_id: the header's.
        sequence_number: 1 for the first chunk.
        data: what the chunk carries; may be empty only with ``end``.
        end: whether it is the last one.
        algorithm: compression to try; used only when the data gets strictly shorter and stays inflatable.

    Raises:
        MslError: the context lacks a key.
        BackendError: a key operation did not happen.
    """
    compressed = compression.compress(algorithm, data) if algorithm is not None and data else None
    parts = [
        '{"data":"',
        binary.encode(data if compressed is None else compressed),
        f'","messageid":{message_id}',
        f',"compressionalgo":"{algorithm}"' if compressed is not None else "",
        ',"endofmsg":true' if end else "",
        f',"sequencenumber":{sequence_number}}}',
    ]
    protected = context.encrypt("".join(parts).encode())
    signature = binary.encode(context.sign(protected))
    return f'{{"payload":"{binary.encode(protected)}","signature":"{signature}"}}'.encode()


def decode_chunk(context: CryptoContext, message_id: int, sequence_number: int, outer: Mapping[str, Any]) -> Chunk:
    """Verify, decrypt and read the chunk that must come next.

    Args:
        context: what protects the payload.
        message_id: the header's.
        sequence_number: the number this chunk must have.
        outer: the chunk's object.

    Raises:
        MslError: the codes of msl-wire section 7, in that order.
        BackendError: a key operation did not happen.
    """
    protected = fields.binary(outer, "payload")
    signature = fields.binary(outer, "signature")
    if not context.verify(protected, signature):
        raise MslError(ErrorCode.PAYLOAD_VERIFICATION_FAILED)
    inner = codec.decode(context.decrypt(protected))
    sequence = fields.integer(inner, "sequencenumber")
    fields.ranged(sequence, ErrorCode.PAYLOAD_SEQUENCE_NUMBER_OUT_OF_RANGE)
    owner = fields.integer(inner, "messageid")
    fields.ranged(owner, ErrorCode.PAYLOAD_MESSAGE_ID_OUT_OF_RANGE)
    end = fields.optional_boolean(inner, "endofmsg", False)
    algorithm = fields.optional_string(inner, "compressionalgo")
    if algorithm is not None and algorithm not in compression.ALGORITHMS:
        raise MslError(ErrorCode.UNIDENTIFIED_COMPRESSION)
    data = fields.binary(inner, "data")
    if not data:
        if not end:
            raise MslError(ErrorCode.PAYLOAD_DATA_MISSING)
    elif algorithm is not None:
        data = compression.uncompress(algorithm, data)
    if owner != message_id:
        raise MslError(ErrorCode.PAYLOAD_MESSAGE_ID_MISMATCH)
    if sequence != sequence_number:
        raise MslError(ErrorCode.PAYLOAD_SEQUENCE_NUMBER_MISMATCH)
    return Chunk(data, end)

"""Packets in HTTP bodies: one alone, or several behind 4-byte lengths (dialog section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from hsm_msl.dialog.names import MAX_PACKET, MEDIA_TYPE, STREAM_MEDIA_TYPE
from hsm_msl.errors import LimitExceededError, TruncatedMessageError

MAX_BODY = 4 * MAX_PACKET
MAX_PACKETS = 1024


def frame(packets: Sequence[bytes]) -> tuple[str, bytes]:
    """Return media type and body for packets; none at all make an empty body."""
    if len(packets) == 1:
        return MEDIA_TYPE, packets[0]
    return STREAM_MEDIA_TYPE, b"".join(len(packet).to_bytes(4) + packet for packet in packets)


def unframe(media_type: str, body: bytes) -> list[bytes]:
    """Return the packets of a body.

    Raises LimitExceededError for too many packets, a packet or body that is too large, TruncatedMessageError for a
    body that ends early, ValueError for another media type.
    """
    kind = media_type.split(";")[0].strip().lower()
    if len(body) > MAX_BODY:
        raise LimitExceededError("body too large")
    if not body:
        return []
    if kind == MEDIA_TYPE:
        return [body]
    if kind != STREAM_MEDIA_TYPE:
        raise ValueError("another media type")
    packets: list[bytes] = []
    position = 0
    while position < len(body):
        if len(packets) == MAX_PACKETS:
            raise LimitExceededError(f"more than {MAX_PACKETS} packets")
        size = int.from_bytes(body[position : position + 4])
        if size > MAX_PACKET:
            raise LimitExceededError("packet too large")
        packets.append(body[position + 4 : position + 4 + size])
        position += 4 + size
        if position > len(body):
            raise TruncatedMessageError("the last packet is cut off")
    return packets

"""The packet: an immutable core, extensions that change between transmissions, a sealed body, a tag (section 4)."""

from __future__ import annotations

import hashlib

import msgspec

from hsm_msl.dialog.encoding import decode, decode_loosely, encode, head, walk
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import (
    HASH_SIZE,
    ID_SIZE,
    MAGIC,
    MAX_FRAGMENTS,
    MAX_HEADERS,
    MAX_NAME,
    MAX_PACKET,
    MAX_RANGES,
    MAX_SEQ,
    PLAIN,
    SEQUENCED,
    TAG_SIZE,
    Kind,
    Reason,
)

_START = b"\x85\x64" + MAGIC.encode()
_TAG_HEAD = head(2, TAG_SIZE)
_NIL = b"\xf6"
_WALKED = 8 * 1024
_MOST_ITEMS = 128
"""More than a packet has (the five parts, and what extensions there are), and few enough to cost nothing."""
NO_TAG = bytes(TAG_SIZE)
"""The tag of a bare packet: whoever cannot authenticate sends a hint and nothing more."""


class Core(msgspec.Struct, frozen=True, kw_only=True):
    """What never changes for one (dialog, direction, seq, fragment); the associated data of the body.

    ``generation`` 0 says that the packet is tagged with the system key of the *receiver's* session key ``dsk_id``.
    """

    dialog: bytes
    direction: int
    kind: int
    seq: int
    frag: int = 0
    count: int = 1
    message_type: str | None = None
    generation: int
    dsk_id: bytes
    suite: int
    sender: str | None = None
    receiver: str | None = None
    expiry: int
    contract: str | None = None

    def encode(self) -> bytes:
        """Return the deterministic encoding (keys ascend)."""
        fields: dict[int, object] = {
            1: self.dialog,
            2: self.direction,
            3: int(self.kind),
            4: self.seq,
            5: [self.frag, self.count],
        }
        if self.message_type is not None:
            fields[6] = self.message_type
        fields[7] = self.generation
        fields[8] = self.dsk_id
        fields[9] = self.suite
        if self.sender is not None:
            fields[10] = self.sender
        if self.receiver is not None:
            fields[11] = self.receiver
        fields[12] = self.expiry
        if self.contract is not None:
            fields[13] = self.contract
        return encode(fields)


class Ack(msgspec.Struct, frozen=True):
    """The next sequence number expected, and what arrived beyond it as inclusive ranges, at most eight."""

    expected: int
    ranges: tuple[tuple[int, int], ...] = ()


class Ext(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ between two transmissions of one core; covered by the tag.

    ``rewrap`` carries the session key under a later KEK than the one its header names: (KEK id, wrapped key).
    ``base`` is the sender's lowest unacknowledged sequence number, from which a receiver learns that it lost state.
    """

    pair: bytes | None = None
    kek: bytes | None = None
    dsk: bytes | None = None
    ack: Ack | None = None
    sent_at: int | None = None
    attempt: int | None = None
    shift_ack: int | None = None
    rewrap: tuple[bytes, bytes] | None = None
    notice: bytes | None = None
    reason: int | None = None
    base: int | None = None

    def encode(self) -> bytes:
        """Return the deterministic encoding (keys ascend)."""
        ack = None
        if self.ack is not None:
            ack = [self.ack.expected, [list(pair) for pair in self.ack.ranges]]
        values = (
            self.pair,
            self.kek,
            self.dsk,
            ack,
            self.sent_at,
            self.attempt,
            self.shift_ack,
            None if self.rewrap is None else list(self.rewrap),
            self.notice,
            self.reason,
            self.base,
        )
        return encode({key: value for key, value in enumerate(values, 1) if value is not None})


class Packet(msgspec.Struct, frozen=True):
    """A packet with the bytes its parts were read from."""

    core: Core
    ext: Ext
    core_bytes: bytes
    ext_bytes: bytes
    body: bytes
    tag: bytes

    def covered(self) -> bytes:
        """Return what the tag is computed over."""
        return tag_input(self.core_bytes, self.ext_bytes, self.body)

    def digest(self) -> bytes:
        """Return SHA-256 over core and body, by which a duplicate is told from a collision."""
        return content_digest(self.core_bytes, self.body)

    @property
    def bare(self) -> bool:
        """Whether the packet carries no authentication at all."""
        return self.tag == NO_TAG


def tag_input(core: bytes, ext: bytes, body: bytes) -> bytes:
    """Return what the packet tag is computed over (section 4)."""
    return MAGIC.encode() + core + ext + hashlib.sha256(body).digest()


def content_digest(core: bytes, body: bytes) -> bytes:
    """Return SHA-256 over core and body."""
    digest = hashlib.sha256(core)
    digest.update(body)
    return digest.digest()


def assemble(core: bytes, ext: bytes, body: bytes, tag: bytes) -> bytes:
    """Return the packet of these parts; an empty body travels as nil."""
    sealed = head(2, len(body)) + body if body else _NIL
    return b"".join((_START, head(2, len(core)), core, ext, sealed, _TAG_HEAD, tag))


def parse(data: bytes) -> Packet:
    """Take a packet apart.

    Raises PacketError for whatever is not exactly one packet within the limits (section 3): wrong shape, sizes, types
    or an encoding that is not the deterministic one.
    """
    if len(data) > MAX_PACKET:
        raise PacketError("packet too large")
    if len(data) > _WALKED:
        walk(data, _MOST_ITEMS)
    outer = decode_loosely(data)
    if not isinstance(outer, list) or len(outer) != 5:
        raise PacketError("a packet has five parts")
    magic, core_bytes, ext_item, body, tag = outer
    if magic != MAGIC or not isinstance(core_bytes, bytes) or not isinstance(ext_item, dict):
        raise PacketError("parts of the wrong type")
    if (body is not None and not isinstance(body, bytes)) or not isinstance(tag, bytes) or len(tag) != TAG_SIZE:
        raise PacketError("parts of the wrong type")
    core = parse_core(core_bytes)
    if (core.kind in SEQUENCED) != bool(body):
        raise PacketError("a body where none belongs, or none where one belongs")
    ext = _parse_ext(ext_item)
    ext_bytes = ext.encode()
    if len(ext_bytes) > MAX_HEADERS:
        raise PacketError("headers too large")
    # Building the one deterministic encoding and comparing proves the outer layer in one pass.
    if assemble(core_bytes, ext_bytes, body or b"", tag) != data:
        raise PacketError("not deterministic CBOR")
    return Packet(core, ext, core_bytes, ext_bytes, body or b"", tag)


def parse_core(data: bytes) -> Core:
    """Read a core. Raises PacketError when a field is missing, unknown, of the wrong type or out of range."""
    if len(data) > MAX_HEADERS:
        raise PacketError("core too large")
    fields = decode(data)
    if not isinstance(fields, dict) or not set(fields) <= _CORE_KEYS:
        raise PacketError("unknown field in core")
    try:
        dialog, direction, kind, seq = fields[1], fields[2], fields[3], fields[4]
        part = fields[5]
        generation, dsk_id, suite, expiry = fields[7], fields[8], fields[9], fields[12]
    except KeyError as error:
        raise PacketError("core is incomplete") from error
    if not isinstance(part, list) or len(part) != 2:
        raise PacketError("fragment is not a pair of numbers")
    frag, count = part
    for number in (direction, kind, seq, frag, count, generation, suite, expiry):
        if type(number) is not int or not 0 <= number <= MAX_SEQ:
            raise PacketError("core number out of range")
    for identifier in (dialog, dsk_id):
        if not isinstance(identifier, bytes) or len(identifier) != ID_SIZE:
            raise PacketError("core identifier of the wrong size")
    if direction > 1 or not 1 <= kind <= Kind.ABORT:
        raise PacketError("core number out of range")
    if not 1 <= count <= MAX_FRAGMENTS or frag >= count or (kind != Kind.APP and count != 1):
        raise PacketError("fragment out of range")
    if (kind in SEQUENCED) != (seq > 0) or (kind in SEQUENCED and generation == 0):
        raise PacketError("sequence number or generation does not fit the kind")
    if (kind == Kind.APP) != (6 in fields):
        raise PacketError("message type does not fit the kind")
    return Core(
        dialog=dialog,
        direction=direction,
        kind=kind,
        seq=seq,
        frag=frag,
        count=count,
        message_type=_name(fields, 6),
        generation=generation,
        dsk_id=dsk_id,
        suite=suite,
        sender=_name(fields, 10),
        receiver=_name(fields, 11),
        expiry=expiry,
        contract=_name(fields, 13),
    )


_CORE_KEYS = frozenset(range(1, 14))


def readable(kind: int, plaintext: bytes) -> bool:
    """Tell whether the first fragment of a message begins one in a form that is known here."""
    if not plaintext.startswith(PLAIN):
        return False
    if kind != Kind.END_WITH_ERROR:
        return True
    try:
        parse_error(plaintext[len(PLAIN) :])
    except PacketError:
        return False
    return True


def parse_error(body: bytes) -> tuple[int, str]:
    """Read code and text of an end with an error. Raises PacketError for anything else."""
    item = decode(body)
    if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not int or not isinstance(item[1], str):
        raise PacketError("malformed error")
    return item[0], item[1]


def _name(fields: dict[int, object], key: int) -> str | None:
    value = fields.get(key)
    if value is None and key not in fields:
        return None
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_NAME:
        raise PacketError("name of the wrong type or size")
    return value


def _parse_ext(item: dict[object, object]) -> Ext:
    values: dict[str, object] = {}
    for key, value in item.items():
        if type(key) is not int or key not in _EXT_FIELDS:
            raise PacketError("unknown extension")
        name, check = _EXT_FIELDS[key]
        values[name] = check(value)
    return msgspec.convert(values, Ext) if values else Ext()


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes) or not value or len(value) > MAX_HEADERS:
        raise PacketError("header of the wrong type or size")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise PacketError("extension number out of range")
    return value


def _reason(value: object) -> int:
    number = _number(value)
    if not 1 <= number <= max(Reason):
        raise PacketError("unknown reason")
    return number


def _ack(value: object) -> Ack:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        raise PacketError("malformed acknowledgement")
    expected, previous, ranges = _number(value[0]), _number(value[0]), []
    if expected < 1 or len(value[1]) > MAX_RANGES:
        raise PacketError("malformed acknowledgement")
    for pair in value[1]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise PacketError("malformed acknowledgement")
        low, high = _number(pair[0]), _number(pair[1])
        if not previous < low <= high:
            raise PacketError("malformed acknowledgement")
        previous = high
        ranges.append((low, high))
    return Ack(expected, tuple(ranges))


def _rewrap(value: object) -> tuple[bytes, bytes]:
    if not isinstance(value, list) or len(value) != 2:
        raise PacketError("malformed rewrap")
    kek_id, wrapped = _blob(value[0]), _blob(value[1])
    if len(kek_id) != ID_SIZE or len(wrapped) > 2 * HASH_SIZE:
        raise PacketError("malformed rewrap")
    return kek_id, wrapped


_EXT_FIELDS = {
    1: ("pair", _blob),
    2: ("kek", _blob),
    3: ("dsk", _blob),
    4: ("ack", _ack),
    5: ("sent_at", _number),
    6: ("attempt", _number),
    7: ("shift_ack", _number),
    8: ("rewrap", _rewrap),
    9: ("notice", _blob),
    10: ("reason", _reason),
    11: ("base", _number),
}

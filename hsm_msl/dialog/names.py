"""The protocol's constants, numbers and defaults, each in one place (dialog sections 2-7 and 15)."""

from __future__ import annotations

from enum import IntEnum, StrEnum

PROTOCOL = "SDP/1"
MAGIC = "SDP1"
# Private names (dialog section 15): a registered media type and OID arc may replace them here and nowhere else.
MEDIA_TYPE = "application/vnd.hsm-msl.sdp+cbor"
STREAM_MEDIA_TYPE = "application/vnd.hsm-msl.sdp-stream"
CERTIFICATE_USAGE_OID = "1.3.6.1.4.1.59999.7.1"

ID_SIZE = 16
HASH_SIZE = 32
TAG_SIZE = 16
SESSION_KEY_SIZE = 32
SPLIT_PARTS = 3

MAX_NAME = 255
MAX_PACKET = 4 * 1024 * 1024
MAX_HEADERS = 32 * 1024
MAX_DEPTH = 8
MAX_ENTRIES = 64
MAX_RANGES = 8
MAX_SEQ = 2**63 - 1
MAX_FRAGMENTS = 1024
MAX_CHAIN = 4
MIN_RSA_BITS = 2048
LEARNED_CERTIFICATES = 8

FRAGMENT_SIZE = 64 * 1024
PLAIN = b"\x00"
"""First byte of every message: how the rest is encoded. Compression has no number yet."""
WINDOW_MESSAGES = 64
WINDOW_BYTES = 16 * 1024 * 1024
KEPT_DIGESTS = 1024
GENERATIONS_AHEAD = 8
RECOVERY_JUMP = 1000
RECOVERY_INTERVAL = 10.0
AEAD_MESSAGE_LIMIT = 2**32

MAX_LIFETIME = 30 * 86400
CLOCK_SKEW = 300
RETRY_FIRST = 4.0
RETRY_LAST = 64.0
MIN_SHIFT_INTERVAL = 1.0


class Side(IntEnum):
    """Who began the dialog; also the direction of what that side sends."""

    INITIATOR = 0
    TARGET = 1


class Kind(IntEnum):
    """What a packet is (core 3)."""

    APP = 1
    END = 2
    END_WITH_ERROR = 3
    ACK = 4
    NEED_KEYS = 5
    RETRY_LATER = 6
    PROBE = 7
    ABORT = 8


SEQUENCED = frozenset({Kind.APP, Kind.END, Kind.END_WITH_ERROR})


class Cause(IntEnum):
    """Why a generation of a session key was begun (DSK header)."""

    START = 1
    TIME = 2
    VOLUME = 3
    PEER_SHIFT = 4
    PEER_SHIFT_COUNT = 5
    OPERATOR = 6
    RECOVERY = 7


REACTIVE = frozenset({Cause.PEER_SHIFT, Cause.PEER_SHIFT_COUNT})


class Reason(IntEnum):
    """Why a dialog failed (abort packets, tombstones)."""

    POLICY_SHIFT_RATE = 1
    POLICY_SHIFT_MISSING = 2
    LIFETIME = 3
    KEY_UNUSABLE = 4
    PROTOCOL = 5
    REVOKED = 6
    OPERATOR = 7

    @property
    def text(self) -> str:
        """The name as people and logs see it."""
        return self.name.lower().replace("_", "-")


class State(StrEnum):
    """Where one side of a dialog stands (dialog section 1)."""

    STARTED_OUTBOUND = "SO"
    STARTED_INBOUND = "SI"
    CONVERSING = "CO"
    DISCONNECTED_INBOUND = "DI"
    DISCONNECTED_OUTBOUND = "DO"
    ERROR = "ER"
    CLOSED = "CD"
    FAILED = "FAILED"


FINAL = frozenset({State.CLOSED, State.FAILED})
SENDING = frozenset({State.STARTED_OUTBOUND, State.STARTED_INBOUND, State.CONVERSING})

"""Every limit this side puts on what it reads and writes, with the reason for each. Values only."""

from __future__ import annotations

from typing import Final

MAX_LONG: Final = 2**53
"""Largest message ID, sequence, serial or non-replayable number, inclusive: what a double holds exactly (2.2)."""

MAX_MESSAGES: Final = 12
"""Messages one application exchange may take, requests and responses together (msl-wire section 1)."""

MAX_OBJECT_BYTES: Final = 16 * 1024 * 1024
"""One encoded MSL object: no more than a whole request unless configured. A writer may put all it has into one chunk,
which takes 2.4 bytes here per byte of it; JavaScript reads 10 MiB, Java any size (section 13.12)."""

MAX_NESTING: Final = 32
"""Nested objects and arrays. Protocol objects need five levels; the rest is room for issuer data."""

MAX_VALUES: Final = 100_000
"""Commas, braces and brackets of one object. Hundreds occur; each value costs memory before anything is verified."""

MAX_KEY_REQUESTS: Final = 16
"""Key request data per header: more than all schemes and mechanisms together; each costs a parse of a key."""

MAX_SERVICE_TOKENS: Final = 256
"""Service tokens per header: each costs a MAC, and perhaps a token operation, before anything is trusted."""

DEFAULT_CHUNK_BYTES: Final = 32 * 1024
"""Application bytes per payload chunk written: no chunk holds the interpreter for more than a millisecond."""

MAX_CHUNK_BYTES: Final = 1024 * 1024
"""Largest configurable chunk: after two Base64 layers and envelopes it is far below ``MAX_OBJECT_BYTES``."""

MAX_INFLATE_RATIO: Final = 200
"""Uncompressed bytes per compressed byte before reading stops: the reference's limit (section 10.1)."""

MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024
"""Uncompressed bytes of one chunk or token, and of a whole payload in memory unless more than that came."""

MAX_GZIP_MEMBERS: Final = 16
"""Members of one GZIP stream. Writers emit one; each costs a decompressor and a copy of what follows it."""

NON_REPLAYABLE_WINDOW: Final = 65536
"""How far a non-replayable ID may run ahead of the largest one accepted (section 5.7)."""

NON_REPLAYABLE_CATCH_UP: Final = 6
"""IDs at or below the largest accepted that are answered with a plain replay error (section 5.7)."""

SEQUENCE_WRAP_MARGIN: Final = 127
"""Sequence numbers on both sides of the wrap at 2^53 that still count as neighbours (section 8.1)."""

KEY_WRAP_UNIT_BYTES: Final = 8
"""RFC 3394 works on whole units of this size."""

QUICK_BOUNDARY_TRIES: Final = 64
"""Closing braces looked at before the tokenizer changes from guessing an object's end to scanning for it."""

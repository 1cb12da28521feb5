"""The section of a configuration that says where a server's audit log is (values only)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hsm_msl.service.sections import Name, Seconds, Section

_SMALLEST_FILE = 4096


class AuditSection(Section, frozen=True, kw_only=True):
    """``[audit]``: the tamper-evident log of what changes about this server's keys and tokens.

    Every server has a file of its own; the worker processes of one server share it.

    Attributes:
        file: the log; read it with ``hsm-provision audit show``, verify it with ``audit verify``.
        signing_key: label of the key pair that signs its checkpoints. After another label was put here, the former
            key signs the hand-over, so it stays on the token until the server was started once.
        token: name of the token that holds it, as for ``[keys]``.
        checkpoint: a file for the last checkpoint, ``FILE.checkpoint`` when left out. In a place of its own it shows
            a log whose end was cut.
        records: records after which a checkpoint is signed.
        seconds: seconds after which one is signed, if there is anything new.
        rotate_bytes: size at which the file is put aside as ``FILE.NNNNNNNNNN``, named after its last record.
        on_failure: with ``refuse``, a server does not start on a log it cannot write or that was cut, and says it is
            not ready while it cannot write; ``continue`` does without. Either way messages are answered, the records
            wait in memory, and the ordinary log says so.
    """

    file: Name
    signing_key: Name
    token: Name | None = None
    checkpoint: Name | None = None
    records: Annotated[int, msgspec.Meta(ge=1)] = 100
    seconds: Seconds = 300
    rotate_bytes: Annotated[int, msgspec.Meta(ge=_SMALLEST_FILE)] = 16 * 1024 * 1024
    on_failure: Literal["refuse", "continue"] = "refuse"

"""The acceptance rule for non-replayable IDs (msl-engine section 14, msl-schemes section 13.3)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import ReplayStore
from hsm_msl.wire.limits import MAX_LONG, NON_REPLAYABLE_CATCH_UP, NON_REPLAYABLE_WINDOW


def judge(largest: int, received: int) -> ErrorCode | None:
    """Decide about one ID.

    Args:
        largest: the largest ID accepted so far, 0 at first.
        received: the ID at hand, 0 to 2^53.

    Returns:
        None to accept (``received`` becomes the largest), MESSAGE_REPLAYED where a newer ID will do, or
        MESSAGE_REPLAYED_UNRECOVERABLE.
    """
    if largest - NON_REPLAYABLE_CATCH_UP < received <= largest:
        return ErrorCode.MESSAGE_REPLAYED
    if received - NON_REPLAYABLE_WINDOW > largest:
        return ErrorCode.MESSAGE_REPLAYED_UNRECOVERABLE
    if largest > received >= largest - MAX_LONG + NON_REPLAYABLE_WINDOW:
        return ErrorCode.MESSAGE_REPLAYED_UNRECOVERABLE
    return None


def accept(store: ReplayStore, identity: str, serial_number: int, received: int) -> None:
    """Consume a non-replayable ID, atomically with every other server of the network.

    Raises:
        MslError: NONREPLAYABLE_ID_OUT_OF_RANGE, MESSAGE_REPLAYED, MESSAGE_REPLAYED_UNRECOVERABLE.
        StoreError: the state cannot be reached; the ID is then not accepted.
    """
    if not 0 <= received <= MAX_LONG:
        raise MslError(ErrorCode.NONREPLAYABLE_ID_OUT_OF_RANGE)
    verdict: ErrorCode | None = None

    def decide(largest: int) -> int | None:
        nonlocal verdict
        verdict = judge(largest, received)
        return received if verdict is None else None

    store.advance(identity, serial_number, decide)
    if verdict is not None:
        raise MslError(verdict)

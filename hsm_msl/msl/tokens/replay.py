"""The acceptance rule for non-replayable IDs (msl-engine section 14, msl-schemes section 13.3)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import ReplayState, ReplayStore
from hsm_msl.wire.limits import MAX_LONG, NON_REPLAYABLE_CATCH_UP, NON_REPLAYABLE_WINDOW

_IDS = MAX_LONG + 1
"""How many there are; after the last comes the first."""


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


def accept(
    store: ReplayStore, identity: str, serial_number: int, received: int, *, until: int, out_of_order: int = 0
) -> None:
    """Consume a non-replayable ID, atomically with every other server of the network.

    Args:
        store: what was accepted so far.
        identity: the sender.
        serial_number: of its master token.
        received: the ID at hand.
        until: when that master token expires, seconds since the epoch.
        out_of_order: how many IDs below the largest are accepted, each once, where a later message overtook theirs;
            with 0 none is, as deployed servers have it.

    Raises:
        MslError: NONREPLAYABLE_ID_OUT_OF_RANGE, MESSAGE_REPLAYED, MESSAGE_REPLAYED_UNRECOVERABLE.
        StoreError: the state cannot be reached; the ID is then not accepted.
    """
    if not 0 <= received <= MAX_LONG:
        raise MslError(ErrorCode.NONREPLAYABLE_ID_OUT_OF_RANGE)
    verdict: ErrorCode | None = None

    def decide(state: ReplayState) -> ReplayState | None:
        nonlocal verdict
        verdict = None  # a store may decide again after a conflict
        kept_until = max(state.until, until)
        behind = (state.largest - received) % _IDS
        bit = 1 << (behind - 1) if 0 < behind <= out_of_order else 0
        if state.unused & bit:
            return ReplayState(state.largest, state.unused & ~bit, kept_until)
        verdict = judge(state.largest, received)
        if verdict is not None:
            return None
        return ReplayState(received, _moved(state, received, out_of_order), kept_until)

    store.advance(identity, serial_number, decide)
    if verdict is not None:
        raise MslError(verdict)


def _moved(state: ReplayState, received: int, out_of_order: int) -> int:
    """Return the unused IDs as seen from a new largest one: those before, and those it jumped over."""
    if not out_of_order:
        return 0
    ahead = min((received - state.largest) % _IDS, out_of_order + 1)
    jumped = (1 << (ahead - 1)) - 1
    return (state.unused << ahead | jumped) & ((1 << out_of_order) - 1)

"""Non-replayable IDs out of order: no sequence of them, on any servers, gets one accepted twice (msl-engine 14)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_msl.errors import MslError
from hsm_msl.msl.tokens.replay import accept, judge
from hsm_msl.ports import ReplayState
from hsm_msl.stores.memory import MemoryReplayStore
from hsm_msl.wire.limits import MAX_LONG, NON_REPLAYABLE_WINDOW

IDS = MAX_LONG + 1
STARTS = st.sampled_from([0, 1, 7, 1000, MAX_LONG - 100, MAX_LONG - 3, MAX_LONG])
STEPS = st.one_of(st.integers(-90, 90), st.sampled_from([NON_REPLAYABLE_WINDOW, NON_REPLAYABLE_WINDOW + 1]))
WINDOWS = st.sampled_from([0, 1, 6, 7, 64, 80])


def offer(store: MemoryReplayStore, received: int, window: int) -> bool:
    try:
        accept(store, "entity", 7, received, until=1, out_of_order=window)
    except MslError:
        return False
    return True


def begun(start: int) -> MemoryReplayStore:
    """Return a store where everything up to ``start`` counts as used, as an older server would have left it."""
    store = MemoryReplayStore()
    if start:
        store.advance("entity", 7, lambda _: ReplayState(start))
    return store


def largest(store: MemoryReplayStore) -> int:
    seen: list[int] = []
    store.advance("entity", 7, lambda state: seen.append(state.largest))
    return seen[0]


@settings(max_examples=400, database=None)
@given(STARTS, st.lists(st.tuples(STEPS, WINDOWS), max_size=60))
def test_no_id_is_accepted_twice(start: int, offers: list[tuple[int, int]]) -> None:
    """Also where servers with different windows share the store, as in the middle of a change of configuration."""
    store = begun(start)
    accepted: set[int] = set()
    for step, window in offers:
        received = (largest(store) + step) % IDS
        if offer(store, received, window):
            # Nothing before the start may be taken either: it may have been used then.
            assert (received - start) % IDS < IDS // 2
            assert received not in accepted
            assert received != start
            accepted.add(received)


@settings(max_examples=300, database=None)
@given(STARTS, st.lists(STEPS, max_size=40))
def test_without_a_window_the_verdicts_are_the_plain_ones(start: int, steps: list[int]) -> None:
    store = begun(start)
    for step in steps:
        before = largest(store)
        received = (before + step) % IDS
        verdict = judge(before, received)
        assert offer(store, received, 0) is (verdict is None)
        assert largest(store) == (received if verdict is None else before)


@settings(max_examples=300, database=None)
@given(STARTS, st.sampled_from([1, 7, 64]), st.lists(st.integers(1, 70), min_size=1, max_size=40, unique=True))
def test_every_id_inside_the_window_is_accepted(start: int, window: int, ahead: list[int]) -> None:
    """However IDs overtake each other: as long as none falls behind by more than the window, none is lost."""
    store = begun(start)
    furthest = 0
    for step in ahead:
        inside = furthest - step <= window
        accepted = offer(store, (start + step) % IDS, window)
        assert accepted is (inside or step > furthest)
        furthest = max(furthest, step)


@settings(max_examples=100, database=None)
@given(STARTS, st.lists(st.tuples(STEPS, WINDOWS), max_size=60))
def test_the_state_stays_small(start: int, offers: list[tuple[int, int]]) -> None:
    store = begun(start)
    for step, window in offers:
        offer(store, (largest(store) + step) % IDS, window)
        seen: list[ReplayState] = []
        store.advance("entity", 7, lambda state, seen=seen: seen.append(state))
        assert seen[0].unused < 1 << 80

"""Pruning: tables stay bounded while clients start anew, and nothing that is still needed goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import ErrorCode, StoreError
from hsm_msl.msl.tokens.issuer import TokenPolicy
from hsm_msl.ports import RenewalState, ReplayState
from hsm_msl.service.pruning import BATCH_ROWS, CLOCK_MARGIN, Pruning
from hsm_msl.stores.memory import MemoryReplayStore
from hsm_msl.stores.renewal import SqlRenewalStore
from hsm_msl.stores.replay import SqlReplayStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from msl_messages import compose, issued_session, key_request_data
from msl_script import answer
from msl_world import LIFETIME, RENEWAL_WINDOW, World, secret

AGE = 1000


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    opened = Database(url_of(request.param, request))
    prepare(opened)
    yield opened
    opened.close()


def renewing(world: World) -> dict[str, Any]:
    return {"renewable": True, "keyrequestdata": key_request_data(world)}


def rows(database: Database) -> tuple[int, int]:
    with database.statements() as connection:
        replays, renewals = (
            connection.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("nonreplay", "renewal")
        )
    return replays, renewals


def test_tables_stay_bounded_while_clients_come_and_go(database: Database) -> None:
    """Clients that start anew all the time, each with messages to be accepted once."""
    replays, renewals = SqlReplayStore(database), SqlRenewalStore(database)
    policy = TokenPolicy(RENEWAL_WINDOW, LIFETIME, renewable_after_expiry=AGE)
    world = World(policy=policy, replays=replays, renewals=renewals)
    pruning = Pruning((replays, renewals), AGE, 60, clock=world.clock, random=world.random)
    server = world.server()
    largest = (0, 0)  # of accepted IDs, of issued tokens
    for number in range(40):
        device = world.client("PSK", f"device-{number}")
        for _ in range(2):
            device.ask(secret(b"once", non_replayable=True), server.handle)
            held = device.state.newest()
            assert held is not None
            device.state.remove_session(held.master_token)
        world.clock.advance(500)
        pruning.round()
        largest = max(largest, rows(database))
    kept = (LIFETIME + AGE + CLOCK_MARGIN) // 500
    assert largest == (2 * kept, kept)


def test_what_was_accepted_is_refused_as_long_as_its_token_is_taken() -> None:
    """Section 22: an evicted row means that replays succeed, so a token older than the rows is refused instead."""
    replays = MemoryReplayStore()
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, renewable_after_expiry=AGE), replays=replays)
    pruning = Pruning((replays,), AGE, 60, clock=world.clock, random=world.random)
    held = issued_session(world.context, "psk-client")
    server = world.server()
    body = compose(held, nonreplayableid=1, **renewing(world))
    assert answer(world, body, server=server).payload == b"data"
    world.clock.advance(LIFETIME + AGE - 1)
    assert pruning.round() == 0
    assert answer(world, body, server=server).code is ErrorCode.MESSAGE_REPLAYED
    world.clock.advance(1)
    refused = answer(world, body, server=server)
    assert refused.code is ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC
    world.clock.advance(CLOCK_MARGIN + 1)
    assert pruning.round() == 1
    assert answer(world, body, server=server).code is ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC


def test_a_round_goes_batch_by_batch_through_every_store(database: Database) -> None:
    replays, renewals = SqlReplayStore(database), SqlRenewalStore(database)
    for number in range(5):
        replays.advance("entity", number, lambda _: ReplayState(1, 0, 1))
        renewals.create(f"entity-{number}", 1, RenewalState(0, 0, 0, 1))
    seen: list[int] = []

    class Small:
        def prune(self, before: float, limit: int) -> int:
            seen.append(limit)
            return BATCH_ROWS if len(seen) < 3 else 7

    pruning = Pruning((Small(), replays, renewals), 0, 60, clock=lambda: 1e6, random=bytes)
    assert pruning.round() == 2 * BATCH_ROWS + 7 + 10
    assert seen == [BATCH_ROWS] * 3
    assert rows(database) == (0, 0)


def test_the_rounds_go_on_after_an_outage_and_stop_when_closed(caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Semaphore(0)
    outage = [True]

    class Store:
        def prune(self, before: float, limit: int) -> int:
            asked.release()
            if outage.pop() if outage else False:
                raise StoreError("no answer")
            return 1

    pruning = Pruning((Store(),), 0, 0.01, clock=lambda: 1e6, random=lambda count: b"\x10" * count)
    with caplog.at_level(logging.INFO, "hsm_msl.service"):
        logging.getLogger("hsm_msl.service").addHandler(caplog.handler)
        try:
            pruning.start()
            for _ in range(3):
                assert asked.acquire(timeout=30)
        finally:
            pruning.close()
            logging.getLogger("hsm_msl.service").removeHandler(caplog.handler)
    texts = [record.getMessage() for record in caplog.records]
    assert "old states not dropped: no answer" in texts
    assert "dropped 1 states of master tokens that are renewed no more" in texts
    pruning.close()

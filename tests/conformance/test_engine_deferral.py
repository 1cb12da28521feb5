"""A server under load puts off renewals that can wait, and no others (issue: deferral of renewal under load)."""

from __future__ import annotations

from hsm_msl.msl.tokens.issuer import TokenPolicy
from msl_world import LIFETIME, RENEWAL_WINDOW, World, secret


def test_a_busy_server_renews_only_what_cannot_wait() -> None:
    busy = True
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, defers=lambda: busy))
    device, server = world.client(), world.server()
    first = device.ask(secret(), server.handle)
    assert first.header.key_response is not None, "a first master token cannot wait"
    world.clock.advance(RENEWAL_WINDOW + 1)
    deferred = device.ask(secret(), server.handle)
    assert deferred.requests[0].key_requests
    assert deferred.header.key_response is None
    assert deferred.payload == b"secret"
    busy = False
    renewed = device.ask(secret(), server.handle)
    assert renewed.header.key_response is not None
    assert renewed.header.key_response.master_token.sequence_number == 1
    busy = True
    world.clock.advance(LIFETIME + 1)
    expired = device.ask(secret(), server.handle)
    assert expired.header.key_response is not None, "nor can the renewal of one that has expired"
    assert expired.header.key_response.master_token.sequence_number == 2

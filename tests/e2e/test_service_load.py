"""Fifty clients at once: no crash, no wrong answer, no message lost across renewals (issue 2)."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from hsm_msl.service.compose.client import ComposedClient
from hsm_msl.service.http_client import AsyncHttpClient, HttpClient
from service_world import RunningServer, ServiceWorld

CLIENTS = 50
LEAST = 3
GUEST = (
    'scheme = "PSK"\nidentity = "development-client"\n'
    'files = { encryption = "keys/development-client.encryption.hex", mac = "keys/development-client.mac.hex" }'
)
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'


@pytest.fixture(scope="module")
def busy(service_world: ServiceWorld) -> Iterator[RunningServer]:
    """A server whose tokens are renewed after five seconds, for clients of two kinds."""
    config = service_world.server_config(
        "busy.toml",
        ("renewal_window = 3600", "renewal_window = 5"),
        ('key_exchange = ["ASYMMETRIC_WRAPPED"]', 'key_exchange = ["DIFFIE_HELLMAN"]'),
        ("state.sqlite", "busy.sqlite"),
    )
    with service_world.serve(config) as server:
        yield server


def crowd(world: ServiceWorld, stack: ExitStack) -> list[ComposedClient]:
    """Fifty clients: guests that shake hands first, and owners of pre-shared keys, some with a user."""
    clients = []
    for number in range(CLIENTS):
        changes = [(GUEST, f'scheme = "NONE"\nidentity = "guest-{number}"')] if number % 2 else []
        if number % 5:
            changes.append((USER, ""))
        config = world.client_config(f"crowd-{number}.toml", *changes)
        clients.append(stack.enter_context(closing(world.client(config))))
    return clients


async def keep_sending(client: ComposedClient, url: str, until: float, seed: int, seen: Counter[str]) -> None:
    chance = random.Random(seed)
    async with AsyncHttpClient(client.msl, url) as http:
        while time.monotonic() < until or seen[f"client {seed}"] < LEAST:
            payload = chance.randbytes(chance.choice((0, 1, 1000, 40_000)))
            response = await http.request(client.message(payload))
            assert response.payload == payload
            seen[f"client {seed}"] += 1
            seen["messages"] += 1
            seen["pairs"] += response.pairs
            if response.header.key_response is not None and response.requests[-1].master_token is not None:
                seen["renewals"] += 1


async def send_all(clients: list[ComposedClient], url: str, seconds: float) -> Counter[str]:
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for seed, client in enumerate(clients):
            group.create_task(keep_sending(client, url, until, seed, seen))
    return seen


def load(world: ServiceWorld, server: RunningServer, seconds: float) -> Counter[str]:
    with ExitStack() as stack:
        seen = asyncio.run(send_all(crowd(world, stack), server.url, seconds))
    assert server.process.poll() is None
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "refused" not in log
    assert all(seen[f"client {number}"] >= LEAST for number in range(CLIENTS))
    return seen


def test_fifty_clients(service_world: ServiceWorld, busy: RunningServer) -> None:
    """A few seconds of what the soak does for a minute; every client got through."""
    load(service_world, busy, 4.0)


@pytest.mark.soak
def test_fifty_clients_for_a_minute(service_world: ServiceWorld, busy: RunningServer) -> None:
    seen = load(service_world, busy, 60.0)
    print({name: seen[name] for name in ("messages", "pairs", "renewals")})
    assert seen["renewals"] > CLIENTS


def test_threads_share_one_client(service_world: ServiceWorld, busy: RunningServer) -> None:
    """One renewal at a time: the others wait for it or go on with the token they have (engine section 5)."""
    threads, rounds = 8, 12
    barrier = threading.Barrier(threads)
    with closing(service_world.client()) as client, HttpClient(client.msl, busy.url) as http:

        def work(number: int) -> list[int]:
            barrier.wait(60)
            pairs = []
            for turn in range(rounds):
                payload = f"{number}.{turn}".encode()
                response = http.request(client.message(payload))
                assert response.payload == payload
                pairs.append(response.pairs)
            return pairs

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(work, range(threads)))
    assert [len(pairs) for pairs in results] == [rounds] * threads

"""Issue 6, "must show": the keys of a server from their plan to the loss of their token, under the same clients."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ceremony_fixture import CeremonyBench
from hsm_msl.msl.conversation import Response
from hsm_msl.service.compose.client import ComposedClient
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

BACKED_UP = tuple(
    f"{key}\nbackup = true"
    for key in (
        'profile = "msl-token-encryption"',
        'profile = "msl-token-mac"',
        'profile = "msl-token-wrap"',
        'profile = "rsa-identity"',
        'profile = "service-token-encryption"\npurpose = "service.development"',
        'profile = "service-token-mac"\npurpose = "service.development"',
    )
)
PRESHARED = """
[backup]
[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
backup = true
"""
MANIFEST = """[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"
every = 1

[users]"""
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'
CLIENTS = 3
PACE = 0.01
WAIT = 40.0


def token_on(bench: CeremonyBench) -> Path:
    """Prepare the directory of a token: PINs, the client's keys to import, and the reviewed ceremony."""
    bench.write("pins/so.pin", "so-pin-of-" + bench.directory.name)
    bench.write("pins/user.pin", "user-pin-of-" + bench.directory.name)
    bench.write("keys/development-client.encryption.hex", "5a" * 16)
    bench.write("keys/development-client.mac.hex", "a5" * 32)
    return bench.ceremony(*BACKED_UP, extra=PRESHARED, environment="production")


def do(bench: CeremonyBench, *arguments: str | Path) -> str:
    outcome = bench.run(*arguments)
    assert outcome.code == 0, outcome.out + outcome.err
    return outcome.out


def server_on(bench: CeremonyBench, state: Path) -> tuple[ServiceWorld, Path]:
    """Write the configuration of a server on a bench's token; all servers of the test share one database."""
    world = ServiceWorld(bench.work, bench.environment)
    config = world.server_config(
        "server.toml",
        ("hsm-msl-development", bench.label),
        ("sqlite:///state.sqlite", f"sqlite:///{state}"),
        ("[users]", MANIFEST),
    )
    return world, config


def wait_for(server: RunningServer, text: str) -> None:
    deadline = time.monotonic() + WAIT
    while text not in server.log.read_text():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


@dataclass
class Load:
    """Clients that send without a break until told to stop; whatever goes wrong is kept."""

    answered: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    failed: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    moved: threading.Condition = field(default_factory=threading.Condition)

    def send(self, number: int, client: ComposedClient, url: str) -> None:
        try:
            with HttpClient(client.msl, url) as http:
                while not self.stop.wait(PACE):
                    payload = f"{number}.{self.answered[number]}".encode()
                    response = http.request(client.message(payload))
                    assert response.payload == payload
                    # A second pair would mean that the server had refused the first.
                    assert response.pairs == 1
                    with self.moved:
                        self.answered[number] += 1
                        self.moved.notify_all()
        except BaseException as error:
            with self.moved:
                self.failed.append(error)
                self.moved.notify_all()

    def everyone_was_answered_again(self) -> None:
        """Wait until each client got two more answers: the second was asked for after this call."""
        with self.moved:
            goal = [count + 2 for count in self.answered]
            assert self.moved.wait_for(
                lambda: self.failed or all(a >= g for a, g in zip(self.answered, goal, strict=True)), WAIT
            )
        assert not self.failed, self.failed


@contextmanager
def under_load(clients: list[ComposedClient], url: str) -> Iterator[Load]:
    load = Load()
    threads = [
        threading.Thread(target=load.send, args=(number, client, url), daemon=True)
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        load.everyone_was_answered_again()
        yield load
        load.everyone_was_answered_again()
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(WAIT)
    assert not load.failed, load.failed


def one_message(client: ComposedClient, url: str, payload: bytes) -> Response:
    with HttpClient(client.msl, url) as http:
        response = http.request(client.message(payload))
    assert response.payload == payload
    return response


def token_sent(response: Response) -> int:
    token = response.requests[0].master_token
    assert token is not None
    return token.serial_number


def test_whole_path(bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench], tmp_path: Path) -> None:
    """plan, apply, verify, serve, rotate under load, back up, lose the token, restore, serve the same clients."""
    ceremony = token_on(bench)
    do(bench, "backup-key", ceremony, "--needed", "2", "--shares", "3", "--shares-to", "shares", "--yes")
    plan = do(bench, "plan", ceremony)
    (plan_hash,) = (line.split()[-1] for line in plan.splitlines() if line.startswith("plan hash: "))
    do(bench, "apply", ceremony, "--plan-hash", plan_hash)
    do(bench, "verify", ceremony)
    do(bench, "public-key", ceremony, "audit.signing.v1", "--out", "audit.pem")

    world, config = server_on(bench, tmp_path / "state.sqlite")
    done = world.run("public-key", config, "--output", "server.pem")
    assert done.returncode == 0, done.stderr
    client_config = world.client_config("client.toml", (USER, ""))

    with ExitStack() as stack:
        clients = [stack.enter_context(closing(world.client(client_config))) for _ in range(CLIENTS)]
        newcomer = stack.enter_context(closing(world.client(client_config)))
        with world.serve(config) as server:
            with under_load(clients, server.url) as load:
                do(bench, "rotate", ceremony, "msl.token", "--stage", "--yes")
                wait_for(server, "msl.token: version 1 makes, (2,) also open")
                load.everyone_was_answered_again()
                do(bench, "promote", ceremony, "msl.token", "--yes")
                do(bench, "rotate", ceremony, "service.development", "--yes")
                wait_for(server, "msl.token: version 2 makes, (1,) also open")
                wait_for(server, "service.development: version 2 makes, (1,) also open")
            one_message(newcomer, server.url, b"made by version 2")
            known = [token_sent(one_message(client, server.url, b"x")) for client in (*clients, newcomer)]
            do(bench, "verify", ceremony)
            do(bench, "backup", ceremony, "backup.json")
            assert server.stop() in (0, -signal.SIGTERM)
            log = server.log.read_text()
        assert "Traceback" not in log
        assert "refused" not in log

        before = {key["label"]: key for key in bench.manifest()["keys"]}
        shutil.rmtree(bench.directory / "tokens")
        (bench.directory / "tokens").mkdir()
        assert world.run("serve", "--check", config).returncode != 0

        second = new_bench("second")
        second.label = "second token"
        ceremony = token_on(second)
        for name in ("backup.json", "server.pem"):
            shutil.copy(bench.work / name, second.work / name)
        shares = [bench.work / f"shares/backup.wrap.v1.share-{number}-of-3.txt" for number in (1, 3)]
        arguments = [part for share in shares for part in ("--share", share)]
        proof = ("--public-key", bench.work / "audit.pem")
        do(second, "restore", ceremony, "backup.json", *proof, *arguments, "--yes")
        do(second, "verify", ceremony)
        do(second, "public-key", ceremony, "audit.signing.v1", "--out", "audit.pem")
        after = {key["label"]: key for key in second.manifest()["keys"]}
        for label in ("msl.token.mac.v1", "msl.token.mac.v2", "identity.rsa.v1", "service.development.mac.v2"):
            assert (after[label]["check"], after[label]["state"]) == (before[label]["check"], before[label]["state"])
            assert after[label]["provenance"] == "restored"

        world, config = server_on(second, tmp_path / "state.sqlite")
        with world.serve(config) as server:
            for client, serial in zip((*clients, newcomer), known, strict=True):
                response = one_message(client, server.url, b"still here")
                # Tokens of both versions are valid: no second pair, no new key exchange, the token it had before.
                assert (response.pairs, response.header.key_response) == (1, None)
                assert token_sent(response) == serial
            with under_load(clients, server.url):
                pass
            assert server.stop() in (0, -signal.SIGTERM)
            assert "Traceback" not in server.log.read_text()

    do(second, "audit", "verify", "records/audit.jsonl", "--public-key", "audit.pem")

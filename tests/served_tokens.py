"""A served MSL server whose keys of known value are on one or several SoftHSMv2 tokens, and clients in traffic."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.errors import HsmMslError, ResponseCode
from hsm_msl.msl.conversation import ErrorResponseError
from hsm_msl.service.compose.client import ComposedClient
from hsm_msl.service.http_client import HttpClient, TransportError
from key_backends import rsa_pair
from service_world import DEMO, RunningServer, ServiceWorld
from token_fixture import WRAP, Forge, KeyMaker, TestToken

FAULT_SIGNALS = Path(__file__).parent / "fault_signals"
KEYS = {
    "msl.token.encryption.v1": bytes(range(16)),
    "msl.token.mac.v1": bytes(range(32)),
    "msl.token.wrap.v1": bytes(range(16, 32)),
    "psk.development-client.encryption.v1": bytes(range(32, 48)),
    "psk.development-client.mac.v1": bytes(range(48, 80)),
}
GUEST = """
[entity]
scheme = "NONE"
identity = "guest-{number}"

[[entities]]
scheme = "RSA"
key_id = "development-server-1"
identity = "development-server"
public_key = "server.pem"

[key_exchange]
schemes = ["ASYMMETRIC_WRAPPED"]
rsa_mechanism = "RSA"
"""
_SERVICE_KEYS = re.compile(r'\[keys\."service\.development"\].*?(?=\[\[entities)', re.DOTALL)
_TOKENS = re.compile(r"\[tokens\.development\].*?(?=\[entity\])", re.DOTALL)
_USERS = re.compile(r"\[users\].*?(?=\[store\])", re.DOTALL)


@dataclass
class ServedTokens(ServiceWorld):
    """A directory with configurations, and tokens that hold the same keys.

    Attributes:
        tokens: the tokens.
    """

    tokens: list[TestToken] = field(default_factory=list)

    def config(self, tables: str, *, residency: str = "host", inline: bool = True) -> Path:
        """Write a server's configuration whose tables of tokens are these; TOKEN-n and PIN-n name the n-th token.

        Nothing is cached, so that every message asks the token.
        """
        for number, token in enumerate(self.tokens):
            tables = tables.replace(f"TOKEN-{number}", f'module = "{self.module}"\nlabel = "{token.label}"')
            tables = tables.replace(f"PIN-{number}", f'pin = "file:{token.pin_file}"')
        text = (DEMO / "server.toml").read_text()
        text = _TOKENS.sub(tables + "\n", _SERVICE_KEYS.sub("", _USERS.sub("", text)))
        text = text.replace('user = ["EMAIL_PASSWORD"]', "user = []").replace(
            "port = 0", f"port = 0\ninline = {inline}".lower()
        )
        path = self.directory / "server.toml"
        path.write_text(text + f'\n[session_keys]\nresidency = "{residency}"\n\n[cache]\ntokens = 0\n')
        if residency == "token":  # what is agreed on in this process cannot be a key that stays in the token
            path.write_text(
                path.read_text().replace('"DIFFIE_HELLMAN", ', "").replace("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
            )
        return path

    def guest(self, number: int) -> ComposedClient:
        """Return a client without keys, whose session keys the server wraps for it."""
        path = self.directory / f"guest-{number}.toml"
        path.write_text(GUEST.replace("{number}", str(number)))
        return self.client(path)

    @property
    def module(self) -> str:
        return os.environ["HSM_MSL_TEST_MODULE"]

    @contextmanager
    def away(self, number: int) -> Iterator[None]:
        """Take a token's directory out of the store for the length of a block."""
        directory = self.tokens[number].directory
        away = directory.parent.parent / f"{directory.name}.away"
        directory.rename(away)
        try:
            yield
        finally:
            away.rename(directory)


def served_tokens(forge: Forge, directory: Path, count: int) -> ServedTokens:
    """Make tokens with the same keys, and what clients need."""
    os.environ["HSM_MSL_TEST_MODULE"] = forge.module.path
    made = [forge.initialise() for _ in range(count)]
    for one in made:
        token = open_token(forge.module, one.selector, one.pin, SOFTHSM)
        keys = KeyMaker(token)
        for label, value in KEYS.items():
            if ".mac." in label:
                keys.hmac(value, label=label)
            else:
                keys.aes(value, WRAP, label=label) if ".wrap." in label else keys.aes(value, label=label)
        keys.rsa(rsa_pair(), (Attribute.SIGN,), label="identity.rsa.v1")
        token.close()
    public = rsa_pair().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "server.pem").write_bytes(public)
    environment = {
        **{name: value for name, value in os.environ.items() if re.fullmatch("PATH|HOME|LANG|SOFTHSM2_CONF", name)},
        "PYTHONPATH": str(FAULT_SIGNALS),
    }
    return ServedTokens(directory, environment, made)


def workers_of(server: RunningServer) -> list[int]:
    """Return the process IDs of a server's token workers."""
    pid = server.process.pid
    children = [
        int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()
    ]
    return [child for child in children if b"hsm_msl.backend.workers" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Traffic:
    """Clients that send one message after the other, each in one session, until they are stopped.

    Args:
        world: where the server is from.
        server: the server.
        clients: how many.

    Attributes:
        told: what was heard instead of a reply, and how often.
        sessions: how many sessions were begun, each by a message more; more than clients means one started anew.
        answered: how many messages were.
    """

    def __init__(self, world: ServedTokens, server: RunningServer, clients: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last = [0.0] * clients
        self.told: Counter[str] = Counter()
        self.sessions = 0
        self.answered = 0
        self._closing = ExitStack()
        composed = [self._closing.enter_context(closing(world.guest(number))) for number in range(clients)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, client)) for number, client in enumerate(composed)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.wait_for_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._closing.close()

    def wait_for_all(self, seconds: float = 30.0) -> float:
        """Wait until every client got a reply to a message it sent from now on; return how long that took."""
        started = time.monotonic()
        while min(self._last) < started:
            assert time.monotonic() - started < seconds, f"no recovery; told meanwhile: {dict(self.told)}"
            time.sleep(0.005)
        return time.monotonic() - started

    def wait_while(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Let messages pass while something holds."""
        until = time.monotonic() + seconds
        while condition():
            assert time.monotonic() < until
            time.sleep(0.01)

    @property
    def verdicts(self) -> set[str]:
        """What was heard that is not about an outage."""
        return {told for told in self.told if told not in (ResponseCode.TRANSIENT_FAILURE.name, "HTTP 503")}

    def _run(self, number: int, client: ComposedClient) -> None:
        with HttpClient(client.msl, self._server.url, timeout=60) as http:
            while not self._stop.is_set():
                sent = time.monotonic()
                told = self._once(client, http)
                with self._lock:
                    if told is None:
                        self.answered += 1
                        self._last[number] = sent
                    else:
                        self.told[told] += 1
                if told is not None:
                    time.sleep(0.02)

    def _once(self, client: ComposedClient, http: HttpClient) -> str | None:
        try:
            response = http.request(client.message(b"ping"))
        except ErrorResponseError as error:
            return error.error.response.name
        except TransportError as error:
            return "HTTP 503" if "HTTP 503" in str(error) else str(error)
        except HsmMslError as error:
            return f"{type(error).__name__}: {error}"
        with self._lock:
            self.sessions += response.pairs > 1
        return None if response.payload == b"ping" else "a wrong answer"

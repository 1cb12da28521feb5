"""Proof of confinement: no long-term key is anywhere in the memory of a server that works with it.

A p11-kit server process holds the token; the engine's process has a socket to it. After real traffic the whole
memory of the engine's process is read and searched for every key in every form it could have.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from confined_keys import CLIENT, SECRETS, fresh_values
from hsm_msl.backend.software import SoftwareSigningKey
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.ports import RsaPadding, SymmetricKeys
from msl_keys import RsaDecrypter, rsa_key
from msl_world import Credentials, World, secret
from token_places import IDENTITY_ID

ROOT = Path(__file__).parents[2]
WORD = 32  # bytes of a long number that are enough to know it


class KeyHolder:
    """A token in a process of its own, for as long as this object's input stays open."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(ROOT / "softhsm/with-p11kit.sh"), "sh", "-c", "env -0; echo; read -r _ || true"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        lines = self._process.stdout.readline().rstrip(b"\n").decode().split("\0")
        told = dict(line.split("=", 1) for line in lines if "=" in line)
        assert "P11_KIT_SERVER_ADDRESS" in told, "softhsm/with-p11kit.sh did not start"
        names = [name for name in told if name.startswith(("HSM_MSL_TOKEN_", "P11_KIT_"))]
        self.environment = dict(os.environ) | {name: told[name] for name in names}
        self.environment["PYTHONPATH"] = f"{ROOT / 'tests'}:{ROOT}"
        self.environment.pop("SOFTHSM2_CONF", None)

    def close(self) -> None:
        self._process.communicate(timeout=30)


class Server:
    """The engine's process."""

    def __init__(self, environment: Mapping[str, str], residency: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/confined_server.py"), residency],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._sink, self._source = self._process.stdin, self._process.stdout
        assert self._source.readline() == b"ready\n", "the server did not start"

    def handle(self, body: bytes) -> bytes:
        return self._ask(b"M", body)

    def plant(self, value: bytes) -> None:
        assert self._ask(b"P", value) == b"planted"

    def _ask(self, kind: bytes, body: bytes) -> bytes:
        self._sink.write(len(body).to_bytes(4, "big") + kind + body)
        self._sink.flush()
        return self._source.read(int.from_bytes(self._source.read(4), "big"))

    def memory(self) -> Iterator[bytes]:
        """Read every mapping this process may read, whole."""
        process = Path(f"/proc/{self._process.pid}")
        with (process / "mem").open("rb", buffering=0) as memory:
            for line in (process / "maps").read_text().splitlines():
                span, mode = line.split()[:2]
                if "r" not in mode or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    continue
                start, end = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                content = bytearray()
                while len(content) < end - start:
                    piece = memory.read(end - start - len(content))
                    assert piece, f"unread memory: {line}"
                    content += piece
                yield bytes(content)

    def holds(self, needles: Mapping[str, bytes]) -> set[str]:
        """Return the names of the values that are somewhere in the process's memory."""
        return {name for region in self.memory() for name, value in needles.items() if value in region}

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


def forms(name: str, value: bytes) -> dict[str, bytes]:
    """Return the forms in which a secret value could lie in memory."""
    return {
        name: value,
        f"{name}, hexadecimal": value.hex().encode(),
        f"{name}, HEXADECIMAL": value.hex().upper().encode(),
        f"{name}, base64": base64.b64encode(value).rstrip(b"=")[:-1],
    }


def needles(values: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return every key in every form: secret keys whole, the numbers of RSA keys by a part, in both byte orders."""
    found: dict[str, bytes] = {}
    for name, value in values.items():
        if name in SECRETS or name.startswith("session"):
            found |= forms(name, value)
            continue
        key = load_der_private_key(value, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        numbers = key.private_numbers()
        for part in ("d", "p", "q", "dmp1", "dmq1", "iqmp"):
            number = getattr(numbers, part)
            big = number.to_bytes((number.bit_length() + 7) // 8, "big")
            found[f"{name} {part}"] = big[:WORD]
            found[f"{name} {part}, as OpenSSL has it"] = big[::-1][:WORD]
    return found


class Listening(RsaDecrypter):
    """The client's one-time key, which remembers the session keys it opens."""

    def __init__(self) -> None:
        super().__init__(rsa_key("ephemeral"))
        self.opened: list[bytes] = []

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        self.opened.append(super().decrypt(data, padding))
        return self.opened[-1]


def talk(server: Server, values: Mapping[str, bytes]) -> list[bytes]:
    """Serve a client from its first message to a renewal; return the session keys it came to know."""
    world = World()
    identity = SoftwareSigningKey(values["identity"])
    world.public_keys[IDENTITY_ID] = PublicKey(identity.public_key)
    world.preshared[CLIENT] = SymmetricKeys(LocalAesKey(values["psk.encryption"]), LocalHmacKey(values["psk.mac"]))
    device = world.client("PSK", CLIENT, offers=("ASYMMETRIC_WRAPPED",))
    exchange = device.context.key_exchanges["ASYMMETRIC_WRAPPED"]
    assert isinstance(exchange, AsymmetricWrapped)
    key = Listening()
    device.engine = MslClient(device.context, device.state, lambda: [exchange.request("RSA", key)], lock=device.lock)
    for number in range(20):
        payload = b"message %d" % number
        assert device.ask(secret(payload, user=Credentials()), server.handle).payload == payload
    assert len(key.opened) >= 2
    return key.opened


@pytest.fixture(scope="module")
def values() -> dict[str, bytes]:
    return fresh_values()


@pytest.fixture(scope="module")
def holder(values: dict[str, bytes]) -> Iterator[KeyHolder]:
    """The token's process, with every key on the token."""
    holder = KeyHolder()
    listed = json.dumps({name: value.hex() for name, value in values.items()})
    subprocess.run(
        [sys.executable, str(ROOT / "tests/confined_keys.py")],
        env=holder.environment,
        input=listed.encode(),
        check=True,
        timeout=60,
    )
    yield holder
    holder.close()


@pytest.mark.parametrize("residency", ["token", "host"])
def test_no_long_term_key_is_in_the_memory_of_the_server(
    holder: KeyHolder, values: dict[str, bytes], residency: str
) -> None:
    """With ``token`` residency no session key is there either; with ``host`` they are, as the README says."""
    server = Server(holder.environment, residency)
    try:
        session = {f"session key {number}": value for number, value in enumerate(talk(server, values))}
        assert server.holds(needles(values)) == set()
        found = server.holds(session)
        assert found == (set() if residency == "token" else set(session))

        # The scan itself: planted in this way, each of the values would have been seen.
        planted = {name: value[::-1] for name, value in needles(values).items()}
        for value in planted.values():
            server.plant(value)
        assert server.holds(planted) == set(planted)
    finally:
        server.close()

"""A running software deployment moves into a token: what it issued before stays valid, as recorded messages show."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ceremony_fixture import PROVISIONING
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
from hsm_msl.msl.server import MslServer, Request
from recorded_exchange import Recording, recordings, split
from recorded_network import server_context
from recorded_token import TokenHome, recorded_secrets
from softhsm_fixture import SoftHsmStore

TRANSPORT = '[[key]]\nprofile = "transport-unwrap"\nbits = 2048\n'


class Migration:
    """The new token's directory, and the real command on it."""

    def __init__(self, directory: Path, store: SoftHsmStore, label: str) -> None:
        self.directory = directory
        self.ceremony = directory / "migration.toml"
        self.text = (
            f'ceremony = "migration"\nenvironment = "development"\nprofiles = "{PROVISIONING / "profiles"}"\n'
            f'[token]\nmodule = "{store.module}"\nlabel = "{label}"\nuser_pin = "file:{store.pin_file}"\n'
            f'[records]\ndirectory = "records"\n{TRANSPORT}'
        )

    def do(self, *arguments: str, stdin: bytes = b"") -> str:
        self.ceremony.write_text(self.text)
        done = subprocess.run(
            [sys.executable, "-m", "hsm_provision", *arguments],
            env=dict(os.environ),
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def take(self, profile: str, form: str, value: bytes, *, purpose: str = "") -> None:
        """Seal a key of the old host, as its own process there would, and ask for it in the ceremony."""
        name = f"{purpose or 'own'}.{profile}.sealed"
        arguments = ["seal", profile, "/dev/stdin", "--form", form, "--for", "transport.pem", "--out", name]
        self.do(*arguments, "--profiles", str(PROVISIONING / "profiles"), stdin=value)
        named = f'purpose = "{purpose}"\n' if purpose else ""
        self.text += f'[[key]]\nprofile = "{profile}"\n{named}import = {{ file = "{name}", form = "sealed" }}\n'


@pytest.fixture(scope="module")
def migrated(softhsm_store: SoftHsmStore, tmp_path_factory: pytest.TempPathFactory) -> TokenHome:
    """Return the token of the deployment, after its keys were sealed on the old host and imported."""
    label = softhsm_store.take()
    move = Migration(tmp_path_factory.mktemp("migration"), softhsm_store, label)
    move.do("apply", "migration.toml")
    move.do("public-key", "migration.toml", "transport.unwrap.v1", "--out", "transport.pem")
    found = recorded_secrets()
    server, client = found[""], found["client1"]
    for profile, member in (
        ("msl-token-encryption", "msl_token_enc_key_hex"),
        ("msl-token-mac", "msl_token_hmac_key_hex"),
        ("msl-token-wrap", "msl_token_wrap_key_hex"),
    ):
        move.take(profile, "hex", server[member].encode())
    for profile, member in (
        ("service-token-encryption", "service_token_enc_key_hex"),
        ("service-token-mac", "service_token_hmac_key_hex"),
    ):
        move.take(profile, "raw", bytes.fromhex(server[member]), purpose="service.st_default1")
    move.take("rsa-identity", "pkcs8", base64.b64decode(server["server_rsa_pkcs8_b64"]))
    for role, member in (("encryption", "enc"), ("mac", "hmac"), ("wrap", "wrap")):
        value = base64.urlsafe_b64encode(bytes.fromhex(client[f"psk_{member}_key_hex"])).decode().rstrip("=")
        jwk = json.dumps({"kty": "oct", "k": value}).encode()
        move.take(f"psk-{role}", "jwk", jwk, purpose="psk.client1")
    move.do("apply", "migration.toml")
    assert "the token is as the manifest says" in move.do("verify", "migration.toml")
    loaded = module.load(softhsm_store.module)
    return TokenHome(open_token(loaded, TokenSelector(label=label), FilePin(softhsm_store.pin_file), SOFTHSM))


def shown(recording: Recording) -> list[dict[str, Any]]:
    """Return the pairs in which a client shows a token that the reference server then accepted."""
    return [
        pair for pair in recording.pairs if "mastertoken" in pair["request"] and pair["response"]["type"] != "error"
    ]


FIELD = [recording for recording in recordings(entity_auth=("PSK",)) if shown(recording)]


def test_there_are_messages_with_tokens_of_the_old_deployment() -> None:
    assert len(FIELD) >= 10


@pytest.mark.parametrize("recording", FIELD, ids=lambda recording: str(recording.name))
def test_a_token_in_the_field_opens_after_the_migration(recording: Recording, migrated: TokenHome) -> None:
    """The client shows a master token (and user ID token) the reference server issued; our first sight of it."""
    now = 0.0
    seen: list[Request] = []

    def echo(request: Request) -> bytes:
        seen.append(request)
        return request.payload

    server = MslServer(server_context(recording, migrated, lambda: now), echo)
    for pair in shown(recording):
        now = pair["request"]["header"]["timestamp"]
        answer = split(server.handle(bytes.fromhex(pair["request_hex"])))
        assert "headerdata" in answer[0], answer[0]
        assert seen[-1].entity == recording.identity
        assert "mastertoken" in answer[0]

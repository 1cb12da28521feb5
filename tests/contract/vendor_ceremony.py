"""A ceremony on one vendor's token, and a server on its keys; run in its process by ``vendor_runs``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_csr
from pkcs11 import Mechanism

from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import KeyPolicyError, MechanismUnsupportedError
from hsm_msl.service.http_client import HttpClient
from service_world import DEMO, ROOT, ServiceWorld

SECONDS = 120.0
IDENTITY = "identity.rsa.v1"
BLOCKS = 'wrap = "blocks"\n'
RECORDS = '\n[records]\ndirectory = "records"\nsigning_key = "audit.signing.v1"\n'
CLIENT_AND_USER = """
[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
create_missing_files = true

[users]
database = "users.sqlite"

[[users.user]]
email = "user@example.com"
password = "users/user.password"
create_missing_file = true
"""
MANIFEST = """
[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"
every = 1

[users]"""


class Bench:
    """A ceremony directory for the token of this process."""

    def __init__(self, directory: Path, token: Token) -> None:
        self.directory = directory
        mechanisms = token.connection.mechanisms
        self.curves = Mechanism.ECDSA in mechanisms
        self.secrets = Mechanism.GENERIC_SECRET_KEY_GEN in mechanisms
        self.wraps = Mechanism.AES_KEY_WRAP in mechanisms
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        self.world = ServiceWorld(directory, {**kept, "COLUMNS": "200"})
        self.ceremony = directory / "ceremony.toml"
        self.ceremony.write_text("".join(self._document()))

    @property
    def made(self) -> bool:
        """Whether a ceremony was carried out."""
        return (self.directory / "records/manifest.json").exists()

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        """Run ``hsm-provision`` to its end; return its exit status and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "hsm_provision", *map(str, arguments), "-C", str(self.directory)],
            env=self.world.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout + done.stderr

    def done(self, *arguments: str | Path) -> str:
        """Run ``hsm-provision``, which must succeed; return what it printed."""
        code, text = self.run(*arguments)
        assert code == 0, text
        return text

    def apply(self) -> None:
        """Make the keys, or raise what the token is refused for once it is clear that nothing was left on it."""
        planned = self.done("plan", self.ceremony)
        digest = re.search("plan hash: ([0-9a-f]{64})", planned)
        assert digest is not None, planned
        code, text = self.run("apply", self.ceremony, "--plan-hash", digest[1])
        if code == 5:
            assert "did not prove itself" in text
            assert "destroyed again" in text
            assert self.done("plan", self.ceremony) == planned
            raise KeyPolicyError(text)
        assert code == 0, text
        assert "every key is proved" in text

    def server_config(self) -> Path:
        """Write the configuration of a server on these keys, which follows the manifest."""
        sample = (DEMO / "server.toml").read_text()
        token, service = (re.search(pattern, sample, re.DOTALL) for pattern in (_TOKEN, _SERVICE))
        assert token is not None
        assert service is not None
        return self.world.server_config(
            "server.toml",
            (token[1], "".join(_token(f"file:{os.environ['HSM_MSL_TOKEN_PIN_FILE']}", "pin"))),
            (service[0], ""),
            ("[users]", MANIFEST),
        )

    def _document(self) -> Iterator[str]:
        yield 'ceremony = "vendor"\nenvironment = "development"\n'
        yield f'profiles = "{ROOT / "provisioning/profiles"}"\n\n[token]\n'
        yield from _token(f"file:{os.environ['HSM_MSL_TOKEN_PIN_FILE']}", "user_pin")
        if self.secrets and not self.wraps:
            yield BLOCKS
        yield RECORDS
        yield _key("audit-signing" if self.curves else "audit-signing-rsa")
        yield _key("rsa-identity")
        if self.curves:
            yield _key("ec-identity")
        if self.secrets:
            for role in ("encryption", "mac", "wrap"):
                yield _key(f"msl-token-{role}")
            yield CLIENT_AND_USER


_TOKEN = r"\[tokens\.development\]\n(.*?)\n\n"
_SERVICE = r'\[keys\."service\.development"\].*?(?=\[\[entities\]\])'


def _token(pin: str, called: str) -> Iterator[str]:
    """Yield the lines that name the token of this process, in a ceremony as in a configuration."""
    environment = os.environ
    yield f'module = "{environment["HSM_MSL_TOKEN_MODULE"]}"\n'
    yield f'vendor = "{environment["HSM_MSL_TOKEN_PROFILE"]}"\n'
    yield f'label = "{environment["HSM_MSL_TOKEN_LABEL"]}"\n'
    if environment["HSM_MSL_TOKEN_RESERVED"]:
        yield f"parameters = '''{environment['HSM_MSL_TOKEN_RESERVED']}'''\n"
    yield f'{called} = "{pin}"\n'


def _key(profile: str) -> str:
    return f'\n[[key]]\nprofile = "{profile}"\n'


@pytest.fixture(scope="module")
def bench(vendor_token: Token, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ceremony"), vendor_token)


def test_a_ceremony_makes_keys_that_prove_themselves(bench: Bench) -> None:
    if bench.secrets and not bench.wraps:
        hopeful = bench.directory / "hopeful.toml"
        hopeful.write_text(bench.ceremony.read_text().replace(BLOCKS, ""))
        code, text = bench.run("apply", hopeful)
        assert code == 3, text
        assert "msl.token.wrap.v1: the token lacks AES_KEY_WRAP; with `wrap" in text
    bench.apply()
    assert "0 change(s)" in bench.done("plan", bench.ceremony)
    assert "the token is as the manifest says" in bench.done("verify", bench.ceremony)


def test_a_token_without_key_wrap_says_so_before_a_backup_key_is_split(bench: Bench) -> None:
    if not bench.made:
        raise KeyPolicyError("no key proved itself")
    shares = bench.directory / "shares"
    code, text = bench.run("backup-key", bench.ceremony, "--shares-to", shares, "--yes")
    if bench.wraps:
        assert code == 0, text
        assert len(list(shares.iterdir())) == 5
    else:
        assert code == 3, text
        assert "the token lacks AES_KEY_WRAP" in text
        assert not shares.exists()


def test_a_request_for_a_certificate_is_signed_by_an_identity_of_a_ceremony(bench: Bench) -> None:
    if not bench.made:
        raise KeyPolicyError("no key proved itself")
    request = bench.directory / "identity.csr"
    bench.done("csr", bench.ceremony, IDENTITY, "--subject", "CN=server", "--out", request)
    assert load_pem_x509_csr(request.read_bytes()).is_signature_valid


def test_a_server_serves_with_the_keys_of_a_ceremony_through_a_rotation(bench: Bench) -> None:
    if not bench.secrets:
        raise MechanismUnsupportedError("the token takes no secret key")
    if not bench.made:
        raise KeyPolicyError("no key proved itself")
    world = bench.world
    config = bench.server_config()
    world.client_config("client.toml")
    bench.done("public-key", bench.ceremony, "audit.signing.v1", "--out", bench.directory / "audit.pem")
    bench.done("public-key", bench.ceremony, IDENTITY, "--out", bench.directory / "server.pem")
    with world.serve(config) as server, closing(world.client()) as client, HttpClient(client.msl, server.url) as http:
        assert http.request(client.message(b"before")).payload == b"before"
        bench.done("rotate", bench.ceremony, "msl.token", "--yes")
        deadline = time.monotonic() + SECONDS
        while "version 2 makes" not in server.log.read_text():
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
        assert http.request(client.message(b"after")).payload == b"after"
        with closing(world.client()) as other, HttpClient(other.msl, server.url) as anew:
            assert anew.request(other.message(b"anew")).payload == b"anew"
    assert "the token is as the manifest says" in bench.done("verify", bench.ceremony)


def test_an_attribute_the_token_does_not_know_is_named_in_the_ceremony(vendor_token: Token, tmp_path: Path) -> None:
    """As on a token nobody has a profile for. The last test: its keys are in no manifest of the others."""
    profile = vendor_token.connection.profile
    if profile.forced_uses:
        raise MechanismUnsupportedError("it takes no template without its own uses")
    bench = Bench(tmp_path, vendor_token)
    text = re.sub(r"signing_key.*\n", "", bench.ceremony.read_text().partition("[[key]]")[0])
    unnamed = text.replace(f'"{profile.name}"', '"generic"') + _key("rsa-identity")
    unnamed = f'{unnamed}purpose = "generic"\n'
    bench.ceremony.write_text(unnamed)
    code, said = bench.run("apply", bench.ceremony)
    if profile.unknown_attributes:
        assert code != 0
        assert "generating generic.rsa.v1: the token" in said
        names = [attribute.name for attribute in profile.unknown_attributes]
        bench.ceremony.write_text(unnamed.replace("[records]", f"unknown_attributes = {names}\n[records]"))
        bench.apply()
    else:
        assert code == 0, said

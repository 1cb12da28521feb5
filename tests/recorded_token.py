"""The recorded keys inside a SoftHSMv2 token, put there by the real provisioning command."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
from hsm_msl.ports import SigningKey, SymmetricKeys
from recorded_exchange import FOLDER
from softhsm_fixture import SoftHsmStore

PROFILES = Path(__file__).parents[1] / "provisioning/profiles"
ENTITIES = ("client1", "mgk1")


class TokenHome:
    """Keys inside the token; the values given are ignored, since the ceremony imported them before.

    Args:
        token: the token, logged in.
    """

    def __init__(self, token: Token) -> None:
        self.token = token

    def symmetric(self, name: str, encryption: bytes, mac: bytes, wrapping: bytes | None) -> SymmetricKeys:
        return SymmetricKeys(
            self.token.aes_key(f"{name}.encryption.v1"),
            self.token.mac_key(f"{name}.mac.v1"),
            None if wrapping is None else self.token.wrapping_key(f"{name}.wrap.v1"),
            name,
        )

    def signing(self, name: str, pkcs8: bytes) -> SigningKey:
        return self.token.signing_key(f"{name}.v1")


def recorded_secrets() -> dict[str, dict[str, str]]:
    """Return the recorded long-term keys: the server's under an empty name, the others by entity."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text())
        for name, value in data["secrets"].items():
            owner = data["entity_identity"] if name.startswith("psk_") else ""
            found.setdefault(owner, {})[name] = value
    return found


def write_ceremony(directory: Path, store: SoftHsmStore, label: str) -> Path:
    """Write the recorded keys to files and a ceremony that imports them."""
    secrets = recorded_secrets()
    server = secrets[""]
    imports = {
        "msl-token-encryption": ("", server["msl_token_enc_key_hex"]),
        "msl-token-mac": ("", server["msl_token_hmac_key_hex"]),
        "msl-token-wrap": ("", server["msl_token_wrap_key_hex"]),
        "service-token-encryption": ("service.st_default1", server["service_token_enc_key_hex"]),
        "service-token-mac": ("service.st_default1", server["service_token_hmac_key_hex"]),
    }
    lines = [
        'ceremony = "recorded"\nenvironment = "development"\n',
        f'profiles = "{PROFILES}"\n',
        f'[token]\nmodule = "{store.module}"\nlabel = "{label}"\nuser_pin = "file:{store.pin_file}"\n',
        '[records]\ndirectory = "records"\n',
    ]

    def secret_file(name: str, content: bytes) -> str:
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return name

    for profile, (purpose, value) in imports.items():
        file = secret_file(f"{profile}.hex", value.encode())
        named = f'purpose = "{purpose}"\n' if purpose else ""
        lines.append(f'[[key]]\nprofile = "{profile}"\n{named}import = {{ file = "{file}", form = "hex" }}\n')
    file = secret_file("identity.p8", base64.b64decode(server["server_rsa_pkcs8_b64"]))
    lines.append(f'[[key]]\nprofile = "rsa-identity"\nimport = {{ file = "{file}", form = "pkcs8" }}\n')
    for identity in ENTITIES:
        files = {
            role: secret_file(f"{identity}.{role}.hex", secrets[identity][f"psk_{wire}_key_hex"].encode())
            for role, wire in (("encryption", "enc"), ("mac", "hmac"), ("wrap", "wrap"))
        }
        members = "".join(f'{role} = "{name}"\n' for role, name in files.items())
        lines.append(f'[[preshared]]\nidentity = "{identity}"\n{members}')
    path = directory / "recorded.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def token_home(softhsm_store: SoftHsmStore, tmp_path_factory: pytest.TempPathFactory) -> TokenHome:
    """Return the recorded keys in a token of this process's store."""
    directory = tmp_path_factory.mktemp("recorded")
    label = softhsm_store.take()
    ceremony = write_ceremony(directory, softhsm_store, label)
    done = subprocess.run(
        [sys.executable, "-m", "hsm_provision", "apply", str(ceremony)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=directory,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = module.load(softhsm_store.module)
    return TokenHome(open_token(loaded, TokenSelector(label=label), FilePin(softhsm_store.pin_file), SOFTHSM))

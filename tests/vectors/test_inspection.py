"""``hsm-msl inspect`` on every recorded exchange: what it shows is what the recording decoded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hsm_msl.service.compose.inspection import compose_inspection
from hsm_msl.service.inspection import HIDDEN, MISFIT, VERIFIED, Inspector
from recorded_exchange import FOLDER

FILES = sorted(FOLDER.glob("*.json"))
READABLE = {"PSK", "RSA", "NONE", "NONE_SUFFIXED"}


def key_file(recording: dict[str, Any], directory: Path) -> Path:
    secrets = recording["secrets"]
    server = load_der_private_key(base64.b64decode(secrets["server_rsa_pkcs8_b64"]), None).public_key()
    (directory / "server.pem").write_bytes(server.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def pair(table: str, name: str, extra: str = "") -> str:
        return (
            f"[[{table}]]\n{extra}"
            f'encryption = "{secrets[f"{name}_enc_key_hex"]}"\nmac = "{secrets[f"{name}_hmac_key_hex"]}"\n'
        )

    text = pair("token_keys", "msl_token") + pair("service_token_keys", "service_token")
    text += f'[[rsa]]\nkey_id = "{secrets["server_rsa_pubkeyid"]}"\npublic_key = "server.pem"\n'
    if "psk_enc_key_hex" in secrets:
        text += pair("psk", "psk", f'identity = "{recording["entity_identity"]}"\n')
    path = directory / "keys.toml"
    path.write_text(text)
    return path


def shown(message: dict[str, Any]) -> str:
    data = message.get("payload", {}).get("data", {})
    return data.get("text", "").encode().hex() if "text" in data else data.get("hex", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_exchange(path: Path, tmp_path: Path) -> None:
    recording = json.loads(path.read_text())
    inspector = Inspector(compose_inspection(key_file(recording, tmp_path)))
    for exchange in recording["exchanges"]:
        for side in ("request", "response"):
            recorded = exchange[side]
            report = inspector.inspect(bytes.fromhex(exchange[f"{side}_hex"]))
            assert "problem" not in report, report
            (message,) = report["messages"]
            scheme = recorded.get("entityauthdata", {}).get("scheme")
            assert (message["type"] == "error") == (recorded["type"] == "error")
            if scheme is not None and scheme not in READABLE:
                continue
            assert message["signature"] != MISFIT
            if scheme != "RSA" or side == "response":
                assert message["signature"] in (VERIFIED, "none to check")
            if recorded["type"] == "error":
                assert message["header"]["internalcode"] == recorded["errordata"]["internalcode"]
                continue
            assert message["header"]["messageid"] == recorded["header"]["messageid"]
            if "userauthdata" in message["header"]:
                assert message["header"]["userauthdata"]["authdata"]["password"] == HIDDEN
            problems = [
                chunk["problem"] for chunk in message.get("payload", {"chunks": ()})["chunks"] if "problem" in chunk
            ]
            if path.stem.endswith("len20000") and problems:
                # 20000 equal bytes are beyond the inflation limit, for every reader.
                assert all("UNCOMPRESSION_ERROR" in problem for problem in problems)
                continue
            assert not problems
            assert shown(message) == recorded.get("application_data_hex", "")


def test_nothing_can_be_read_without_keys() -> None:
    recording = json.loads(next(path for path in FILES if path.stem.startswith("PSK_client1.DIFFIE")).read_text())
    report = Inspector(compose_inspection(None)).inspect(bytes.fromhex(recording["exchanges"][1]["request_hex"]))
    (message,) = report["messages"]
    assert message["header"]["encrypted"]["ciphertext_bytes"] > 0
    assert message["master_token"]["signature"] == "not checked: no key given"
    assert "sessiondata" not in message["master_token"]
    assert recording["exchanges"][1]["request"]["application_data_hex"] not in json.dumps(report)

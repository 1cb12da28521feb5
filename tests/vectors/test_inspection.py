"""``hsm-msl inspect`` on every recorded exchange: what it shows is what the recording decoded."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hsm_msl.crypto.sealing import LocalHmacKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.ports import SymmetricKeys
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


def altered(change: Callable[[dict[str, Any]], object], payload: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the report on an unprotected message with altered header data."""
    header: dict[str, Any] = {"messageid": 1, "renewable": False}
    change(header)
    outer = {"entityauthdata": {"scheme": "NONE", "authdata": {"identity": "x"}}, "signature": ""}
    objects = [{**outer, "headerdata": base64.b64encode(json.dumps(header).encode()).decode()}]
    if payload is not None:
        objects.append({"payload": base64.b64encode(json.dumps(payload).encode()).decode(), "signature": ""})
    body = "".join(json.dumps(obj) for obj in objects).encode()
    (message,) = Inspector(compose_inspection(None)).inspect(body)["messages"]
    return message


@pytest.mark.parametrize(
    ("userauthdata", "shown"),
    [
        (
            {"scheme": "EMAIL_PASSWORD", "authdata": {"email": "a@b.c", "password": "s3cret"}},
            {"scheme": "EMAIL_PASSWORD", "authdata": {"email": "a@b.c", "password": HIDDEN}},
        ),
        (
            {"scheme": "COMPANY_PIN", "authdata": {"pin": "s3cret", "token": {"inner": "s3cret"}}},
            {"scheme": "COMPANY_PIN", "authdata": {"pin": HIDDEN, "token": HIDDEN}},
        ),
        ("s3cret", HIDDEN),
        ({"scheme": "X", "authdata": "s3cret"}, HIDDEN),
    ],
)
def test_credentials_of_any_scheme_stay_out(userauthdata: object, shown: object) -> None:
    """A scheme of one's own has names of its own for what proves the user."""
    report = altered(lambda header: header.update(userauthdata=userauthdata))
    assert report["header"]["userauthdata"] == shown
    assert "s3cret" not in json.dumps(report)


@pytest.mark.parametrize("algorithm", ["", "gzip", "BROTLI"])
def test_an_unknown_compression_is_a_problem_of_its_chunk(algorithm: str) -> None:
    chunk = {"data": "AAAA", "messageid": 1, "sequencenumber": 1, "endofmsg": True, "compressionalgo": algorithm}
    report = altered(lambda header: None, chunk)
    assert "UNIDENTIFIED_COMPRESSION" in report["payload"]["chunks"][0]["problem"]


@pytest.mark.parametrize("algorithm", ["", "gzip", "BROTLI"])
def test_an_unknown_compression_is_a_problem_of_its_service_token(algorithm: str) -> None:
    raw = json.dumps({"name": "x", "encrypted": False, "compressionalgo": algorithm, "servicedata": "AAAA"}).encode()
    service = SymmetricContext(SymmetricKeys(mac=LocalHmacKey(b"k" * 32)), "", bytes)
    token = {"tokendata": base64.b64encode(raw).decode(), "signature": base64.b64encode(service.sign(raw)).decode()}
    header = base64.b64encode(json.dumps({"messageid": 1, "servicetokens": [token]}).encode()).decode()
    entity = {"scheme": "NONE", "authdata": {"identity": "a"}}
    body = json.dumps({"entityauthdata": entity, "headerdata": header, "signature": ""}).encode()
    report = Inspector(replace(compose_inspection(None), service={"": service})).inspect(body)
    assert "UNIDENTIFIED_COMPRESSION" in report["messages"][0]["service_tokens"][0]["problem"]


def test_nothing_can_be_read_without_keys() -> None:
    recording = json.loads(next(path for path in FILES if path.stem.startswith("PSK_client1.DIFFIE")).read_text())
    report = Inspector(compose_inspection(None)).inspect(bytes.fromhex(recording["exchanges"][1]["request_hex"]))
    (message,) = report["messages"]
    assert message["header"]["encrypted"]["ciphertext_bytes"] > 0
    assert message["master_token"]["signature"] == "not checked: no key given"
    assert "sessiondata" not in message["master_token"]
    assert recording["exchanges"][1]["request"]["application_data_hex"] not in json.dumps(report)

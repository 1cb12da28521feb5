"""Every recorded request with one member changed: missing, null, of another type, out of range, flipped.

What our server answers is what the order of checks says (msl-wire sections 4 to 9, msl-engine section 6; the table in
``request_rules``), or the same as to the request as it was. Never anything unnamed.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hsm_msl.backend.software import SoftwareSigningKey
from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.context import CryptoContext, protect
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode as E
from hsm_msl.msl.server import MslServer
from hsm_msl.ports import SignatureScheme, SymmetricKeys
from recorded_exchange import Recording, recordings, split
from recorded_network import SoftwareHome, public_half, server_context
from request_rules import ABSENT, AS_BEFORE, FLIPPED, RULES

Object = dict[str, Any]
Path = tuple[str | int, ...]

HOME = SoftwareHome()


@dataclass(frozen=True)
class Recorded:
    """A recorded request that can be written anew with other contents; one context protects all of it."""

    objects: list[Object]
    header: Object
    chunks: list[Object]
    context: CryptoContext

    def layers(self) -> dict[str, Object]:
        first = {"chunk": self.objects[1], "payload": self.chunks[0]} if self.chunks else {}
        return {"outer": self.objects[0], "header": self.header, **first}

    def body(self, layer: str, changed: Object) -> bytes:
        """Return the message with one layer replaced, protected anew where the layer is inside."""
        objects = list(self.objects)
        if layer == "outer":
            objects[0] = changed
        elif layer == "header":
            objects[0] = {**objects[0], **_sealed(self.context, "headerdata", changed)}
        elif layer == "chunk":
            objects[1] = changed
        else:
            objects[1] = _sealed(self.context, "payload", changed)
        return b"".join(map(_text, objects))


def _text(obj: object) -> bytes:
    return json.dumps(obj, separators=(",", ":")).encode()


def _sealed(context: CryptoContext, member: str, content: Object) -> Object:
    protected, signature = protect(context, _text(content))
    return {member: protected, "signature": signature}


def session(decoded: Object) -> CryptoContext:
    keys = [bytes.fromhex(decoded[f"session_{name}_key_hex"]) for name in ("encryption", "hmac")]
    return SymmetricContext(SymmetricKeys(LocalAesKey(keys[0]), LocalHmacKey(keys[1])), "", os.urandom)


def rsa(pkcs8: str) -> CryptoContext:
    return SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, signing=SoftwareSigningKey(base64.b64decode(pkcs8)))


def recorded_request(recording: Recording, pair: Object) -> Recorded:
    sent, secrets = pair["request"], recording.secrets
    if "session_encryption_key_hex" in sent:
        context = session(sent)
    elif "psk_enc_key_hex" in secrets and sent["protection"].startswith("PSK"):
        keys = [bytes.fromhex(secrets[f"psk_{name}_key_hex"]) for name in ("enc", "hmac")]
        context = SymmetricContext(SymmetricKeys(LocalAesKey(keys[0]), LocalHmacKey(keys[1])), "", os.urandom)
    elif sent["protection"] == "RSA":
        context = rsa(secrets["client_rsa_pkcs8_b64"])
    else:
        context = NullContext()
    chunks = [json.loads(chunk["plaintext"]) for chunk in sent["payload_chunks"]]
    return Recorded(split(bytes.fromhex(pair["request_hex"])), json.loads(sent["header_plaintext"]), chunks, context)


def paths(obj: object, path: Path = ()) -> Iterator[Path]:
    members: Any = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    for name, value in members:
        yield (*path, name)
        yield from paths(value, (*path, name))


def put(obj: Object, path: Path, value: object) -> Object:
    """Return a copy with one member changed."""
    changed = copy.deepcopy(obj)
    holder: Any = changed
    for name in path[:-1]:
        holder = holder[name]
    if value is ABSENT:
        del holder[path[-1]]
        return changed
    if value is FLIPPED:
        data = bytearray(base64.b64decode(holder[path[-1]]))
        data[len(data) // 2] ^= 1
        value = base64.b64encode(data).decode()
    holder[path[-1]] = value
    return changed


def features(pair: Object) -> list[str]:
    """Return what patterns of a place may begin with."""
    sent, header = pair["request"], pair["request"]["header"]
    requests = header.get("keyrequestdata", [])
    found = ["session" if "session_encryption_key_hex" in sent else sent["entityauthdata"]["scheme"]]
    found.append("handshake" if header["handshake"] else "message")
    found += [request["scheme"] for request in requests]
    if "keyresponsedata" in pair["response"].get("header", {}):
        found += ["exchange", *(f"{request['scheme']} exchange" for request in requests)]
    if header.get("servicetokens"):
        found.append("tokens")
    return found


def expectations(pair: Object, layer: str, path: Path) -> list[tuple[object, E | str]]:
    """Return values for the member at this place with their answers; of two rules the later one counts."""
    place = ".".join(map(str, (layer, *path)))
    places = [place, *(f"{feature} {place}" for feature in features(pair))]
    cases: dict[str, tuple[object, E | str]] = {}
    for rule in RULES:
        if any(re.fullmatch(rule.path, candidate) for candidate in places):
            cases.update({f"{type(value)} {value!r}": (value, answer) for value, answer in rule.cases()})
    return list(cases.values())


def requests() -> list[Any]:
    """Return the recorded requests, each with those members that no earlier one of the same kind had."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for recording in recordings():
        for number, pair in enumerate(recording.pairs):
            if pair["response"]["type"] == "error":
                continue
            request = recorded_request(recording, pair)
            fresh = []
            for layer, obj in request.layers().items():
                for path in paths(obj):
                    told = features(pair)
                    kind = (layer, *map(str, path), *(told if "keydata" in path else told[:2]))
                    if kind not in seen and expectations(pair, layer, path):
                        seen.add(kind)
                        fresh.append((layer, path))
            if fresh:
                found.append(pytest.param(recording, number, request, fresh, id=f"{recording.name} {number}"))
    return found


@pytest.mark.parametrize(("recording", "number", "request_", "members"), requests())
def test_a_request_with_one_member_changed(
    recording: Recording, number: int, request_: Recorded, members: list[tuple[str, Path]]
) -> None:
    pair = recording.pairs[number]
    sent = pair["request"]["header"]
    key = public_half(recording.secrets["server_rsa_pkcs8_b64"])

    def answer(body: bytes) -> Object | None:
        """Return the error data of a new server's answer, or None."""
        context = server_context(recording, HOME, lambda: float(sent["timestamp"]))
        (first, *_) = split(MslServer(context, lambda request: request.payload).handle(body))
        if "errordata" not in first:
            return None
        data, signature = (base64.b64decode(first[name]) for name in ("errordata", "signature"))
        assert key.verify(data, signature, SignatureScheme.RSA_PKCS1_SHA256)
        error: Object = json.loads(data)
        return error

    assert answer(bytes.fromhex(pair["request_hex"])) is None
    for layer, path in members:
        for value, expected in expectations(pair, layer, path):
            error = answer(request_.body(layer, put(request_.layers()[layer], path, value)))
            named = None if error is None else E(error["internalcode"])
            case = f"{layer} {path} {value!r}: {named!r}"
            if expected is AS_BEFORE:
                assert error is None, case
                continue
            assert named is expected, case
            assert error is not None
            assert error["errorcode"] == named.response, case
            assert error["errormsg"].startswith(named.name), case

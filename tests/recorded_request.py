"""Recorded requests written anew with faults in them, and what a server of ours answers."""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hsm_msl.backend.software import SoftwareSigningKey
from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.context import CryptoContext, protect
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.msl.server import MslServer
from hsm_msl.ports import SignatureScheme, SymmetricKeys
from recorded_exchange import Recording, split
from recorded_network import SoftwareHome, public_half, server_context
from request_rules import ABSENT, FLIPPED

Object = dict[str, Any]
Path = tuple[str | int, ...]

HOME = SoftwareHome()


@dataclass(frozen=True)
class Fault:
    """Another value for one member.

    Attributes:
        layer: ``outer`` or ``header``, ``chunk`` or ``payload`` of the first chunk.
        path: the member's place there.
        value: what to put there; ``ABSENT`` and ``FLIPPED`` have their own meanings.
    """

    layer: str
    path: Path
    value: object


@dataclass(frozen=True)
class RecordedRequest:
    """A recorded request, taken apart; one context protects all of it."""

    recording: Recording
    pair: Object
    objects: list[Object]
    header: Object
    chunks: list[Object]
    context: CryptoContext

    def layers(self) -> dict[str, Object]:
        first = {"chunk": self.objects[1], "payload": self.chunks[0]} if self.chunks else {}
        return {"outer": self.objects[0], "header": self.header, **first}

    def body(self, *faults: Fault) -> bytes:
        """Return the message with faults in it, protected anew where they are inside."""
        objects = list(self.objects)
        for layer, place, member, content in (
            ("header", 0, "headerdata", self.header),
            ("payload", 1, "payload", self.chunks[0] if self.chunks else {}),
        ):
            if any(fault.layer == layer for fault in faults):
                protected, signature = protect(self.context, _text(_with(content, layer, faults)))
                objects[place] = {**objects[place], member: protected, "signature": signature}
        objects[0] = _with(objects[0], "outer", faults)
        if self.chunks:
            objects[1] = _with(objects[1], "chunk", faults)
        return b"".join(map(_text, objects))

    def answer(self, body: bytes, *, seconds: float = 0) -> Object | None:
        """Return the error data of a new server's answer, so many seconds after the recording, or None."""
        recording, now = self.recording, float(self.pair["request"]["header"]["timestamp"]) + seconds
        server = MslServer(server_context(recording, HOME, lambda: now), lambda request: request.payload)
        (first, *_) = split(server.handle(body))
        if "errordata" not in first:
            return None
        data, signature = (base64.b64decode(first[name]) for name in ("errordata", "signature"))
        key = public_half(recording.secrets["server_rsa_pkcs8_b64"])
        assert key.verify(data, signature, SignatureScheme.RSA_PKCS1_SHA256)
        error: Object = json.loads(data)
        return error


def recorded_request(recording: Recording, number: int) -> RecordedRequest:
    """Take a request of a recording apart."""
    pair = recording.pairs[number]
    sent = pair["request"]
    return RecordedRequest(
        recording,
        pair,
        split(bytes.fromhex(pair["request_hex"])),
        json.loads(sent["header_plaintext"]),
        [json.loads(chunk["plaintext"]) for chunk in sent["payload_chunks"]],
        _context(recording, sent),
    )


def paths(obj: object, path: Path = ()) -> Iterator[Path]:
    """Give the place of every member, at any depth."""
    members: Any = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    for name, value in members:
        yield (*path, name)
        yield from paths(value, (*path, name))


def _context(recording: Recording, sent: Object) -> CryptoContext:
    secrets = recording.secrets
    if "session_encryption_key_hex" in sent:
        return _symmetric(sent["session_encryption_key_hex"], sent["session_hmac_key_hex"])
    if sent["protection"].startswith("PSK"):
        return _symmetric(secrets["psk_enc_key_hex"], secrets["psk_hmac_key_hex"])
    if sent["protection"] == "RSA":
        signing = SoftwareSigningKey(base64.b64decode(secrets["client_rsa_pkcs8_b64"]))
        return SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, signing=signing)
    return NullContext()


def _symmetric(encryption: str, mac: str) -> CryptoContext:
    keys = SymmetricKeys(LocalAesKey(bytes.fromhex(encryption)), LocalHmacKey(bytes.fromhex(mac)))
    return SymmetricContext(keys, "", os.urandom)


def _text(obj: object) -> bytes:
    return json.dumps(obj, separators=(",", ":")).encode()


def _with(obj: Object, layer: str, faults: Iterable[Fault]) -> Object:
    changed = copy.deepcopy(obj)
    for fault in faults:
        if fault.layer == layer:
            _put(changed, fault.path, fault.value)
    return changed


def _put(obj: Object, path: Path, value: object) -> None:
    holder: Any = obj
    for name in path[:-1]:
        holder = holder[name]
    if value is ABSENT:
        del holder[path[-1]]
        return
    if value is FLIPPED:
        data = bytearray(base64.b64decode(holder[path[-1]]))
        data[len(data) // 2] ^= 1
        value = base64.b64encode(data).decode()
    holder[path[-1]] = value

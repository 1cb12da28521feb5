"""Takes recorded messages apart: what they carry, what protects each part and, given keys, what is inside.

Unlike the engine it goes on where something is wrong, checks no policy, changes no state, and says which keys it
would need. Session keys and users' credentials stay out of the result even when they could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.tokens.master_token import session_context
from hsm_msl.ports import RandomBytes, SessionVault
from hsm_msl.wire import codec, compression, envelope, fields
from hsm_msl.wire.tokenizer import Tokenizer

Report = dict[str, Any]
"""Text, numbers, truth values, lists and reports, ready to be written as JSON."""

Value = TypeVar("Value")

HIDDEN = "(hidden)"
_SHOWN_CREDENTIALS = frozenset({"email"})
_SESSION_KEYS = frozenset({"encryptionkey", "hmackey", "signaturekey"})
_READ_LATER = frozenset({"keyresponsedata", "useridtoken", "servicetokens", "peermastertoken", "peeruseridtoken"})

VERIFIED = "verified"
NO_KEY = "not checked: no key given"
MISFIT = "DOES NOT FIT"


@dataclass(frozen=True, slots=True)
class InspectionKeys:
    """The keys an inspection may use, all as handles; everything is optional.

    Attributes:
        token_keys: keys of master and user ID tokens.
        preshared: contexts of entities with pre-shared keys, by identity.
        public: contexts of RSA keys, by key ID.
        service: contexts of service tokens by name; the empty name is for all others.
        sessions: contexts of sessions whose master token cannot be opened; each is tried.
    """

    token_keys: TokenKeys
    vault: SessionVault
    random: RandomBytes
    preshared: Mapping[str, CryptoContext] = field(default_factory=dict)
    public: Mapping[str, CryptoContext] = field(default_factory=dict)
    service: Mapping[str, CryptoContext] = field(default_factory=dict)
    sessions: Sequence[CryptoContext] = ()


class Inspector:
    """Takes messages apart with the keys given.

    Args:
        keys: what may be used to verify and open.
    """

    def __init__(self, keys: InspectionKeys) -> None:
        self._keys = keys

    def inspect(self, body: bytes) -> Report:
        """Return a report on every message in ``body``, requests and responses alike; raises nothing."""
        tokenizer = Tokenizer()
        tokenizer.feed(body)
        messages: list[Report] = []
        report: Report = {"bytes": len(body), "messages": messages}
        chunks: _Chunks | None = None
        try:
            while (outer := tokenizer.next_object()) is not None:
                if "payload" in outer and chunks is not None:
                    chunks.add(outer)
                    continue
                message, chunks = self._message(outer)
                messages.append(message)
            if tokenizer.pending:
                report["problem"] = "the recording ends inside an object"
        except MslError as error:
            report["problem"] = str(error)
        if not messages and "problem" not in report:
            report["problem"] = "empty: there is no message in it"
        return report

    def _message(self, outer: Mapping[str, Any]) -> tuple[Report, _Chunks]:
        report: Report = {"type": "error" if "errordata" in outer and "headerdata" not in outer else "message"}
        context, protection = self._header_context(outer, report)
        report["protected_by"] = protection
        member = "errordata" if report["type"] == "error" else "headerdata"
        header = _guarded(report, lambda: _open(outer, member, context, self._keys.sessions))
        if header is None:
            return report, _Chunks(report, None, ())
        report["signature"] = header.verdict
        if header.envelope is not None:
            report["header"] = {"encrypted": header.envelope}
            return report, _Chunks(report, None, self._keys.sessions)
        context = header.context or context
        data = header.data
        report["header"] = {name: value for name, value in data.items() if name not in _READ_LATER}
        if "userauthdata" in data:
            report["header"]["userauthdata"] = _credentials(data["userauthdata"])
        if report["type"] == "error":
            _name_codes(report["header"])
            return report, _Chunks(report, None, ())
        if report["header"].get("handshake") is True:
            report["type"] = "handshake"
        return report, _Chunks(report, self._contents(data, report, context), self._keys.sessions)

    def _contents(
        self, data: Mapping[str, Any], report: Report, context: CryptoContext | None
    ) -> CryptoContext | None:
        """Add the tokens of a header to the report; return what protects the payload."""
        response = data.get("keyresponsedata")
        if isinstance(response, dict):
            token, context = self._master_token(response.get("mastertoken"))
            report["key_response"] = {
                "scheme": response.get("scheme"),
                "master_token": token,
                "keydata": response.get("keydata"),
            }
            report["payload_protected_by"] = f"the new session keys, in master token {_label(token)}"
        for member, name in (("useridtoken", "user_id_token"), ("peeruseridtoken", "peer_user_id_token")):
            if member in data:
                report[name] = self._token(data[member], "userdata")
        if "peermastertoken" in data:
            report["peer_master_token"] = self._master_token(data["peermastertoken"])[0]
        tokens = data.get("servicetokens")
        if isinstance(tokens, list):
            report["service_tokens"] = [self._service_token(token) for token in tokens]
        return context

    def _header_context(self, outer: Mapping[str, Any], report: Report) -> tuple[CryptoContext | None, str]:
        if "mastertoken" in outer:
            token, context = self._master_token(outer["mastertoken"])
            report["master_token"] = token
            return context, f"the session keys in master token {_label(token)}"
        entity = outer.get("entityauthdata")
        if not isinstance(entity, dict):
            return None, "nothing this program can name: neither master token nor entity authentication data"
        report["entity_auth"] = entity
        authdata = entity.get("authdata")
        authdata = authdata if isinstance(authdata, dict) else {}
        identity, key_id = str(authdata.get("identity", "")), str(authdata.get("pubkeyid", ""))
        match entity.get("scheme"):
            case "PSK":
                return self._keys.preshared.get(identity), f"the pre-shared keys of {identity!r}"
            case "RSA":
                return self._keys.public.get(key_id), f"a signature by RSA key {key_id!r}; not encrypted"
            case "NONE" | "NONE_SUFFIXED":
                return NullContext(), "nothing: this scheme neither signs nor encrypts"
            case scheme:
                return None, f"entity authentication scheme {scheme!r}, which this inspection cannot open"

    def _master_token(self, obj: object) -> tuple[Report, CryptoContext | None]:
        report, context = self._clear_part(obj, "sessiondata")
        sealed = report.pop("_secret", b"")
        if context is None:
            return report, None
        try:
            session = self._keys.vault.open(sealed, context)
            secret = codec.decode(context.decrypt(sealed))
        except MslError as error:
            report["problem"] = str(error)
            return report, None
        report["sessiondata"] = {name: value for name, value in secret.items() if name not in _SESSION_KEYS}
        sequence = report.get("sequencenumber")
        number = sequence if isinstance(sequence, int) else 0
        return report, session_context(session.identity, number, session.keys, self._keys.random)

    def _token(self, obj: object, secret: str) -> Report:
        report, context = self._clear_part(obj, secret)
        sealed = report.pop("_secret", b"")
        if context is not None:
            opened = _guarded(report, lambda: codec.decode(context.decrypt(sealed)))
            report[secret] = opened
        return report

    def _clear_part(self, obj: object, secret: str) -> tuple[Report, CryptoContext | None]:
        """Return a token's clear members (the sealed one under ``_secret``) and the context of its issuer."""
        report: Report = {}
        try:
            outer = obj if isinstance(obj, dict) else {}
            raw = fields.binary(outer, "tokendata")
            inner = codec.decode(raw)
            report.update((name, value) for name, value in inner.items() if name != secret)
            report["_secret"] = fields.binary(inner, secret)
            report["protected_by"] = "the token keys of its issuer"
            report["signature"] = NO_KEY
            if not self._keys.token_keys.issues:
                return report, None
            context = self._keys.token_keys.verify(raw, fields.binary(outer, "signature"))
        except MslError as error:
            report.pop("_secret", None)
            report["problem"] = str(error)
            return report, None
        report["signature"] = MISFIT if context is None else VERIFIED
        return report, context

    def _service_token(self, obj: object) -> Report:
        report: Report = {}
        try:
            outer = obj if isinstance(obj, dict) else {}
            raw = fields.binary(outer, "tokendata")
            inner = codec.decode(raw)
            sealed = fields.binary(inner, "servicedata")
            report.update((name, value) for name, value in inner.items() if name != "servicedata")
            name = str(inner.get("name", ""))
            report["protected_by"] = f"the service token keys for {name!r}"
            if not sealed:
                report["servicedata"] = "(empty: tells the receiver to forget this token)"
                return report
            context = self._keys.service.get(name) or self._keys.service.get("")
            report["signature"] = _verdict(context, raw, fields.binary(outer, "signature"))
            if context is None or report["signature"] != VERIFIED:
                return report
            data = context.decrypt(sealed) if inner.get("encrypted") else sealed
            report["servicedata"] = text_or_hex(_uncompressed(data, inner))
        except MslError as error:
            report["problem"] = str(error)
        return report


class _Chunks:
    """Collects the payload chunks of one message into its report."""

    def __init__(self, report: Report, context: CryptoContext | None, sessions: Sequence[CryptoContext]) -> None:
        self._report = report
        self._context = context
        self._sessions = sessions
        self._data = bytearray()

    def add(self, outer: Mapping[str, Any]) -> None:
        chunk: Report = {}
        payload = self._report.setdefault("payload", {"chunks": []})
        payload["chunks"].append(chunk)
        opened = _guarded(chunk, lambda: _open(outer, "payload", self._context, self._sessions))
        if opened is None:
            return
        chunk["signature"] = opened.verdict
        if opened.envelope is not None:
            chunk["encrypted"] = opened.envelope
            return
        chunk.update((name, value) for name, value in opened.data.items() if name != "data")
        data = _guarded(chunk, lambda: _chunk_data(opened.data))
        if data is not None:
            chunk["bytes"] = len(data)
            self._data += data
            payload["data"] = text_or_hex(bytes(self._data))


def _chunk_data(data: Mapping[str, Any]) -> bytes:
    return _uncompressed(fields.binary(data, "data"), data)


def _uncompressed(raw: bytes, inner: Mapping[str, Any]) -> bytes:
    algorithm = fields.optional_string(inner, "compressionalgo")
    if algorithm is not None and algorithm not in compression.ALGORITHMS:
        raise MslError(ErrorCode.UNIDENTIFIED_COMPRESSION)
    return compression.uncompress(algorithm, raw) if algorithm is not None and raw else raw


@dataclass(frozen=True, slots=True)
class _Opened:
    verdict: str
    data: Mapping[str, Any]
    envelope: Report | None = None
    context: CryptoContext | None = None


def _open(
    outer: Mapping[str, Any], member: str, context: CryptoContext | None, others: Sequence[CryptoContext]
) -> _Opened:
    """Verify and open one protected member. Raises MslError when it cannot be read."""
    raw = fields.binary(outer, member)
    signature = fields.binary(outer, "signature")
    if context is None:
        context = next((other for other in others if other.verify(raw, signature)), None)
    verdict = _verdict(context, raw, signature)
    if context is not None and verdict == VERIFIED:
        return _Opened(verdict, codec.decode(context.decrypt(raw)), context=context)
    plain = codec.decode(raw)
    if "ciphertext" not in plain:
        return _Opened(verdict, plain)
    iv, ciphertext = envelope.decode_ciphertext(raw)
    return _Opened(
        verdict, {}, {"keyid": plain.get("keyid"), "iv": (iv or b"").hex(), "ciphertext_bytes": len(ciphertext)}
    )


def _verdict(context: CryptoContext | None, data: bytes, signature: bytes) -> str:
    if context is None:
        return NO_KEY
    if isinstance(context, NullContext):
        return "none to check" if not signature else "ignored: this scheme does not sign"
    return VERIFIED if context.verify(data, signature) else MISFIT


def _guarded(report: Report, action: Callable[[], Value]) -> Value | None:
    try:
        return action()
    except MslError as error:
        report["problem"] = str(error)
        return None


def text_or_hex(data: bytes) -> Report:
    """Return bytes as readable text where they are text, else as hexadecimal."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return {"bytes": len(data), "hex": data.hex()}
    if all(character.isprintable() or character in "\t\r\n" for character in text):
        return {"bytes": len(data), "text": text}
    return {"bytes": len(data), "hex": data.hex()}


def _credentials(value: Any) -> Any:
    """Return user authentication data without what proves the user, whatever its scheme calls that."""
    authdata = value.get("authdata") if isinstance(value, dict) else None
    if not isinstance(authdata, dict):
        return HIDDEN
    shown = {name: member if name in _SHOWN_CREDENTIALS else HIDDEN for name, member in authdata.items()}
    return {"scheme": value.get("scheme"), "authdata": shown}


def _name_codes(error: Report) -> None:
    """Add the names of an error header's codes."""
    response, internal = error.get("errorcode"), error.get("internalcode")
    if isinstance(response, int) and response in {code.value for code in ResponseCode}:
        error["errorcode_name"] = ResponseCode(response).name
    if isinstance(internal, int) and internal in {code.value for code in ErrorCode}:
        error["internalcode_name"] = next(code.name for code in ErrorCode if code.value == internal)


def _label(token: Report) -> str:
    return f"{token.get('serialnumber', '?')} (sequence number {token.get('sequencenumber', '?')})"

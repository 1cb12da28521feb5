"""Reading, writing and tampering with MSL messages when a test holds every key.

``Observer`` opens what passes by; ``compose`` writes a message from its parts, whether they make sense or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.context import CryptoContext, protect
from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.tokens.master_token import MasterToken, session_context
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.ports import SessionData, SymmetricKeys
from hsm_msl.wire import binary, codec, compression
from hsm_msl.wire.tokenizer import read_all
from msl_world import LIFETIME, RENEWAL_WINDOW, Device, World, key_requests

MESSAGE_ID = 5000
"""ID of composed requests unless a test sets another."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Sender:
    """What names and protects a composed message: the outer object's member, and the context."""

    outer: Object
    context: CryptoContext


@dataclass(frozen=True)
class Session(Sender):
    """A sender with a master token, as its issuer knows it."""

    token: MasterToken
    keys: SymmetricKeys

    @property
    def wire(self) -> dict[str, object]:
        return self.token.to_wire()


def entity(owner: Device | MslContext) -> Sender:
    """Return the sender that authenticates as the owner with entity authentication data."""
    local = (owner.context if isinstance(owner, Device) else owner).local
    return Sender({"entityauthdata": local.data.to_wire()}, local.context)


def sign_token(context: MslContext, inner: Object) -> dict[str, object]:
    """Return a token of any content under the entity's token keys."""
    raw = codec.encode(inner)
    return {"tokendata": binary.encode(raw), "signature": binary.encode(context.token_keys.primary().sign(raw))}


def session(context: MslContext, identity: str, *, keys: SymmetricKeys | None = None, **tokendata: Any) -> Session:
    """Return a session under a master token of chosen content, without telling the issuer's stores.

    Args:
        context: the issuer.
        identity: whose token it is.
        keys: session keys, fresh unless given.
        tokendata: members that replace the usual ones.
    """
    session_keys = context.vault.generate() if keys is None else keys
    now = int(context.clock())
    sealed = context.vault.seal(SessionData(identity, session_keys), context.token_keys.primary())
    inner: dict[str, Any] = {
        "sessiondata": binary.encode(sealed),
        "renewalwindow": now + RENEWAL_WINDOW,
        "expiration": now + LIFETIME,
        "sequencenumber": 0,
        "serialnumber": 77,
        **tokendata,
    }
    token = MasterToken(
        **sign_token(context, inner),  # type: ignore[arg-type]  # the two members are the first two fields
        renewal_window=inner["renewalwindow"],
        expiration=inner["expiration"],
        sequence_number=inner["sequencenumber"],
        serial_number=inner["serialnumber"],
        session=SessionData(identity, session_keys),
        context=session_context(identity, 0, session_keys, context.random),
    )
    return _session(token)


def issued_session(context: MslContext, identity: str) -> Session:
    """Return a session whose master token the issuer made and remembers."""
    if context.issuer is None:
        raise TypeError("not an issuer")
    return _session(context.issuer.create_master_token(identity, context.vault.generate()))


def _session(token: MasterToken) -> Session:
    if token.context is None or token.session is None:
        raise TypeError("not the issuer's own token")
    return Session({"mastertoken": token.to_wire()}, token.context, token, token.session.keys)


def user_id_token(context: MslContext, master: MasterToken, user: str, **tokendata: Any) -> dict[str, object]:
    """Return a user ID token of chosen content."""
    now = int(context.clock())
    sealed = context.token_keys.primary().encrypt(codec.encode({"identity": user}))
    inner = {
        "userdata": binary.encode(sealed),
        "mtserialnumber": master.serial_number,
        "renewalwindow": now + RENEWAL_WINDOW,
        "expiration": now + LIFETIME,
        "serialnumber": 88,
        **tokendata,
    }
    return sign_token(context, inner)


def password_data(email: str, password: str, scheme: str = "EMAIL_PASSWORD") -> dict[str, object]:
    return {"scheme": scheme, "authdata": {"email": email, "password": password}}


def key_request_data(world: World, *names: str) -> list[dict[str, object]]:
    """Return fresh key requests whose secrets nobody keeps."""
    return [pending.request.to_wire() for pending in key_requests(world.context, names or ("DIFFIE_HELLMAN",))()]


def compose(sender: Sender, payload: bytes | None = b"data", /, **fields: Any) -> bytes:
    """Write a message.

    Args:
        sender: names and protects it.
        payload: application data for one final chunk, or None for no chunk.
        fields: members of the header data; None leaves one out.
    """
    header: dict[str, Any] = {"messageid": MESSAGE_ID, "renewable": False, "handshake": False, **fields}
    head = seal_header(sender, codec.encode(header))
    if payload is None:
        return head
    return head + seal_chunk(sender.context, header["messageid"], 1, payload, endofmsg=True)


def seal_header(sender: Sender, plaintext: bytes, member: str = "headerdata") -> bytes:
    """Write a header, or with ``errordata`` an error header, of any content."""
    protected, signature = protect(sender.context, plaintext)
    return codec.encode({**sender.outer, member: protected, "signature": signature})


def seal_chunk(context: CryptoContext, message_id: int, sequence: int, data: bytes, **fields: Any) -> bytes:
    """Write a chunk of any content."""
    inner = {"data": binary.encode(data), "messageid": message_id, "sequencenumber": sequence, **fields}
    protected, signature = protect(context, codec.encode(inner))
    return codec.encode({"payload": protected, "signature": signature})


def error_message(
    sender: Sender, message_id: int, response: ResponseCode | int, internal: int | None = None, **fields: Any
) -> bytes:
    """Write an error message of any content."""
    data = {"messageid": message_id, "errorcode": int(response), "internalcode": internal, **fields}
    return seal_header(sender, codec.encode(data), "errordata")


@dataclass(frozen=True)
class Opened:
    """A message with everything in it readable.

    Attributes:
        outer: the header object as it travelled.
        data: the header data or error data.
        context: what protects the header.
        payload_context: what protects the chunks.
        chunks: the chunks' contents.
        master_token: the header's master token.
        key_response_token: the key response's master token.
        user_id_token: the user ID token.
        service_tokens: the service tokens.
    """

    outer: Object
    data: Object
    context: CryptoContext
    payload_context: CryptoContext
    chunks: Sequence[Object]
    master_token: MasterToken | None
    key_response_token: MasterToken | None
    user_id_token: UserIdToken | None
    service_tokens: Sequence[ServiceToken]

    @property
    def is_error(self) -> bool:
        return "errordata" in self.outer

    @property
    def message_id(self) -> int:
        value: int = self.data["messageid"]
        return value

    @property
    def code(self) -> ErrorCode:
        return next(code for code in ErrorCode if code.value == self.data.get("internalcode"))

    @property
    def response(self) -> ResponseCode:
        return ResponseCode(self.data["errorcode"])

    @property
    def payload(self) -> bytes:
        parts = []
        for chunk in self.chunks:
            data = binary.decode(chunk["data"])
            parts.append(
                compression.uncompress(chunk["compressionalgo"], data) if "compressionalgo" in chunk else data
            )
        return b"".join(parts)

    @property
    def offers(self) -> list[str]:
        return [request["scheme"] for request in self.data.get("keyrequestdata", [])]

    @property
    def sender(self) -> Sender:
        names = ("entityauthdata", "mastertoken")
        return Sender({name: self.outer[name] for name in names if name in self.outer}, self.context)


class Observer:
    """Opens every message of a world, whoever protected it.

    Args:
        issuers: entities whose tokens may occur.
        owners: entities that authenticate by entity authentication data.
    """

    def __init__(self, issuers: Sequence[MslContext], owners: Sequence[Device | MslContext] = ()) -> None:
        self._issuers = issuers
        self._peers = any(issuer.peer_to_peer for issuer in issuers)
        self._contexts: dict[str, CryptoContext] = {}
        for owner in [*issuers, *owners]:
            local = (owner.context if isinstance(owner, Device) else owner).local
            self._contexts[json.dumps(local.data.to_wire(), sort_keys=True)] = local.context

    def open(self, body: bytes) -> Opened:
        """Open one message. Raises KeyError for an unknown sender."""
        outer, *pieces = read_all(body)
        master = self._token(outer.get("mastertoken"))
        if master is not None and master.context is not None:
            context = master.context
        else:
            context = self._contexts[json.dumps(outer["entityauthdata"], sort_keys=True)]
        member = "errordata" if "errordata" in outer else "headerdata"
        data = _open(context, outer, member)
        response = data.get("keyresponsedata")
        renewed = None if response is None else self._token(response["mastertoken"])
        payload_context = context
        if renewed is not None and renewed.context is not None and not self._peers:
            payload_context = renewed.context
        return Opened(
            outer,
            data,
            context,
            payload_context,
            [_open(payload_context, piece, "payload") for piece in pieces],
            master,
            renewed,
            self._user(data.get("useridtoken"), master if self._peers else renewed or master),
            self._services(data.get("servicetokens", [])),
        )

    def _token(self, wire: Object | None) -> MasterToken | None:
        if wire is None:
            return None
        tokens = [issuer.master_tokens.parse(wire) for issuer in self._issuers]
        return next((token for token in tokens if token.verified), tokens[0])

    def _user(self, wire: Object | None, master: MasterToken | None) -> UserIdToken | None:
        if wire is None:
            return None
        tokens = [issuer.user_id_tokens.parse(wire, master) for issuer in self._issuers]
        return next((token for token in tokens if token.verified), tokens[0])

    def _services(self, wires: Sequence[Object]) -> list[ServiceToken]:
        found = []
        for wire in wires:
            raw = binary.decode(wire["tokendata"])
            inner = codec.decode(raw)
            data: bytes | None = binary.decode(inner["servicedata"])
            context = self._issuers[0].service_token_keys.get("")
            if data and inner["encrypted"]:
                known = context is not None and context.verify(raw, binary.decode(wire["signature"]))
                data = context.decrypt(data) if known and context is not None else None
            serials = inner.get("mtserialnumber"), inner.get("uitserialnumber")
            found.append(ServiceToken(wire["tokendata"], wire["signature"], inner["name"], *serials, data))
        return found


def _open(context: CryptoContext, outer: Object, member: str) -> dict[str, Any]:
    protected = binary.decode(outer[member])
    if not context.verify(protected, binary.decode(outer["signature"])):
        raise ValueError("bad signature")
    return codec.decode(context.decrypt(protected))


def rewrite(opened: Opened, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the message's header anew after a change of its data, under the same keys and without chunks."""
    data = dict(opened.data)
    change(data)
    return seal_header(opened.sender, codec.encode(data), "errordata" if opened.is_error else "headerdata")


def corrupt(body: bytes, member: str = "signature") -> bytes:
    """Return the message with one bit of a binary member of its first object changed."""
    objects = read_all(body)
    value = bytearray(binary.decode(objects[0][member]))
    value[-1] ^= 1
    objects[0][member] = binary.encode(bytes(value))
    return b"".join(codec.encode(obj) for obj in objects)

"""Messages with one fault each, for the rows of the table of receive checks (msl-engine section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import ErrorCode as E
from hsm_msl.errors import ResponseCode as R
from hsm_msl.wire import binary, codec
from msl_messages import (
    Sender,
    Session,
    compose,
    entity,
    issued_session,
    key_request_data,
    session,
    user_id_token,
)
from msl_script import answer, assert_refused
from msl_world import ADA, START, Inbox, World

Make = Callable[[World], bytes]
Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Row:
    """One check: the message that fails it, what it is answered with, and whether the answer's ID can follow."""

    name: str
    make: Make
    code: E
    response: R
    mid: bool = True


def outer(change: Change, sender: Callable[[World], Sender] | None = None) -> Make:
    """Change the outer object of a good message."""

    def make(world: World) -> bytes:
        source = psk(world) if sender is None else sender(world)
        obj = codec.decode(compose(source, None))
        change(obj)
        return codec.encode(obj)

    return make


def header(**fields: Any) -> Make:
    """Put members into the header data of a good message."""
    return lambda world: compose(psk(world), **fields)


def held(**fields: Any) -> Make:
    """The same under a master token."""
    return lambda world: compose(session(world.context, "psk-client"), **fields)


def psk(world: World) -> Sender:
    return entity(world.client("PSK"))


def token(**tokendata: Any) -> Make:
    """Put members into the token data of a master token that is signed and used properly."""
    return lambda world: compose(session(world.context, "psk-client", **tokendata))


def sessiondata(**fields: Any) -> Make:
    """Put members into the session data of a master token."""

    def make(world: World) -> bytes:
        keys = world.context.token_keys.primary()
        inner: dict[str, Any] = {
            "identity": "psk-client",
            "encryptionkey": binary.encode(bytes(16)),
            "signaturekey": binary.encode(bytes(32)),
            **fields,
        }
        return compose(
            session(world.context, "psk-client", sessiondata=binary.encode(keys.encrypt(codec.encode(inner))))
        )

    return make


def wire_token(change: Change) -> Make:
    """Change the object of a good master token."""

    def alter(obj: dict[str, Any]) -> None:
        obj["mastertoken"] = dict(obj["mastertoken"])
        change(obj["mastertoken"])

    return outer(alter, lambda world: session(world.context, "psk-client"))


def user(**tokendata: Any) -> Make:
    """Put members into the token data of a user ID token beside its master token."""

    def make(world: World) -> bytes:
        source = session(world.context, "psk-client")
        return compose(source, useridtoken=user_id_token(world.context, source.token, ADA, **tokendata))

    return make


def userdata(plaintext: bytes) -> Make:
    return lambda world: user(userdata=binary.encode(world.context.token_keys.primary().encrypt(plaintext)))(world)


def service(**tokendata: Any) -> Make:
    """Carry a service token of chosen content, properly signed."""

    def make(world: World) -> bytes:
        keys = world.service_token_keys[""]
        inner = {"name": "st", "encrypted": False, "servicedata": binary.encode(b"x"), **tokendata}
        raw = codec.encode(inner)
        wire = {"tokendata": binary.encode(raw), "signature": binary.encode(keys.sign(raw))}
        return compose(psk(world), servicetokens=[wire])

    return make


def response(**fields: Any) -> Make:
    """Carry key response data."""

    def make(world: World) -> bytes:
        wire = issued_session(world.context, "psk-client").wire
        keydata = key_request_data(world)[0]["keydata"]
        return compose(
            psk(world),
            keyresponsedata={"mastertoken": wire, "scheme": "DIFFIE_HELLMAN", "keydata": keydata, **fields},
        )

    return make


def offer(scheme: str) -> Make:
    """Offer a key exchange with empty data."""
    return header(keyrequestdata=[{"scheme": scheme, "keydata": {}}])


def renewing(sender: Callable[[World], Session], **fields: Any) -> Make:
    def make(world: World) -> bytes:
        return compose(sender(world), renewable=True, keyrequestdata=key_request_data(world), **fields)

    return make


def revoked(revoke: Callable[[World], object], make: Make) -> Make:
    def made(world: World) -> bytes:
        body = make(world)
        revoke(world)
        return body

    return made


def expired(world: World) -> Session:
    return session(world.context, "psk-client", renewalwindow=START - 2, expiration=START - 1)


def not_encrypted(sender: Sender) -> bytes:
    """Sign what is no ciphertext."""
    protected = b"plain text"
    signature = binary.encode(sender.context.sign(protected))
    return codec.encode({**sender.outer, "headerdata": binary.encode(protected), "signature": signature})


def assert_row(row: Row) -> None:
    """Send the row's message to a server and compare what it answers."""
    world, inbox = World(), Inbox()
    refused = answer(world, row.make(world), server=world.server(inbox))
    assert_refused(refused, row.code, row.response, mid=row.mid)
    assert row.code.response is row.response
    assert not inbox.requests
    # Nothing of the message is given away, and nothing of the server (section 19 rule 21).
    assert not {"sender", "mastertoken"} & refused.outer.keys()


PARSE = E.MSL_PARSE_ERROR
GARBAGE = binary.encode(b"garbage")

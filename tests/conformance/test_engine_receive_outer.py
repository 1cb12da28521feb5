"""msl-engine section 6, rows A to C of the receive checks: from the bytes to an authenticated header."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsm_msl.errors import ErrorCode as E
from hsm_msl.errors import ResponseCode as R
from hsm_msl.wire import binary
from hsm_msl.wire.limits import MAX_LONG
from msl_faults import (
    GARBAGE,
    PARSE,
    Row,
    assert_row,
    header,
    held,
    not_encrypted,
    outer,
    psk,
    revoked,
    sessiondata,
    token,
    wire_token,
)
from msl_keys import symmetric_keys
from msl_messages import (
    compose,
    corrupt,
    error_message,
    session,
)
from msl_script import answer, assert_refused
from msl_world import START, World

ROWS = [
    Row("A1 nothing", lambda world: b"", E.MESSAGE_DATA_MISSING, R.FAIL, False),
    Row("A2 white space", lambda world: b"  ", PARSE, R.FAIL, False),
    Row("A2 no object", lambda world: b"[]", PARSE, R.FAIL, False),
    Row("A2 half an object", lambda world: compose(psk(world))[:40], PARSE, R.FAIL, False),
    Row("A2 no JSON", lambda world: b"{]}", PARSE, R.FAIL, False),
    Row("B1 no scheme", outer(lambda o: o.update(entityauthdata={"authdata": {}})), PARSE, R.FAIL, False),
    Row(
        "B1 unknown scheme",
        outer(lambda o: o["entityauthdata"].update(scheme="MAGIC")),
        E.UNIDENTIFIED_ENTITYAUTH_SCHEME,
        R.FAIL,
        False,
    ),
    Row(
        "B1 no factory",
        outer(lambda o: o["entityauthdata"].update(scheme="ECC")),
        E.ENTITYAUTH_FACTORY_NOT_FOUND,
        R.FAIL,
        False,
    ),
    Row("B1 no authdata", outer(lambda o: o["entityauthdata"].pop("authdata")), PARSE, R.FAIL, False),
    Row("B1 bad authdata", outer(lambda o: o["entityauthdata"].update(authdata={})), PARSE, R.FAIL, False),
    Row(
        "B1 also beside a master token",
        outer(
            lambda o: o.update(entityauthdata={"scheme": "MAGIC", "authdata": {}}),
            lambda world: session(world.context, "psk-client"),
        ),
        E.UNIDENTIFIED_ENTITYAUTH_SCHEME,
        R.FAIL,
        False,
    ),
    Row(
        "B2 empty tokendata",
        wire_token(lambda t: t.update(tokendata="")),
        E.MASTERTOKEN_TOKENDATA_MISSING,
        R.ENTITY_REAUTH,
        False,
    ),
    Row("B2 no tokendata", wire_token(lambda t: t.pop("tokendata")), PARSE, R.FAIL, False),
    Row("B2 no signature", wire_token(lambda t: t.pop("signature")), PARSE, R.FAIL, False),
    Row(
        "B2 tokendata does not parse",
        wire_token(lambda t: t.update(tokendata=GARBAGE)),
        E.MASTERTOKEN_TOKENDATA_PARSE_ERROR,
        R.ENTITY_REAUTH,
        False,
    ),
    Row(
        "B2 expires before renewal",
        token(renewalwindow=START + 2, expiration=START + 1),
        E.MASTERTOKEN_EXPIRES_BEFORE_RENEWAL,
        R.ENTITY_REAUTH,
        False,
    ),
    Row(
        "B2 sequence number",
        token(sequencenumber=-1),
        E.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_RANGE,
        R.ENTITY_REAUTH,
        False,
    ),
    Row(
        "B2 serial number",
        token(serialnumber=MAX_LONG + 1),
        E.MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE,
        R.ENTITY_REAUTH,
        False,
    ),
    Row("B2 no sessiondata", token(sessiondata=""), E.MASTERTOKEN_SESSIONDATA_MISSING, R.ENTITY_REAUTH, False),
    Row(
        "B2 sessiondata is no envelope",
        token(sessiondata=GARBAGE),
        E.CIPHERTEXT_ENVELOPE_PARSE_ERROR,
        R.FAIL,
        False,
    ),
    Row(
        "B2 sessiondata does not parse",
        sessiondata(identity=5),
        E.MASTERTOKEN_SESSIONDATA_PARSE_ERROR,
        R.ENTITY_REAUTH,
        False,
    ),
    Row("B2 unknown algorithm", sessiondata(signaturealgorithm="MD5"), E.UNIDENTIFIED_ALGORITHM, R.FAIL, False),
    Row("B2 empty MAC name", sessiondata(signaturealgorithm=""), E.UNIDENTIFIED_ALGORITHM, R.FAIL, False),
    Row("B2 empty cipher name", sessiondata(encryptionalgorithm=""), E.UNIDENTIFIED_ALGORITHM, R.FAIL, False),
    Row(
        "B2 unusable key",
        sessiondata(encryptionkey=binary.encode(bytes(5))),
        E.MASTERTOKEN_KEY_CREATION_ERROR,
        R.ENTITY_REAUTH,
        False,
    ),
    Row("B3 no signature", outer(lambda o: o.pop("signature")), PARSE, R.FAIL, False),
    Row("B3 signature no binary", outer(lambda o: o.update(signature="?")), PARSE, R.FAIL, False),
    Row("B4 no headerdata", outer(lambda o: o.pop("headerdata")), PARSE, R.FAIL, False),
    Row("B4 empty headerdata", outer(lambda o: o.update(headerdata="")), E.HEADER_DATA_MISSING, R.FAIL, False),
    Row(
        "B4 headerdata before errordata",
        outer(lambda o: o.update(headerdata="", errordata=GARBAGE)),
        E.HEADER_DATA_MISSING,
        R.FAIL,
        False,
    ),
    Row("C1 nobody", outer(lambda o: o.pop("entityauthdata")), E.MESSAGE_ENTITY_NOT_FOUND, R.FAIL, False),
    Row(
        "C2 foreign token",
        lambda world: compose(session(World(seed=2).context, "psk-client")),
        E.MASTERTOKEN_UNTRUSTED,
        R.ENTITY_REAUTH,
        False,
    ),
    Row(
        "C3 revoked entity",
        revoked(lambda world: world.grants.revoked.add("psk-client"), header()),
        E.ENTITY_REVOKED,
        R.FAIL,
        False,
    ),
    Row(
        "C3 scheme not permitted",
        revoked(lambda world: world.grants.denied_entity_schemes.add(("psk-client", "PSK")), header()),
        E.INCORRECT_ENTITYAUTH_DATA,
        R.FAIL,
        False,
    ),
    Row(
        "C3 unknown identity",
        revoked(lambda world: world.preshared.pop("psk-client"), header()),
        E.ENTITY_NOT_FOUND,
        R.FAIL,
        False,
    ),
    Row(
        "C4 bad signature under a token",
        lambda world: corrupt(held()(world)),
        E.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED,
        R.ENTITY_REAUTH,
        False,
    ),
    Row(
        "C4 bad signature of an entity",
        lambda world: corrupt(header()(world)),
        E.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED,
        R.ENTITYDATA_REAUTH,
        False,
    ),
    Row(
        "C4 verified before it is decrypted",
        lambda world: corrupt(header()(world), "headerdata"),
        E.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED,
        R.ENTITYDATA_REAUTH,
        False,
    ),
    Row(
        "C5 no ciphertext",
        lambda world: not_encrypted(psk(world)),
        E.CIPHERTEXT_ENVELOPE_PARSE_ERROR,
        R.FAIL,
        False,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_receive_check_of_stages_a_to_c(row: Row) -> None:
    assert_row(row)


def test_every_token_is_parsed_although_its_signature_is_wrong() -> None:
    """Row B2: the MAC is recorded, the clear fields are checked all the same, before trust."""
    world = World()
    bad = session(World(seed=2).context, "psk-client", sequencenumber=-1)
    refused = answer(world, compose(bad))
    assert_refused(refused, E.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_RANGE, R.ENTITY_REAUTH, mid=False)


def test_errors_are_never_answered() -> None:
    """Section 10.1: an error message is never answered with an error message, even a bad one is only refused."""

    world = World()
    assert world.server().handle(error_message(psk(world), 1, R.FAIL)) == b""


def test_token_keys_are_not_session_keys() -> None:
    """A header under a master token needs that token's session keys, not merely a copy of the token."""
    world = World()
    source = session(world.context, "psk-client")
    thief = replace(source, context=session(world.context, "x", keys=symmetric_keys(world.random)).context)
    refused = answer(world, compose(thief))
    assert_refused(refused, E.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED, R.ENTITY_REAUTH, mid=False)

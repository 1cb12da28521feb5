"""msl-engine section 6, row D of the receive checks: what an authenticated header says."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode as E
from hsm_msl.errors import ResponseCode as R
from hsm_msl.msl.tokens.service_token import make_service_token
from hsm_msl.wire.limits import MAX_LONG
from msl_faults import (
    GARBAGE,
    PARSE,
    Make,
    Row,
    assert_row,
    expired,
    header,
    held,
    offer,
    psk,
    renewing,
    response,
    revoked,
    service,
    token,
    user,
    userdata,
)
from msl_messages import (
    compose,
    entity,
    password_data,
    seal_header,
    session,
    user_id_token,
)
from msl_script import answer
from msl_world import ADA, BOB, PASSWORDS, START, World


def bad_master_binding(world: World) -> bytes:
    other = session(world.context, "x", serialnumber=1)
    made = make_service_token("st", b"x", world.service_token_keys[""], master_token=other.token)
    return compose(session(world.context, "psk-client"), servicetokens=[made.to_wire()])


GOOD_USER = password_data(ADA, PASSWORDS[ADA])

ROWS = [
    Row("D1 no JSON", lambda world: seal_header(psk(world), b"no object"), PARSE, R.FAIL, False),
    Row("D1 no message ID", lambda world: compose(psk(world), None, messageid=None), PARSE, R.FAIL, False),
    Row("D1 message ID is text", lambda world: compose(psk(world), None, messageid="5"), PARSE, R.FAIL, False),
    Row("D1 message ID is a boolean", lambda world: compose(psk(world), None, messageid=True), PARSE, R.FAIL, False),
    Row(
        "D1 message ID out of range",
        lambda world: compose(psk(world), None, messageid=MAX_LONG + 1),
        E.MESSAGE_ID_OUT_OF_RANGE,
        R.FAIL,
        False,
    ),
    Row("D2 timestamp", header(timestamp="now"), PARSE, R.FAIL),
    Row("D3 no object", header(keyresponsedata=[]), PARSE, R.FAIL),
    Row(
        "D3 its master token",
        response(mastertoken={"tokendata": "", "signature": ""}),
        E.MASTERTOKEN_TOKENDATA_MISSING,
        R.ENTITY_REAUTH,
    ),
    Row("D3 scheme unknown", response(scheme="MAGIC"), E.UNIDENTIFIED_KEYX_SCHEME, R.FAIL),
    Row("D3 no factory", response(scheme="JWE_LADDER"), E.KEYX_FACTORY_NOT_FOUND, R.FAIL),
    Row("D3 data", response(keydata={}), PARSE, R.FAIL),
    Row("D4 no object", held(useridtoken="x"), PARSE, R.FAIL),
    Row(
        "D4 empty tokendata",
        held(useridtoken={"tokendata": "", "signature": ""}),
        E.USERIDTOKEN_TOKENDATA_MISSING,
        R.USER_REAUTH,
    ),
    Row(
        "D4 tokendata does not parse",
        held(useridtoken={"tokendata": GARBAGE, "signature": ""}),
        E.USERIDTOKEN_TOKENDATA_PARSE_ERROR,
        R.USER_REAUTH,
    ),
    Row(
        "D4 expires before renewal",
        user(renewalwindow=2, expiration=1),
        E.USERIDTOKEN_EXPIRES_BEFORE_RENEWAL,
        R.USER_REAUTH,
    ),
    Row(
        "D4 master token serial",
        user(mtserialnumber=-1),
        E.USERIDTOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE,
        R.USER_REAUTH,
    ),
    Row("D4 serial", user(serialnumber=-1), E.USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE, R.USER_REAUTH),
    Row("D4 no userdata", user(userdata=""), E.USERIDTOKEN_USERDATA_MISSING, R.USER_REAUTH),
    Row("D4 userdata does not parse", userdata(b"{}"), E.USERIDTOKEN_USERDATA_PARSE_ERROR, R.USER_REAUTH),
    Row("D4 nobody", userdata(b'{"identity":""}'), E.USERIDTOKEN_IDENTITY_INVALID, R.USER_REAUTH),
    Row("D4 bound elsewhere", user(mtserialnumber=5), E.USERIDTOKEN_MASTERTOKEN_MISMATCH, R.USER_REAUTH),
    Row(
        "D4 bound elsewhere although foreign",
        lambda world: compose(
            session(world.context, "psk-client"),
            useridtoken=user_id_token(World(seed=4).context, session(world.context, "x", serialnumber=5).token, ADA),
        ),
        E.USERIDTOKEN_MASTERTOKEN_MISMATCH,
        R.USER_REAUTH,
    ),
    Row(
        "D5 unknown scheme",
        header(userauthdata=password_data(ADA, "x", "MAGIC")),
        E.UNIDENTIFIED_USERAUTH_SCHEME,
        R.FAIL,
    ),
    Row(
        "D5 no factory",
        header(userauthdata=password_data(ADA, "x", "USER_ID_TOKEN")),
        E.USERAUTH_FACTORY_NOT_FOUND,
        R.FAIL,
    ),
    Row("D5 data", header(userauthdata={"scheme": "EMAIL_PASSWORD", "authdata": {"email": ADA}}), PARSE, R.FAIL),
    Row(
        "D6 unencrypted header",
        lambda world: compose(entity(world.client("NONE")), userauthdata=GOOD_USER),
        E.UNENCRYPTED_MESSAGE_WITH_USERAUTHDATA,
        R.FAIL,
    ),
    Row(
        "D7 scheme not permitted",
        revoked(
            lambda world: world.grants.denied_user_schemes.add(("psk-client", None)), header(userauthdata=GOOD_USER)
        ),
        E.USERAUTH_ENTITY_INCORRECT_DATA,
        R.FAIL,
    ),
    Row("D7 blank", header(userauthdata=password_data(ADA, " ")), E.EMAILPASSWORD_BLANK, R.USERDATA_REAUTH),
    Row("D7 wrong", header(userauthdata=password_data(ADA, "x")), E.EMAILPASSWORD_INCORRECT, R.USERDATA_REAUTH),
    Row(
        "D7 not for this user",
        revoked(
            lambda world: world.grants.denied_user_schemes.add(("psk-client", ADA)), header(userauthdata=GOOD_USER)
        ),
        E.USERAUTH_ENTITYUSER_INCORRECT_DATA,
        R.USERDATA_REAUTH,
    ),
    Row(
        "D7 another user than the token's",
        lambda world: compose(
            session(world.context, "psk-client"),
            useridtoken=user_id_token(world.context, session(world.context, "psk-client").token, BOB),
            userauthdata=GOOD_USER,
        ),
        E.USERIDTOKEN_USERAUTH_DATA_MISMATCH,
        R.USER_REAUTH,
    ),
    Row("D8 no array", header(servicetokens={}), PARSE, R.FAIL),
    Row("D8 no object", header(servicetokens=["x"]), PARSE, R.FAIL),
    Row(
        "D8 empty tokendata",
        header(servicetokens=[{"tokendata": "", "signature": ""}]),
        E.SERVICETOKEN_TOKENDATA_MISSING,
        R.FAIL,
    ),
    Row(
        "D8 tokendata does not parse", header(servicetokens=[{"tokendata": GARBAGE, "signature": ""}]), PARSE, R.FAIL
    ),
    Row(
        "D8 master token serial",
        service(mtserialnumber=-1),
        E.SERVICETOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE,
        R.FAIL,
    ),
    Row(
        "D8 user ID token serial",
        service(uitserialnumber=MAX_LONG + 1),
        E.SERVICETOKEN_USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE,
        R.FAIL,
    ),
    Row("D8 compression", service(compressionalgo="ZIP"), E.UNIDENTIFIED_COMPRESSION, R.FAIL),
    Row("D8 inflate", service(compressionalgo="GZIP"), E.UNCOMPRESSION_ERROR, R.FAIL),
    Row("D8 master token binding", bad_master_binding, E.SERVICETOKEN_MASTERTOKEN_MISMATCH, R.FAIL),
    Row("D8 user ID token binding", service(uitserialnumber=5), E.SERVICETOKEN_USERIDTOKEN_MISMATCH, R.FAIL),
    Row("D9 ID type", held(nonreplayableid="1"), PARSE, R.FAIL),
    Row("D9 no renewable", held(renewable=None), PARSE, R.FAIL),
    Row("D9 renewable type", held(renewable="true"), PARSE, R.FAIL),
    Row("D9 handshake type", held(handshake=0), PARSE, R.FAIL),
    Row("D9 ID range", held(nonreplayableid=-1), E.NONREPLAYABLE_ID_OUT_OF_RANGE, R.FAIL),
    Row("D10 capabilities", held(capabilities={"languages": [5]}), PARSE, R.FAIL),
    Row("D10 capabilities type", held(capabilities=[]), PARSE, R.FAIL),
    Row(
        "D11 scheme", header(keyrequestdata=[{"scheme": "MAGIC", "keydata": {}}]), E.UNIDENTIFIED_KEYX_SCHEME, R.FAIL
    ),
    Row(
        "D11 factory",
        header(keyrequestdata=[{"scheme": "JWK_LADDER", "keydata": {}}]),
        E.KEYX_FACTORY_NOT_FOUND,
        R.FAIL,
    ),
    Row("D11 data", offer("DIFFIE_HELLMAN"), PARSE, R.FAIL),
    Row("D11 no array", header(keyrequestdata={}), PARSE, R.FAIL),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_receive_check_of_stage_d(row: Row) -> None:
    assert_row(row)


ACCEPTED: list[tuple[str, Make]] = [
    ("an expired user ID token", user(renewalwindow=START - 2, expiration=START - 1)),
    ("a renewable user ID token", user(renewalwindow=START)),
    ("a renewable master token", token(renewalwindow=START)),
    ("an expired master token being renewed", renewing(expired)),
    ("an unknown member", header(recipient="anybody", nonreplayable="no boolean", sender=5)),
    ("null members", header(timestamp=None, capabilities=None, keyrequestdata=None)),
    ("no key requests", held(keyrequestdata=[], renewable=True)),
]


@pytest.mark.parametrize("make", [make for _, make in ACCEPTED], ids=[name for name, _ in ACCEPTED])
def test_no_receive_error(make: Make) -> None:
    world = World()
    assert answer(world, make(world)).payload == b"data"

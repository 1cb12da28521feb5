"""msl-engine section 6, row E of the receive checks, and which of several faults is reported."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode as E
from hsm_msl.errors import ResponseCode as R
from msl_faults import (
    Row,
    assert_row,
    expired,
    header,
    held,
    renewing,
    response,
    revoked,
    user,
)
from msl_messages import (
    Session,
    compose,
    issued_session,
    password_data,
    session,
    user_id_token,
)
from msl_world import ADA, START, World


def out_of_sync(world: World) -> Session:
    made = issued_session(world.context, "psk-client")
    return session(
        world.context,
        "psk-client",
        renewalwindow=START - 2,
        expiration=START - 1,
        serialnumber=made.token.serial_number,
        sequencenumber=9,
    )


def foreign_response(world: World) -> bytes:
    """A key response under a master token of another issuer, which answers no request of ours."""
    stranger = issued_session(World(seed=3).context, "psk-client")
    return response(mastertoken=stranger.wire)(world)


def two_faults(world: World) -> bytes:
    """Bad credentials, missing handshake data, revocation, expiry and replay at once."""
    source = expired(world)
    world.revocations.master_tokens.add(source.token.serial_number)
    return compose(source, handshake=True, nonreplayableid=0, userauthdata=password_data(ADA, "guess"))


ROWS = [
    Row("E1 answers nothing of ours", foreign_response, E.KEYX_RESPONSE_REQUEST_MISMATCH, R.FAIL),
    Row("E2 handshake not renewable", header(handshake=True), E.HANDSHAKE_DATA_MISSING, R.FAIL),
    Row("E2 handshake without offers", header(handshake=True, renewable=True), E.HANDSHAKE_DATA_MISSING, R.FAIL),
    Row(
        "E3 revoked master token",
        revoked(lambda world: world.revocations.entities.add("psk-client"), held()),
        E.MASTERTOKEN_IDENTITY_REVOKED,
        R.ENTITY_REAUTH,
    ),
    Row(
        "E3 revoked user ID token",
        revoked(lambda world: world.revocations.user_id_tokens.add(88), user()),
        E.USERIDTOKEN_REVOKED,
        R.USER_REAUTH,
    ),
    Row(
        "E3 forged user ID token",
        lambda world: compose(
            session(world.context, "psk-client"),
            useridtoken=user_id_token(World(seed=4).context, session(world.context, "psk-client").token, ADA),
        ),
        E.USERIDTOKEN_NOT_DECRYPTED,
        R.USER_REAUTH,
    ),
    Row("E3 expired", lambda world: compose(expired(world)), E.MESSAGE_EXPIRED_NOT_RENEWABLE, R.EXPIRED),
    Row(
        "E3 expired, no offer",
        lambda world: compose(expired(world), renewable=True),
        E.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA,
        R.EXPIRED,
    ),
    Row(
        "E3 expired, factory refuses",
        renewing(out_of_sync),
        E.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC,
        R.ENTITY_REAUTH,
    ),
    Row("E4 no master token", header(nonreplayableid=1), E.INCOMPLETE_NONREPLAYABLE_MESSAGE, R.FAIL),
    Row("E4 replayed", held(nonreplayableid=0), E.MESSAGE_REPLAYED, R.REPLAYED),
    Row("E4 far ahead", held(nonreplayableid=65537), E.MESSAGE_REPLAYED_UNRECOVERABLE, R.ENTITY_REAUTH),
    Row("credentials before all else of D and E", two_faults, E.EMAILPASSWORD_INCORRECT, R.USERDATA_REAUTH),
    Row(
        "handshake data before revocation",
        revoked(lambda world: world.revocations.entities.add("psk-client"), held(handshake=True)),
        E.HANDSHAKE_DATA_MISSING,
        R.FAIL,
    ),
    Row(
        "revocation before expiry",
        revoked(lambda world: world.revocations.entities.add("psk-client"), lambda world: compose(expired(world))),
        E.MASTERTOKEN_IDENTITY_REVOKED,
        R.ENTITY_REAUTH,
    ),
    Row(
        "expiry before replay",
        lambda world: compose(expired(world), nonreplayableid=0),
        E.MESSAGE_EXPIRED_NOT_RENEWABLE,
        R.EXPIRED,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_receive_check_of_stage_e_and_order(row: Row) -> None:
    assert_row(row)

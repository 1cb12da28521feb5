"""Every row of msl-schemes sections 3.1 to 3.3, and the scheme of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode, StoreError
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.msl.userauth.base import parse_user_auth
from hsm_msl.msl.userauth.user_id_token import UserIdTokenScheme, user_id_token_data
from scheme_support import VECTORS, Hooks, refused
from scheme_tokens import ENTITY, PASSWORD, PROFILE, USER, TokenWorld

FAIL, USERDATA, USER_REAUTH = ResponseCode.FAIL, ResponseCode.USERDATA_REAUTH, ResponseCode.USER_REAUTH
EMAIL = "ada@example.org"
Run = Callable[[], object]


def password(email: str, value: str, hooks: Hooks | None = None) -> Run:
    obj = {"scheme": "EMAIL_PASSWORD", "authdata": {"email": email, "password": value}}
    return lambda: TokenWorld(hooks).authenticate_user(obj)


def carried(hooks: Hooks | None = None, **world: Any) -> Run:
    """USER_ID_TOKEN with good tokens."""
    return lambda: TokenWorld(hooks, **world).authenticate_user_of_session()


def spoiled(**tokens: object) -> Run:
    """USER_ID_TOKEN with one of its tokens replaced."""

    def run() -> object:
        made = TokenWorld()
        obj = user_id_token_data(*made.user_of_session()).to_wire()
        return made.authenticate_user({"scheme": "USER_ID_TOKEN", "authdata": {**_object(obj["authdata"]), **tokens}})

    return run


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def of_another_server(*, hooks: Hooks | None = None) -> Run:
    """Tokens this server cannot open."""
    obj = user_id_token_data(*TokenWorld().user_of_session()).to_wire()
    return lambda: TokenWorld(hooks).authenticate_user(obj)


def opaque_user_token() -> object:
    """A user ID token of another issuer, bound to a master token of this one."""
    made, other = TokenWorld(), TokenWorld()
    master, _ = made.session()
    stranger = other.issuer.create_user_id_token(USER, master)
    return made.authenticate_user(user_id_token_data(master, stranger).to_wire())


def bound_elsewhere() -> object:
    made = TokenWorld()
    _, user = made.user_of_session()
    another, _ = made.session()
    return made.authenticate_user(user_id_token_data(another, user).to_wire())


def unjudged(code: ErrorCode) -> Run:
    """A token factory that cannot judge the token."""

    def check(token: UserIdToken) -> None:
        raise MslError(code)

    def run() -> object:
        made = TokenWorld()
        scheme = UserIdTokenScheme(made.master_tokens, made.user_id_tokens, check, Hooks())
        return scheme.authenticate(user_id_token_data(*made.user_of_session()), ENTITY)

    return run


def pin(value: str, hooks: Hooks | None = None) -> Run:
    obj = {"scheme": "PRIVATE_PIN", "authdata": {"pin": value}}
    return lambda: TokenWorld(hooks).authenticate_user(obj)


def to_profile(
    profile: str = "kids", *, hooks: Hooks | None = None, spoil: str = "", wire: object = None, **world: Any
) -> Run:
    """A user ID token and a profile, in the token's session or, spoilt, in another or in none."""

    def run() -> object:
        made = TokenWorld(hooks, **world)
        master, token = made.user_of_session()
        if spoil == "foreign":
            token = TokenWorld().issuer.create_user_id_token(USER, master)
        if spoil == "session":
            master, _ = made.session()
        authdata = {"profile": profile, "useridtoken": token.to_wire() if wire is None else wire}
        return made.authenticate_user(
            {"scheme": "TO_PROFILE", "authdata": authdata}, master=None if spoil == "master" else master
        )

    return run


def unknown(name: str, schemes: dict[str, Any] | None = None) -> Run:
    return lambda: parse_user_auth({"scheme": name}, schemes or {})


NO_ENTITY = Hooks(users=(ENTITY,))
NO_USER = Hooks(pairs=((ENTITY, USER),))

ROWS: list[tuple[str, Run, ErrorCode, ResponseCode]] = [
    ("unknown scheme", unknown("SWITCH_PROFILE"), ErrorCode.UNIDENTIFIED_USERAUTH_SCHEME, FAIL),
    # Before authdata is looked at: there is none here.
    ("no factory", unknown("EMAIL_PASSWORD"), ErrorCode.USERAUTH_FACTORY_NOT_FOUND, FAIL),
    (
        "EMAIL_PASSWORD entity not permitted",
        password(" ", " ", NO_ENTITY),
        ErrorCode.USERAUTH_ENTITY_INCORRECT_DATA,
        FAIL,
    ),
    ("EMAIL_PASSWORD blank email", password(" \t", PASSWORD), ErrorCode.EMAILPASSWORD_BLANK, USERDATA),
    ("EMAIL_PASSWORD blank password", password(EMAIL, "\r\n "), ErrorCode.EMAILPASSWORD_BLANK, USERDATA),
    ("EMAIL_PASSWORD control characters", password("\0\x1f", PASSWORD), ErrorCode.EMAILPASSWORD_BLANK, USERDATA),
    ("EMAIL_PASSWORD no-break space", password("\xa0", PASSWORD), ErrorCode.EMAILPASSWORD_INCORRECT, USERDATA),
    ("EMAIL_PASSWORD wrong", password(EMAIL, "wrong"), ErrorCode.EMAILPASSWORD_INCORRECT, USERDATA),
    (
        "EMAIL_PASSWORD user not permitted",
        password(EMAIL, PASSWORD, NO_USER),
        ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA,
        USERDATA,
    ),
    ("USER_ID_TOKEN master missing", spoiled(mastertoken=None), ErrorCode.MSL_PARSE_ERROR, FAIL),
    ("USER_ID_TOKEN user missing", spoiled(useridtoken=None), ErrorCode.MSL_PARSE_ERROR, FAIL),
    (
        "USER_ID_TOKEN master malformed",
        spoiled(mastertoken={"tokendata": "", "signature": ""}),
        ErrorCode.USERAUTH_MASTERTOKEN_INVALID,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN master without members",
        spoiled(mastertoken={}),
        ErrorCode.USERAUTH_MASTERTOKEN_INVALID,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN user malformed",
        spoiled(useridtoken={"tokendata": "", "signature": ""}),
        ErrorCode.USERAUTH_USERIDTOKEN_INVALID,
        USERDATA,
    ),
    ("USER_ID_TOKEN bound elsewhere", bound_elsewhere, ErrorCode.USERAUTH_USERIDTOKEN_INVALID, USERDATA),
    (
        "USER_ID_TOKEN entity not permitted",
        of_another_server(hooks=NO_ENTITY),
        ErrorCode.USERAUTH_ENTITY_INCORRECT_DATA,
        FAIL,
    ),
    (
        "USER_ID_TOKEN master not decrypted",
        of_another_server(),
        ErrorCode.USERAUTH_MASTERTOKEN_NOT_DECRYPTED,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN of another entity",
        lambda: TokenWorld().authenticate_user_of_session(owner="another"),
        ErrorCode.USERAUTH_ENTITY_MISMATCH,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN user not decrypted",
        opaque_user_token,
        ErrorCode.USERAUTH_USERIDTOKEN_NOT_DECRYPTED,
        USERDATA,
    ),
    ("USER_ID_TOKEN user not permitted", carried(NO_USER), ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA, USERDATA),
    # The factory's code is used as it is, with its own response code.
    ("USER_ID_TOKEN revoked", carried(revoked_users=(USER,)), ErrorCode.USERIDTOKEN_REVOKED, USER_REAUTH),
    (
        "USER_ID_TOKEN rejected by the application",
        unjudged(ErrorCode.USERIDTOKEN_REJECTED_BY_APP),
        ErrorCode.USERIDTOKEN_REJECTED_BY_APP,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN not judged for its own sake",
        unjudged(ErrorCode.USERIDTOKEN_NOT_DECRYPTED),
        ErrorCode.USERAUTH_USERIDTOKEN_REVOKE_CHECK_ERROR,
        USERDATA,
    ),
    (
        "USER_ID_TOKEN not judged for its master token's",
        unjudged(ErrorCode.MASTERTOKEN_UNTRUSTED),
        ErrorCode.USERAUTH_USERIDTOKEN_REVOKE_CHECK_ERROR,
        USERDATA,
    ),
    ("own scheme, entity not permitted", pin("1234", NO_ENTITY), ErrorCode.USERAUTH_ENTITY_INCORRECT_DATA, FAIL),
    ("own scheme, refused", pin("0000"), ErrorCode.USERAUTH_VERIFICATION_FAILED, USERDATA),
    (
        "own scheme, user not permitted",
        pin("1234", NO_USER),
        ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA,
        USERDATA,
    ),
    ("profile refused", to_profile("others"), ErrorCode.USERAUTH_VERIFICATION_FAILED, USERDATA),
    ("profile, no session", to_profile(spoil="master"), ErrorCode.USERAUTH_MASTERTOKEN_MISSING, USERDATA),
    ("profile, other session", to_profile(spoil="session"), ErrorCode.USERAUTH_USERIDTOKEN_INVALID, USERDATA),
    ("profile, foreign token", to_profile(spoil="foreign"), ErrorCode.USERAUTH_USERIDTOKEN_NOT_DECRYPTED, USERDATA),
    ("profile, no token", to_profile(wire="text"), ErrorCode.MSL_PARSE_ERROR, FAIL),
    (
        "profile, malformed token",
        to_profile(wire={"tokendata": "", "signature": ""}),
        ErrorCode.USERAUTH_USERIDTOKEN_INVALID,
        USERDATA,
    ),
    ("profile, revoked", to_profile(revoked_users=(USER,)), ErrorCode.USERIDTOKEN_REVOKED, USER_REAUTH),
    (
        "profile not permitted",
        to_profile(hooks=Hooks(pairs=((ENTITY, PROFILE),))),
        ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA,
        USERDATA,
    ),
    (
        "own scheme, member missing",
        lambda: TokenWorld().authenticate_user({"scheme": "PRIVATE_PIN", "authdata": {}}),
        ErrorCode.MSL_PARSE_ERROR,
        FAIL,
    ),
]


@pytest.mark.parametrize(("run", "code", "response"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(run: Run, code: ErrorCode, response: ResponseCode) -> None:
    with refused(code, response):
        run()


@pytest.mark.parametrize(
    "run",
    [password(f"  {EMAIL}\t", f" {PASSWORD} "), carried(), pin("1234")],
    ids=["EMAIL_PASSWORD trimmed", "USER_ID_TOKEN", "own scheme"],
)
def test_good_credentials_prove_the_user(run: Run) -> None:
    assert run() == USER


def test_a_user_id_token_of_the_session_and_a_profile_prove_another_user() -> None:
    """Deployed clients go from one user to another by such a scheme (deployed-clients)."""
    assert to_profile()() == PROFILE


@pytest.mark.parametrize("name", VECTORS["user_auth_data"])
def test_recorded_data_is_read_and_written_alike(name: str) -> None:
    recorded = VECTORS["user_auth_data"][name]
    assert parse_user_auth(recorded, TokenWorld().users).to_wire() == recorded


def test_expired_tokens_still_carry_a_user() -> None:
    """Neither expiry of the embedded tokens nor revocation of the master token is looked at (section 3.3)."""
    now = [1_800_000_000.0]
    made = TokenWorld(clock=lambda: now[0])
    tokens = made.user_of_session()
    now[0] += 10**9
    assert made.authenticate_user(user_id_token_data(*tokens).to_wire()) == USER


def test_revocations_that_cannot_be_read_are_no_verdict() -> None:
    def check(token: UserIdToken) -> None:
        raise StoreError("down")

    made = TokenWorld()
    scheme = UserIdTokenScheme(made.master_tokens, made.user_id_tokens, check, Hooks())
    with pytest.raises(StoreError):
        scheme.authenticate(user_id_token_data(*made.user_of_session()), ENTITY)


def test_credentials_stay_out_of_representations() -> None:
    made = TokenWorld()
    for obj in (
        {"scheme": "EMAIL_PASSWORD", "authdata": {"email": EMAIL, "password": PASSWORD}},
        {"scheme": "PRIVATE_PIN", "authdata": {"pin": "987654321"}},
    ):
        shown = repr(parse_user_auth(obj, made.users))
        assert PASSWORD not in shown
        assert "987654321" not in shown

"""Path rules of the X509 trust store (msl-schemes section 2.4)."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ConfigurationError, ErrorCode, ResponseCode
from hsm_msl.msl.entityauth.trust_store import TrustStore
from scheme_certificates import END, START, Authority, ec_key, leaf, make
from scheme_support import refused

NOW = (START + END) / 2


def store(*authorities: Authority, now: float = NOW) -> TrustStore:
    made = TrustStore(lambda: now)
    for authority in authorities:
        made.add(authority.certificate)
    return made


def chain(*path_lengths: int | None) -> list[Authority]:
    """Make a root and CAs below it, each signed by the one before."""
    made: list[Authority] = []
    for depth, limit in enumerate(path_lengths):
        made.append(make(f"ca-{depth}", made[-1] if made else None, path_length=limit))
    return made


def test_an_entity_below_a_trusted_root_is_accepted() -> None:
    root = make("root")
    store(root).check(leaf("device", root).certificate)


def test_only_one_level_is_looked_at_when_an_entity_comes() -> None:
    """A leaf may itself be a CA's certificate, may lack constraints, and its issuer's own issuers are not asked."""
    root, middle = chain(None, None)
    trusted = store(root, middle)
    trusted.check(make("device", middle, ca=True).certificate)
    trusted.check(make("bare", middle, constraints=False).certificate)


def test_an_entity_below_an_unknown_authority_is_refused() -> None:
    with refused(ErrorCode.X509CERT_VERIFICATION_FAILED, ResponseCode.ENTITYDATA_REAUTH):
        store(make("root")).check(leaf("device", make("stranger")).certificate)


def test_an_issuer_of_the_same_name_and_another_key_does_not_count() -> None:
    impostor = make("root", key=ec_key("impostor"))
    with refused(ErrorCode.X509CERT_VERIFICATION_FAILED, ResponseCode.ENTITYDATA_REAUTH):
        store(make("root")).check(leaf("device", impostor).certificate)


def test_several_authorities_may_share_a_name() -> None:
    first, second = make("root"), make("root", key=ec_key("second"))
    trusted = store(first, second)
    for issuer in (first, second):
        trusted.check(leaf("device", issuer).certificate)


@pytest.mark.parametrize(
    ("now", "code"),
    [(START - 1, ErrorCode.X509CERT_NOT_YET_VALID), (END + 1, ErrorCode.X509CERT_EXPIRED)],
)
def test_validity_comes_before_trust(now: float, code: ErrorCode) -> None:
    clock = [NOW]
    root = make("root")
    trusted = TrustStore(lambda: clock[0])
    trusted.add(root.certificate)
    clock[0] = now
    with refused(code, ResponseCode.ENTITYDATA_REAUTH):
        trusted.check(leaf("device", make("stranger")).certificate)


@pytest.mark.parametrize("now", [START, END])
def test_validity_includes_its_ends(now: float) -> None:
    root = make("root")
    store(root, now=now).check(leaf("device", root).certificate)


ACCEPTED = [
    (None,),
    (0,),
    (1,),
    (None, None),
    (None, 0),
    (None, 5, 5),
    (1, 1, 1),  # nothing is decremented per level
    (2, 1, 1),
    (2, 1, 0),
]
REFUSED = [
    (0, 0),  # a path length of 0 forbids CAs below
    (1, None),  # no path length means unlimited, which is more than 1
    (1, 2),
    (None, 1, 2),
    (2, 0, 0),
    (1, 0, 0),
]


@pytest.mark.parametrize("path_lengths", ACCEPTED, ids=str)
def test_path_lengths_that_are_accepted(path_lengths: tuple[int | None, ...]) -> None:
    made = chain(*path_lengths)
    trusted = store(*made)
    # A path length never keeps entities away, only further CAs.
    trusted.check(leaf("device", made[-1]).certificate)


@pytest.mark.parametrize("path_lengths", REFUSED, ids=str)
def test_path_lengths_that_are_refused(path_lengths: tuple[int | None, ...]) -> None:
    made = chain(*path_lengths)
    trusted = store(*made[:-1])
    with pytest.raises(ConfigurationError, match=r"below it|path length"):
        trusted.add(made[-1].certificate)
    with refused(ErrorCode.X509CERT_VERIFICATION_FAILED, ResponseCode.ENTITYDATA_REAUTH):
        trusted.check(leaf("device", made[-1]).certificate)


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        (lambda: make("root", ca=False), "not a CA"),
        (lambda: make("root", constraints=False), "not a CA"),
        (lambda: make("root", start=START - 10, end=START), "validity"),
        (lambda: make("root", start=END, end=END + 10), "validity"),
        (lambda: make("middle", make("root")), "not trusted"),
        (lambda: make("root", make("other"), issuer_name="root"), "own key"),
    ],
)
def test_authorities_that_cannot_be_added(authority: object, reason: str) -> None:
    assert callable(authority)
    with pytest.raises(ConfigurationError, match=reason):
        store().add(authority().certificate)


def test_a_chain_is_added_root_first() -> None:
    root, middle, last = chain(None, 2, 1)
    trusted = store()
    trusted.add_chain([root.certificate, middle.certificate, last.certificate])
    trusted.check(leaf("device", last).certificate)


def test_a_chain_begins_with_its_root() -> None:
    _, middle = chain(None, None)
    with pytest.raises(ConfigurationError, match="not self-signed"):
        store().add_chain([middle.certificate])


def test_each_of_a_chain_is_signed_by_the_one_before() -> None:
    root, middle, last = chain(None, None, None)
    with pytest.raises(ConfigurationError, match="not signed by the CA before it"):
        store(root, middle).add_chain([root.certificate, last.certificate])


def test_adding_twice_changes_nothing() -> None:
    root = make("root")
    store(root, root).check(leaf("device", root).certificate)


def test_an_ec_authority_may_sign_an_rsa_entity() -> None:
    root = make("root", key=ec_key("root"))
    store(root).check(leaf("device", root).certificate)

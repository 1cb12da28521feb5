"""Every source of scheme rules, and the answers made of them (msl-schemes section 1.4; msl-engine section 19.20)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import StoreError, UsageError
from hsm_msl.ports import Authorization
from hsm_msl.stores.authorization import RuleAuthorization, RuleSource, RuleTable, SchemeRule, SqlRules
from hsm_msl.stores.memory import MemoryRevocations
from hsm_msl.stores.revocation import Revocation, Subject
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database

PSK, RSA, NONE = "PSK", "RSA", "NONE"
MakeSource = Callable[[Iterable[SchemeRule]], RuleSource]


def schemes(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.fixture(params=["table", "sqlite", "postgresql"])
def source(request: pytest.FixtureRequest) -> Iterator[MakeSource]:
    if request.param == "table":
        yield RuleTable
        return
    database = Database(url_of(request.param, request))
    prepare(database)

    def fill(rules: Iterable[SchemeRule]) -> RuleSource:
        store = SqlRules(database)
        for rule in rules:
            store.put(rule)
        return store

    yield fill
    database.close()


@pytest.fixture
def revocations() -> MemoryRevocations:
    return MemoryRevocations(lambda: 0.0)


@pytest.fixture
def authorize(source: MakeSource, revocations: MemoryRevocations) -> Callable[..., Authorization]:
    def build(*rules: SchemeRule, default: SchemeRule | None = None) -> Authorization:
        return RuleAuthorization([source(rules)], revocations, default)

    return build


def test_nobody_is_permitted_anything_unless_a_rule_says_so(authorize: Callable[..., Authorization]) -> None:
    """Section 19.20: default deny for unknown identities."""
    port = authorize(SchemeRule("known", entity_schemes=schemes(PSK)))
    assert port.entity_scheme_permitted("known", PSK)
    assert not port.entity_scheme_permitted("known", RSA)
    assert not port.entity_scheme_permitted("unknown", PSK)
    assert not port.user_scheme_permitted("known", None, "EMAIL_PASSWORD")
    assert not port.key_exchange_permitted("known", "DIFFIE_HELLMAN")


def test_the_four_questions_are_separate(authorize: Callable[..., Authorization]) -> None:
    port = authorize(
        SchemeRule(
            "entity",
            entity_schemes=schemes(PSK),
            user_schemes=schemes("EMAIL_PASSWORD"),
            key_exchanges=schemes("DIFFIE_HELLMAN"),
            users=schemes("*"),
        )
    )
    assert port.entity_scheme_permitted("entity", PSK)
    assert not port.entity_scheme_permitted("entity", "DIFFIE_HELLMAN")
    assert port.key_exchange_permitted("entity", "DIFFIE_HELLMAN")
    assert not port.key_exchange_permitted("entity", PSK)
    assert port.user_scheme_permitted("entity", None, "EMAIL_PASSWORD")
    assert port.user_scheme_permitted("entity", "ann", "EMAIL_PASSWORD")
    assert not port.user_scheme_permitted("entity", "ann", "USER_ID_TOKEN")


def test_default_is_asked_last(authorize: Callable[..., Authorization]) -> None:
    default = SchemeRule("", entity_schemes=schemes(RSA), key_exchanges=schemes("K"))
    port = authorize(SchemeRule("entity", entity_schemes=schemes(PSK)), default=default)
    assert port.entity_scheme_permitted("other", RSA)
    assert not port.entity_scheme_permitted("entity", RSA), "the entity's own rule replaces the default"
    assert port.key_exchange_permitted("entity", "K"), "a question a rule leaves open goes to the next one"


def test_own_rule_then_the_narrower_pattern_then_the_wider(authorize: Callable[..., Authorization]) -> None:
    port = authorize(
        SchemeRule("*", pattern=True, entity_schemes=schemes(NONE)),
        SchemeRule("tv-*", pattern=True, entity_schemes=schemes(RSA)),
        SchemeRule("tv-lab-*", pattern=True, entity_schemes=schemes()),
        SchemeRule("tv-lab-7", entity_schemes=schemes(PSK)),
    )
    cases = {"phone": NONE, "tv-1": RSA, "tv-lab-1": None, "tv-lab-7": PSK, "TV-1": NONE, "": NONE}
    for identity, expected in cases.items():
        permitted = [scheme for scheme in (NONE, RSA, PSK) if port.entity_scheme_permitted(identity, scheme)]
        assert permitted == ([] if expected is None else [expected]), identity


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("tv-?", ["tv-1", "tv-*"], ["tv-", "tv-12", "xtv-1"]),
        ("a*c", ["ac", "abc", "a\nc", "a*c"], ["acd", "xac", "AC"]),
        ("[ab]*", ["[ab]", "[ab]x"], ["a", "b"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a\\b\0*", ["a\\b\0", "a\\b\0x"], ["a\\b", "ab"]),
    ],
)
def test_patterns_match_whole_identities(
    authorize: Callable[..., Authorization], pattern: str, matching: list[str], other: list[str]
) -> None:
    port = authorize(SchemeRule(pattern, pattern=True, entity_schemes=schemes(PSK)))
    assert [port.entity_scheme_permitted(identity, PSK) for identity in matching] == [True] * len(matching)
    assert [port.entity_scheme_permitted(identity, PSK) for identity in other] == [False] * len(other)


def test_identity_with_a_star_in_it_is_no_pattern(authorize: Callable[..., Authorization]) -> None:
    port = authorize(SchemeRule("tv-*", entity_schemes=schemes(PSK)))
    assert port.entity_scheme_permitted("tv-*", PSK)
    assert not port.entity_scheme_permitted("tv-1", PSK)


def test_users_an_entity_may_bring(authorize: Callable[..., Authorization]) -> None:
    """Code 5041: the user is known and may not use this scheme from this entity."""
    password = schemes("EMAIL_PASSWORD")
    port = authorize(
        SchemeRule("kiosk-*", pattern=True, user_schemes=password, users=schemes("*@shop.example")),
        SchemeRule("kiosk-7", users=schemes("ann@shop.example", "eve@*")),
        SchemeRule("closed", user_schemes=password),
    )
    assert port.user_scheme_permitted("kiosk-1", None, "EMAIL_PASSWORD")
    assert port.user_scheme_permitted("kiosk-1", "bob@shop.example", "EMAIL_PASSWORD")
    assert not port.user_scheme_permitted("kiosk-1", "bob@home.example", "EMAIL_PASSWORD")
    assert not port.user_scheme_permitted("kiosk-7", "bob@shop.example", "EMAIL_PASSWORD")
    assert port.user_scheme_permitted("kiosk-7", "eve@home.example", "EMAIL_PASSWORD")
    assert not port.user_scheme_permitted("closed", "ann@shop.example", "EMAIL_PASSWORD"), "no users listed: none"


def test_revoked_entities_are_those_of_the_revocations(
    authorize: Callable[..., Authorization], revocations: MemoryRevocations
) -> None:
    port = authorize(SchemeRule("entity", entity_schemes=schemes(PSK)))
    assert not port.entity_revoked("entity")
    revocations.revoke(Revocation(Subject.ENTITY, "entity"))
    assert port.entity_revoked("entity")


def test_earlier_source_wins_between_equals(revocations: MemoryRevocations) -> None:
    first = RuleTable([SchemeRule("entity", entity_schemes=schemes(PSK))])
    second = RuleTable(
        [
            SchemeRule("entity", entity_schemes=schemes(RSA), key_exchanges=schemes("K")),
            SchemeRule("entity*", pattern=True, key_exchanges=schemes("L")),
        ]
    )
    port = RuleAuthorization([first, second], revocations)
    assert port.entity_scheme_permitted("entity", PSK)
    assert not port.entity_scheme_permitted("entity", RSA)
    assert port.key_exchange_permitted("entity", "K"), "an exact rule comes before a pattern of any source"


class TestSqlRules:
    """Rules that change while servers run."""

    @pytest.fixture
    def rules(self, database: Database) -> SqlRules:
        prepare(database)
        return SqlRules(database)

    def test_rules_are_kept_as_given(self, rules: SqlRules) -> None:
        given = [
            SchemeRule("a", entity_schemes=schemes(PSK, RSA), user_schemes=schemes()),
            SchemeRule("a", pattern=True, key_exchanges=schemes("K"), users=schemes("*")),
            SchemeRule("\ud800\0"),
        ]
        for rule in given:
            rules.put(rule)
        assert set(rules.rules()) == set(given)

    def test_an_endless_entity_is_refused(self, rules: SqlRules) -> None:
        with pytest.raises(UsageError):
            rules.put(SchemeRule("x" * 2000))

    def test_a_change_is_in_force_at_once_on_another_server(self, database: Database, rules: SqlRules) -> None:
        port = RuleAuthorization([SqlRules(database)], MemoryRevocations(lambda: 0.0))
        assert not port.entity_scheme_permitted("entity", PSK)
        rules.put(SchemeRule("entity", entity_schemes=schemes(PSK)))
        assert port.entity_scheme_permitted("entity", PSK)
        rules.put(SchemeRule("entity", entity_schemes=schemes(RSA)))
        assert not port.entity_scheme_permitted("entity", PSK)
        assert rules.remove("entity")
        assert not rules.remove("entity")
        assert not rules.remove("entity", pattern=True)
        assert not port.entity_scheme_permitted("entity", RSA)

    def test_damaged_rule_is_an_outage_and_permits_nothing(self, database: Database, rules: SqlRules) -> None:
        rules.put(SchemeRule("entity", entity_schemes=schemes(PSK)))
        with database.transaction() as connection:
            connection.execute(text("UPDATE scheme_rule SET entity_schemes = '[1'"))
        with pytest.raises(StoreError, match="damaged"):
            rules.applicable("entity")


def test_rules_out_of_reach_are_a_store_error(database: Database) -> None:
    port = RuleAuthorization([SqlRules(database)], MemoryRevocations(lambda: 0.0))
    for ask in (port.entity_scheme_permitted, port.key_exchange_permitted):
        with pytest.raises(StoreError):
            ask("entity", PSK)

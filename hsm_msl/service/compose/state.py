"""State and rules for a server's composition: stores, users, authorization."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import Authorization, Clock, RandomBytes, RenewalStore, ReplayStore, Revocations, Users
from hsm_msl.ports.schemes import FleetStore
from hsm_msl.service.documents import MEMORY, Configuration, ServerConfig
from hsm_msl.service.pruning import Pruning
from hsm_msl.service.server_sections import RenewalRuleSection, RuleSection
from hsm_msl.stores import schema
from hsm_msl.stores.authorization import RuleAuthorization, RuleSource, RuleTable, SchemeRule, SqlRules
from hsm_msl.stores.fleet_keys import FleetKeyStore
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore, MemoryRevocations
from hsm_msl.stores.passwords import Passwords
from hsm_msl.stores.renewal import SqlRenewalStore
from hsm_msl.stores.replay import SqlReplayStore
from hsm_msl.stores.revocation import SqlRevocations
from hsm_msl.stores.revocation_cache import CachedRevocations
from hsm_msl.stores.sql import Database
from hsm_msl.stores.users import SqlUserRecords, UserDirectory

_ANYBODY = ("*",)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a server keeps or looks up outside its tokens."""

    replays: ReplayStore
    renewals: RenewalStore
    revocations: Revocations
    authorization: Authorization
    users: Users | None
    fleet: FleetStore | None = None


def open_state(
    config: Configuration[ServerConfig], closing: ExitStack, clock: Clock, random: RandomBytes
) -> ServerState:
    """Open the databases of a configuration.

    Args:
        config: the configuration.
        closing: takes what has to be closed.
        clock: local time.
        random: source of salts.

    Raises:
        ConfigurationError: a database cannot be used; names the key.
        StoreError: it gives no answer.
    """
    document = config.document
    opened: dict[str, Database] = {}

    def database(key: str, url: str) -> Database:
        url = config.database(url)
        if url not in opened:
            opened[url] = open_database(config, key, url, closing)
        return opened[url]

    users = None
    if document.users is not None:
        records = SqlUserRecords(database("users.database", document.users.database))
        users = UserDirectory(records, Passwords(random))
    fleet = None
    if document.fleet is not None:
        place = document.fleet.database
        url, key = (document.store.database, "store.database") if place is None else (place, "fleet.database")
        fleet = FleetKeyStore(database(key, url))
    sources: list[RuleSource] = [RuleTable(_rules(document.schemes.rule))]
    default = _rule("*", document.schemes.default, users=_ANYBODY)
    if document.store.database == MEMORY:
        revocations: Revocations = MemoryRevocations(clock)
        replays: MemoryReplayStore | SqlReplayStore = MemoryReplayStore()
        renewals: MemoryRenewalStore | SqlRenewalStore = MemoryRenewalStore()
    else:
        store = database("store.database", document.store.database)
        revocations = CachedRevocations(SqlRevocations(store, clock), clock)
        replays, renewals = SqlReplayStore(store), SqlRenewalStore(store)
        sources.append(SqlRules(store))
    if document.store.prune_every:
        kept, every = document.token_policy.renewable_after_expiry, document.store.prune_every
        pruning = Pruning((replays, renewals), kept, every, clock=clock, random=random)
        closing.callback(pruning.close)
        pruning.start()
    authorization = RuleAuthorization(sources, revocations, default)
    return ServerState(replays, renewals, revocations, authorization, users, fleet)


def open_database(config: Configuration[ServerConfig], key: str, url: str, closing: ExitStack) -> Database:
    """Open one database of a configuration.

    Args:
        config: the configuration.
        key: where it names the database.
        url: its URL; an SQLite file is absolute.
        closing: takes what has to be closed.

    Raises:
        ConfigurationError: it cannot be used; names the key.
        StoreError: it gives no answer.
    """
    try:
        database = Database(url)
        closing.callback(database.close)
        schema.prepare(database)
    except ConfigurationError as error:
        raise config.error(key, str(error)) from None
    return database


def renewal_policy(rules: Iterable[RenewalRuleSection]) -> Callable[[str], str]:
    """Return the function that tells when master tokens of an entity are renewed, in the words of the rules."""
    table = [(pattern, rule.renew) for rule in rules for pattern in rule.entities]

    def renewed(identity: str) -> str:
        return next((answer for pattern, answer in table if matches(pattern, identity)), "in-window")

    return renewed


def _rules(sections: Iterable[RuleSection]) -> Iterable[SchemeRule]:
    for section in sections:
        for entity in getattr(section, "entities", ()):
            yield _rule(entity, section)


def _rule(entity: str, section: RuleSection, users: tuple[str, ...] | None = None) -> SchemeRule:
    return SchemeRule(
        entity,
        any(character in entity for character in "*?"),
        _names(section.entity),
        _names(section.user),
        _names(section.key_exchange),
        _names(section.users if section.users is not None else users),
    )


def _names(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def matches(pattern: str, identity: str) -> bool:
    """Tell whether an identity fits a pattern in which ``*`` and ``?`` are wildcards."""
    return fnmatch.fnmatchcase(identity, pattern.replace("[", "[[]"))

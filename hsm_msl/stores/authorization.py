"""Which entity may use which scheme: a table of rules in front of the revocations (msl-schemes section 1.4).

A rule names one entity or a pattern of entities, and for each of three questions either lists the schemes it permits
or leaves the question to the next rule that applies. The rule of the entity itself is asked first, then patterns with
more fixed characters before those with fewer, then the default. Nobody asked: nothing permitted.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from sqlalchemy import Executable, bindparam, delete, or_, select

from hsm_msl.errors import StoreError, UsageError
from hsm_msl.ports import Revocations
from hsm_msl.stores.limits import MAX_KEY_BYTES
from hsm_msl.stores.rows import insert_or_replace
from hsm_msl.stores.schema import SCHEME_RULE
from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import long_name


@dataclass(frozen=True, slots=True)
class SchemeRule:
    """What one entity, or every entity of a pattern, may use. None leaves a question to the next rule.

    Attributes:
        entity: an identity, or a pattern where ``*`` stands for any characters and ``?`` for one.
        pattern: whether ``entity`` is a pattern; an identity may well contain a ``*``.
        entity_schemes: entity authentication schemes permitted.
        user_schemes: user authentication schemes permitted.
        key_exchanges: key exchange schemes permitted.
        users: patterns of user identities the entity may authenticate; ``*`` alone for all.
    """

    entity: str
    pattern: bool = False
    entity_schemes: frozenset[str] | None = None
    user_schemes: frozenset[str] | None = None
    key_exchanges: frozenset[str] | None = None
    users: frozenset[str] | None = None


class RuleSource(Protocol):
    """Where rules come from."""

    def applicable(self, identity: str) -> Sequence[SchemeRule]:
        """Return the rules that apply to an entity, in any order. Raises StoreError."""


class RuleTable:
    """Rules from configuration."""

    def __init__(self, rules: Iterable[SchemeRule]) -> None:
        rules = tuple(rules)
        self._exact: dict[str, list[SchemeRule]] = {}
        for rule in rules:
            if not rule.pattern:
                self._exact.setdefault(rule.entity, []).append(rule)
        self._patterns = tuple(rule for rule in rules if rule.pattern)

    def applicable(self, identity: str) -> Sequence[SchemeRule]:
        """Return the rules that apply to an entity."""
        patterns = [rule for rule in self._patterns if _matches(rule.entity, identity)]
        return [*self._exact.get(identity, ()), *patterns]


class SqlRules:
    """Rules in a database whose tables are prepared; each change is in force at once on every server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._put = insert_or_replace(database, SCHEME_RULE)

    def applicable(self, identity: str) -> Sequence[SchemeRule]:
        """Return the rules that apply to an entity. Raises StoreError."""
        rules = self._select(_APPLICABLE, {"e": identity})
        return [rule for rule in rules if not rule.pattern or _matches(rule.entity, identity)]

    def put(self, rule: SchemeRule) -> None:
        """Add a rule, or replace that of the same entity or pattern.

        Raises:
            UsageError: the entity or pattern is longer than can be kept.
            StoreError: nothing was stored.
        """
        if long_name(rule.entity) is not None:
            raise UsageError(f"the entity of a rule must not be above {MAX_KEY_BYTES} bytes")
        row = {"entity": rule.entity, "pattern": int(rule.pattern)}
        lists = {name: _written(getattr(rule, name)) for name in _LISTS}
        with self._database.statements() as connection:
            connection.execute(self._put, {**row, **lists})

    def remove(self, entity: str, *, pattern: bool = False) -> bool:
        """Drop the rule of an entity or pattern; False when there is none. Raises StoreError."""
        with self._database.statements() as connection:
            return connection.execute(_REMOVE, {"e": entity, "p": int(pattern)}).rowcount == 1

    def rules(self) -> Sequence[SchemeRule]:
        """Return every rule. Raises StoreError."""
        return self._select(_ALL, {})

    def _select(self, statement: Executable, values: dict[str, str]) -> list[SchemeRule]:
        with self._database.statements() as connection:
            rows = connection.execute(statement, values).all()
        return [
            SchemeRule(
                row.entity,
                bool(row.pattern),
                _read(row.entity_schemes),
                _read(row.user_schemes),
                _read(row.key_exchanges),
                _read(row.users),
            )
            for row in rows
        ]


class RuleAuthorization:
    """An ``Authorization`` port made of rules and revocations.

    Args:
        sources: where rules come from; of two rules of equal weight that of the earlier source is asked first.
        revocations: which entities are revoked.
        default: asked last, for every entity; its ``entity`` does not matter. None permits nothing.
    """

    def __init__(
        self, sources: Iterable[RuleSource], revocations: Revocations, default: SchemeRule | None = None
    ) -> None:
        self._sources = tuple(sources)
        self._revocations = revocations
        self._default = () if default is None else (default,)

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity is revoked. Raises StoreError."""
        return self._revocations.entity_revoked(identity)

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may authenticate with this scheme. Raises StoreError."""
        return scheme in _first(rule.entity_schemes for rule in self._rules(identity))

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        """Tell whether the entity (for ``user``, once known) may authenticate users with this scheme.

        Raises:
            StoreError: the rules cannot be read.
        """
        rules = self._rules(identity)
        if scheme not in _first(rule.user_schemes for rule in rules):
            return False
        return user is None or any(_matches(pattern, user) for pattern in _first(rule.users for rule in rules))

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may obtain session keys with this scheme. Raises StoreError."""
        return scheme in _first(rule.key_exchanges for rule in self._rules(identity))

    def _rules(self, identity: str) -> Sequence[SchemeRule]:
        rules = [rule for source in self._sources for rule in source.applicable(identity)]
        return [*sorted(rules, key=_weight), *self._default]


_LISTS = ("entity_schemes", "user_schemes", "key_exchanges", "users")
_T = SCHEME_RULE.c
_ALL = select(SCHEME_RULE).order_by(_T.pattern, _T.entity)
_APPLICABLE = select(SCHEME_RULE).where(or_(_T.pattern == 1, _T.entity == bindparam("e")))
_REMOVE = delete(SCHEME_RULE).where(_T.entity == bindparam("e"), _T.pattern == bindparam("p"))


def _first(answers: Iterable[frozenset[str] | None]) -> frozenset[str]:
    return next((answer for answer in answers if answer is not None), frozenset())


def _weight(rule: SchemeRule) -> tuple[bool, int]:
    return rule.pattern, -sum(character not in "*?" for character in rule.entity)


def _matches(pattern: str, name: str) -> bool:
    # fnmatch does not backtrack without end and remembers translations; its character classes are switched off.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _written(schemes: frozenset[str] | None) -> str | None:
    return None if schemes is None else msgspec.json.encode(sorted(schemes)).decode()


def _read(written: str | None) -> frozenset[str] | None:
    if written is None:
        return None
    try:
        return msgspec.json.decode(written, type=frozenset[str])
    except msgspec.DecodeError as error:
        raise StoreError(f"a scheme rule is damaged: {error}") from None

"""Sections of a server's configuration: serving, schemes, tokens issued, state (values only)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hsm_msl.service.sections import Count, Name, Seconds, Section

FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]


class ListenSection(Section, frozen=True, kw_only=True):
    """``[server]``: where and how the service listens.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which is printed.
        workers: processes; each logs in to the token on its own.
        threads: threads per process for messages that take time; 0 runs everything on the event loop.
        inline: run messages of sessions whose last message took less than 5 ms on the event loop, which saves the
            change of threads. Residency ``token`` switches it off, since each message then asks a token.
        health: path prefix of the health pages ``live`` and ``ready``, answered to GET only.
        grace: seconds that requests in progress may take when the service stops; 10 s later a process in which a call
            still hangs is ended (``last_resort``).
        application: what answers messages, as ``module:function`` (``msl.application.Application``), found as Python
            finds modules; the echo where it is left out.
        stream: what answers messages too long to be held whole (``msl.streaming.StreamApplication``); an
            application without it refuses them.
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 4
    inline: bool = True
    health: Annotated[str, msgspec.Meta(pattern="^/[^?#]*[^/?#]$")] = "/health"
    grace: Seconds = 10
    application: FunctionName | None = None
    stream: FunctionName | None = None


class DialogIncludeSection(Section, frozen=True, kw_only=True):
    """``[dialog]``: secure dialogs on the same port, at ``/dialog``.

    Attributes:
        configuration: the file that describes them (``service.dialog.config``). Its ``[server]`` says nothing about
            where to listen then, and without ``[tokens]`` its keys are in this file's tokens.
    """

    configuration: Name


class RuleSection(Section, frozen=True, kw_only=True):
    """Schemes that some entities may use. A list that is left out leaves its question to the next rule that fits.

    Attributes:
        entity: entity authentication schemes.
        user: user authentication schemes.
        key_exchange: key exchange schemes.
        users: identities of users who may come by these entities, with ``*`` and ``?`` as wildcards.
    """

    entity: tuple[Name, ...] | None = None
    user: tuple[Name, ...] | None = None
    key_exchange: tuple[Name, ...] | None = None
    users: tuple[Name, ...] | None = None


class EntityRuleSection(RuleSection, frozen=True, kw_only=True):
    """``[[schemes.rule]]``: the schemes of some entities.

    Rules that name an entity come first, then patterns with more fixed characters before those with fewer.

    Attributes:
        entities: identities, with ``*`` and ``?`` as wildcards.
    """

    entities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]


class SchemesSection(Section, frozen=True, kw_only=True):
    """``[schemes]``: what this network speaks, and who may use what.

    Attributes:
        key_exchange: key exchanges in order of preference.
        mechanisms: mechanisms of ASYMMETRIC_WRAPPED to serve; all that the residency of session keys allows when
            left out.
        default: asked last, for every entity; what it leaves open is not permitted.
        rule: schemes of entities by name or pattern.
    """

    key_exchange: tuple[Name, ...] = ("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
    mechanisms: tuple[Name, ...] | None = None
    default: RuleSection = RuleSection()
    rule: tuple[EntityRuleSection, ...] = ()


class RenewalRuleSection(Section, frozen=True, kw_only=True):
    """``[[token_policy.rule]]``: when master tokens of some entities are renewed; ``in-window`` without a rule.

    Attributes:
        entities: identities, with ``*`` and ``?`` as wildcards.
        renew: ``never``, ``in-window``, or ``when-asked``: also before the window, for clients that renew by number
            of messages (their ``key_exchange.renew_after_messages``).
    """

    entities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    renew: Literal["never", "in-window", "when-asked"]


class TokenPolicySection(Section, frozen=True, kw_only=True):
    """``[token_policy]``: lifetimes of issued tokens, in seconds.

    Attributes:
        renewal_window: age from which a token is renewed.
        lifetime: age at which it expires.
        unanswered_limit: renewals in a row whose answer the client seems to have lost.
        renewable_after_expiry: how long an expired master token is still renewed; who comes later starts anew. The
            database keeps what it knows of a token that long.
        unknown_renewal_state: what becomes of a renewal whose serial number the database does not know. ``accept``
            keeps every token valid that verifies: those of a deployment whose keys were taken over, of several
            devices under one identity, of a database that was lost. ``refuse`` makes such a client start anew, with
            its users' credentials, and a stolen copy of an older token worthless once it expires.
        out_of_order: non-replayable messages may be overtaken by this many of the same client's; 0 is what deployed
            servers do, where a message overtaken by more than 5 makes its client start anew.
        defer_above: messages in work per process beyond which renewals that can wait are put off; 0 for never.
        rule: entities by pattern; the first rule that fits counts.
    """

    renewal_window: Seconds = 3600
    lifetime: Seconds = 86400
    unanswered_limit: Annotated[int, msgspec.Meta(ge=1)] = 5
    renewable_after_expiry: Seconds = 2_592_000
    unknown_renewal_state: Literal["accept", "refuse"] = "accept"
    out_of_order: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    defer_above: Annotated[int, msgspec.Meta(ge=0)] = 0
    rule: tuple[RenewalRuleSection, ...] = ()


class UserServiceSection(Section, frozen=True, kw_only=True):
    """``[[user_services]]``: a user authentication scheme of one's own, judged by a service over HTTP.

    Attributes:
        scheme: the scheme's name on the wire.
        url: where to ask; https, except on this machine.
        mandatory: names of the strings every client sends.
        optional: names of strings a client may send.
        user_id_token: name of the member that holds the user ID token of the user so far, for a scheme by which
            clients go from one user to another; it must be of the same session, and the service is told its user.
        timeout: seconds for one try.
    """

    scheme: Name
    url: Name
    mandatory: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    optional: tuple[Name, ...] = ()
    user_id_token: Name | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class UsersSection(Section, frozen=True, kw_only=True):
    """``[users]``: the database with users and their passwords (as argon2id).

    Attributes:
        database: its URL.
        failures: wrong passwords of one entity for one user before further ones are answered with "try again later",
            unseen; ten times as many of one entity for all users, or of all entities for one user. 0 for no limit.
            Each process counts for itself.
        failures_per_hour: how many of them are forgotten in an hour.
    """

    database: Name
    failures: Annotated[int, msgspec.Meta(ge=0)] = 30
    failures_per_hour: Annotated[float, msgspec.Meta(gt=0)] = 360.0


class StoreSection(Section, frozen=True, kw_only=True):
    """``[store]``: where renewal, replay and revocation state is kept; ``memory`` forgets it at every restart.

    Attributes:
        database: its URL, or ``memory``.
        prune_every: seconds between two rounds in which a process drops what it knows of tokens that are renewed no
            more; 0 for never.
    """

    database: Name = "memory"
    prune_every: Annotated[int, msgspec.Meta(ge=0)] = 3600


class CacheSection(Section, frozen=True, kw_only=True):
    """``[cache]``: how many verified tokens of each kind a process remembers."""

    tokens: Count = 10_000
    service_tokens: Count = 10_000


class SessionKeysSection(Section, frozen=True, kw_only=True):
    """``[session_keys]``: where the keys of sessions live and come from.

    Attributes:
        residency: ``host`` keeps them in this process while in use; ``token`` never lets them out of the token that
            holds the token keys, and serves only the key exchanges whose answer can be made without seeing them.
        source: with ``host``, ``system`` or the name of the token whose generator makes them.
    """

    residency: Literal["host", "token"] = "host"
    source: Name = "system"

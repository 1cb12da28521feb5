"""The token factory of an issuing entity: what it creates, renews, and has taken back (msl-engine section 17)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens import replay
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens
from hsm_msl.msl.tokens.user_id_token import UserIdToken, UserIdTokens
from hsm_msl.ports import (
    Clock,
    RandomBytes,
    RenewalState,
    RenewalStore,
    ReplayStore,
    Revocations,
    SessionData,
    SymmetricKeys,
)
from hsm_msl.wire.limits import MAX_LONG


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Lifetimes of issued tokens, in whole seconds, and who may be renewed.

    Attributes:
        renewal_window: seconds after issue from which a token may be renewed.
        lifetime: seconds after issue at which it expires; not less than ``renewal_window``.
        unanswered_limit: renewals in a row whose answer the client seems to have lost.
        renewable_after_expiry: seconds for which a master token is still renewed once it has expired. The stores keep
            what they know of a token that long, and no longer.
        renews_unknown: whether a master token is renewed of whose serial number nothing is stored. That is so where
            state was lost, and for every token but the entity's newest: a copy of an older one can then be renewed.
        out_of_order: how many non-replayable IDs below the largest are accepted, each once; deployed servers accept
            none.
        renews: tells whether tokens of an entity are renewed inside their window at all.
        renews_early: tells whether master tokens of an entity are also renewed before their window, whenever a
            renewable message offers a key exchange; clients that renew by number of messages ask that way. Deployed
            servers never do.
        defers: tells whether renewals that can wait should, because the server is under load; a token past its
            expiration is renewed all the same.
    """

    renewal_window: int = 3600
    lifetime: int = 86400
    unanswered_limit: int = 5
    renewable_after_expiry: int = 2_592_000
    renews_unknown: bool = True
    out_of_order: int = 0
    renews: Callable[[str], bool] = lambda identity: True  # noqa: ARG005 - the default looks at nobody
    renews_early: Callable[[str], bool] = lambda identity: False  # noqa: ARG005 - likewise
    defers: Callable[[], bool] = lambda: False


def random_long(random: RandomBytes) -> int:
    """Return a number uniform in 0 to 2^53 - 1, for message IDs and serial numbers."""
    return int.from_bytes(random(7)) & (MAX_LONG - 1)


def next_long(value: int) -> int:
    """Return ``value`` + 1, wrapping from 2^53 to 0."""
    return 0 if value == MAX_LONG else value + 1


class TokenIssuer:
    """Creates and renews tokens, and answers whether one is revoked, renewable or replayed.

    Args:
        master_tokens: makes master tokens.
        user_id_tokens: makes user ID tokens.
        policy: lifetimes and limits.
        clock: this server's time.
        random: source of serial numbers.
        replays: accepted non-replayable IDs.
        renewals: issued and used sequence numbers.
        revocations: what was taken back.
    """

    __slots__ = (
        "_clock",
        "_master_tokens",
        "_policy",
        "_random",
        "_renewals",
        "_replays",
        "_revocations",
        "_user_id_tokens",
    )

    def __init__(
        self,
        master_tokens: MasterTokens,
        user_id_tokens: UserIdTokens,
        policy: TokenPolicy,
        *,
        clock: Clock,
        random: RandomBytes,
        replays: ReplayStore,
        renewals: RenewalStore,
        revocations: Revocations,
    ) -> None:
        self._master_tokens = master_tokens
        self._user_id_tokens = user_id_tokens
        self._policy = policy
        self._clock = clock
        self._random = random
        self._replays = replays
        self._renewals = renewals
        self._revocations = revocations

    def check_master_token(self, token: MasterToken) -> None:
        """Refuse a revoked master token.

        Raises:
            MslError: MASTERTOKEN_UNTRUSTED for an opaque one, MASTERTOKEN_IDENTITY_REVOKED.
            StoreError: revocations cannot be read.
        """
        identity = _identity(token)
        if self._revocations.master_token_revoked(identity, token.serial_number):
            raise MslError(ErrorCode.MASTERTOKEN_IDENTITY_REVOKED)

    def check_user_id_token(self, token: UserIdToken) -> None:
        """Refuse a revoked or forged user ID token.

        Raises:
            MslError: USERIDTOKEN_NOT_DECRYPTED for one that does not verify, USERIDTOKEN_REVOKED.
            StoreError: revocations cannot be read.
        """
        if token.user is None:
            raise MslError(ErrorCode.USERIDTOKEN_NOT_DECRYPTED)
        if self._revocations.user_id_token_revoked(token.user, token.serial_number):
            raise MslError(ErrorCode.USERIDTOKEN_REVOKED)

    def check_renewable(self, token: MasterToken) -> None:
        """Refuse an expired master token that ``renew_master_token`` would refuse.

        Raises:
            MslError: MASTERTOKEN_UNTRUSTED, MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, or MASTERTOKEN_REJECTED_BY_APP
                where policy never renews for this entity; all make it start anew.
            StoreError: the renewal state cannot be reached.
        """
        if not self._policy.renews(_identity(token)):
            raise MslError(ErrorCode.MASTERTOKEN_REJECTED_BY_APP)
        self._renew_state(token, commit=False)

    def accept_non_replayable_id(self, token: MasterToken, received: int) -> None:
        """Consume a non-replayable ID.

        Raises:
            MslError: MASTERTOKEN_UNTRUSTED, NONREPLAYABLE_ID_OUT_OF_RANGE, MESSAGE_REPLAYED,
                MESSAGE_REPLAYED_UNRECOVERABLE.
            StoreError: the state cannot be reached.
        """
        replay.accept(
            self._replays,
            _identity(token),
            token.serial_number,
            received,
            until=token.expiration,
            out_of_order=self._policy.out_of_order,
        )

    def renews_now(self, token: MasterToken) -> bool:
        """Tell whether a master token that has not expired is renewed when asked: by its window and policy, and where
        this server has the time to. Raises MslError MASTERTOKEN_UNTRUSTED.
        """
        identity, policy = _identity(token), self._policy
        due = token.is_renewable(None, self._clock()) or policy.renews_early(identity)
        return due and policy.renews(identity) and not policy.defers()

    def create_master_token(
        self, identity: str, keys: SymmetricKeys, issuer_data: Mapping[str, object] | None = None
    ) -> MasterToken:
        """Make the first master token of a session: random serial number, sequence number 0.

        Non-replayable IDs accepted under earlier tokens stay on record: those tokens are valid until they expire,
        and what was recorded under them must not be accepted anew.

        Raises:
            BackendError: a token key operation did not happen.
            StoreError: the state cannot be written; nothing was issued.
        """
        serial = random_long(self._random)
        token = self._issue(SessionData(identity, keys, issuer_data), 0, serial)
        self._renewals.create(identity, serial, RenewalState(0, 0, 0, token.expiration))
        return token

    def renew_master_token(
        self, token: MasterToken, keys: SymmetricKeys, issuer_data: Mapping[str, object] | None = None
    ) -> MasterToken:
        """Make the next master token of a session: same serial number, next sequence number, merged issuer data.

        The sequence number last issued or last used to renew is accepted, so that a client that lost an answer gets
        another, up to the policy's limit. One that expired too long ago is not: what was known of it is gone.

        Raises:
            MslError: MASTERTOKEN_UNTRUSTED, MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC.
            BackendError: a token key operation did not happen.
            StoreError: the state cannot be written; nothing was issued.
        """
        identity = _identity(token)
        previous = token.session.issuer_data if token.session else None
        merged = issuer_data if previous is None else {**previous, **(issuer_data or {})}
        sequence = self._renew_state(token, commit=True)
        return self._issue(SessionData(identity, keys, merged), sequence, token.serial_number)

    def create_user_id_token(self, user: str, master_token: MasterToken) -> UserIdToken:
        """Make a user ID token bound to the master token, with a random serial number. Raises BackendError."""
        return self._issue_user(user, master_token, random_long(self._random))

    def renew_user_id_token(self, token: UserIdToken, master_token: MasterToken) -> UserIdToken:
        """Make the user ID token anew, same serial number and user, bound to this master token.

        Raises:
            MslError: USERIDTOKEN_NOT_DECRYPTED for an opaque one.
            BackendError: a token key operation did not happen.
        """
        if token.user is None:
            raise MslError(ErrorCode.USERIDTOKEN_NOT_DECRYPTED)
        return self._issue_user(token.user, master_token, token.serial_number)

    def _renew_state(self, token: MasterToken, *, commit: bool) -> int:
        identity = _identity(token)
        presented = token.sequence_number
        now = int(self._clock())
        if token.expiration + self._policy.renewable_after_expiry <= now:
            raise MslError(ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, "expired too long ago")
        until = now + self._policy.lifetime
        issued: int | None = None

        def decide(state: RenewalState | None) -> RenewalState | None:
            nonlocal issued
            issued = None  # a store may decide again after a conflict
            if state is None:
                if not self._policy.renews_unknown:
                    return None
                # A restored or emptied store: the verified token itself is the only evidence of what was issued.
                state = RenewalState(presented, presented, 0)
            if presented not in (state.last_issued, state.last_used):
                return None
            unanswered = 0 if presented == state.last_issued else state.unanswered + 1
            if unanswered > self._policy.unanswered_limit:
                return None
            issued = next_long(state.last_issued)
            return RenewalState(issued, presented, unanswered, max(state.until, until)) if commit else None

        self._renewals.renew(identity, token.serial_number, decide)
        if issued is None:
            raise MslError(ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC)
        return issued

    def _issue(self, session: SessionData, sequence: int, serial: int) -> MasterToken:
        now = int(self._clock())
        return self._master_tokens.issue(
            session,
            renewal_window=now + self._policy.renewal_window,
            expiration=now + self._policy.lifetime,
            sequence_number=sequence,
            serial_number=serial,
        )

    def _issue_user(self, user: str, master_token: MasterToken, serial: int) -> UserIdToken:
        now = int(self._clock())
        return self._user_id_tokens.issue(
            user,
            renewal_window=now + self._policy.renewal_window,
            expiration=now + self._policy.lifetime,
            master_token_serial_number=master_token.serial_number,
            serial_number=serial,
        )


def _identity(token: MasterToken) -> str:
    if token.identity is None:
        raise MslError(ErrorCode.MASTERTOKEN_UNTRUSTED)
    return token.identity

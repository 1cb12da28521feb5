"""Choosing the tokens of a request, and owning the renewal lock where they may change (msl-engine 4.1, 4.2 and 5)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from enum import Enum, auto

from hsm_msl.msl.client_state import ClientState, Session
from hsm_msl.msl.conversation import Message, Wait
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.recovery import Recovery
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.renewal_rules import must_renew, renewable, user_may_renew
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.ports import Clock


@dataclass(frozen=True, slots=True)
class ShownTokens:
    """Our tokens as a peer carries them along: it shows only what it still accepts (msl-engine section 7.3).

    Attributes:
        master_token: ours by the peer's account.
        user_id_token: the one of our user.
    """

    master_token: MasterToken | None
    user_id_token: UserIdToken | None

    def session(self, newest: Session | None) -> Session | None:
        """Return the session to answer under: the one shown or its renewal."""
        shown = self.master_token
        if newest is None or shown is None or newest.master_token.serial_number != shown.serial_number:
            return None
        return newest

    def user(self, known: UserIdToken | None) -> UserIdToken | None:
        """Return the user ID token to answer with."""
        shown = self.user_id_token
        same = known is not None and shown is not None and known.serial_number == shown.serial_number
        return known if same else None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the next request is to be made: everything for the first, what recovery says for a repetition.

    Attributes:
        recovery: which tokens to use.
        local: the entity to authenticate as.
        message_id: the ID to continue with, or None for a random one.
        failed: the master token of the request that was refused.
        shown: limits the choice to the tokens that came along with the message being answered, between peers.
    """

    recovery: Recovery
    local: LocalEntity
    message_id: int | None = None
    failed: MasterToken | None = None
    shown: ShownTokens | None = None

    def asks_for_keys(self, token: MasterToken | None) -> bool:
        """Tell whether the error being recovered from asks for new keys in place of ``token``."""
        if self.recovery.renewable:
            return True
        replaced = self.failed is not None and token is not None and not token.same_as(self.failed)
        return self.recovery.renewable_if_same and not replaced


@dataclass(frozen=True, slots=True)
class Choice:
    """The tokens of a request, and whether it is the one renewing exchange; then the lock must be released."""

    session: Session | None
    user_id_token: UserIdToken | None
    owned: bool = False

    @property
    def master_token(self) -> MasterToken | None:
        """The session's master token."""
        return None if self.session is None else self.session.master_token


class _Need(Enum):
    MUST = auto()
    MAY = auto()
    NO = auto()


class TokenChooser:
    """Chooses the tokens of each request of one client.

    Args:
        state: the client's tokens.
        lock: the network's renewal lock.
        clock: local time.
        renew_after_messages: ask for new session keys after this many messages under one master token; 0 for never.
    """

    __slots__ = ("_clock", "_lock", "_renew_after", "_state")

    def __init__(self, state: ClientState, lock: RenewalLock, clock: Clock, renew_after_messages: int) -> None:
        self._state = state
        self._lock = lock
        self._clock = clock
        self._renew_after = renew_after_messages

    def renewable(self, token: MasterToken) -> bool:
        """Tell whether to offer a key exchange for this master token."""
        return renewable(self._state, token, self._clock(), self._renew_after)

    def choose(self, message: Message, plan: Plan, *, eager: bool = True) -> Generator[Wait, bytes | None, Choice]:
        """Choose the tokens of a request, waiting for another exchange's renewal where they cannot do without.

        Args:
            message: what is to be sent.
            plan: how.
            eager: ask for new tokens also where the message can do without, since its answer will be read.

        Yields:
            ``Wait`` steps, during which nothing is held.

        Returns:
            The tokens; if ``owned``, the caller must release the lock on every path.
        """
        while True:
            need, choice = self._read(message, plan, eager)
            if need is _Need.NO:
                return choice
            if self._lock.try_acquire():
                return self._reread(message, plan, eager)
            if need is _Need.MAY:
                return choice
            ticket = self._lock.ticket()
            if ticket is None:
                continue
            yield Wait(ticket)
            delivered = ticket.token is not None and not ticket.token.same_as(choice.master_token)
            if delivered:
                # What another exchange obtained meanwhile serves as well (msl-engine 10.2, KEYX_REQUIRED).
                recovery = plan.recovery if plan.recovery.master_token else Recovery()
                plan = replace(plan, recovery=recovery, shown=None)

    def _reread(self, message: Message, plan: Plan, eager: bool) -> Choice:
        """Choose again under the lock: what was read before may be older than another exchange's renewal."""
        try:
            need, choice = self._read(message, plan, eager)
        except BaseException:
            self._lock.release(None)
            raise
        if need is _Need.NO:
            self._lock.release(choice.master_token)
            return choice
        return replace(choice, owned=True)

    def _read(self, message: Message, plan: Plan, eager: bool) -> tuple[_Need, Choice]:
        session = self._state.newest() if plan.recovery.master_token else None
        if plan.shown is not None:
            session = plan.shown.session(session)
        token = None if session is None else session.master_token
        user = self._state.user_id_token(message.user, token) if plan.recovery.user_id_token else None
        if plan.shown is not None:
            user = plan.shown.user(user)
        choice = Choice(session, user)
        now = self._clock()
        if plan.asks_for_keys(token) or must_renew(message, plan.local, self._state, token, user, now):
            return _Need.MUST, choice
        if not eager:
            return _Need.NO, choice
        if token is None or self.renewable(token) or user_may_renew(message, self._state, user, now):
            return _Need.MAY, choice
        return _Need.NO, choice

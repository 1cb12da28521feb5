"""When a side shifts its own key, and when it fails the dialog for how the peer shifts (dialog section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from hsm_msl.dialog.names import MAX_LIFETIME, MIN_SHIFT_INTERVAL, REACTIVE, Cause, Reason
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports.dialog_records import EndpointRecord, ShiftEvent


class Rate(msgspec.Struct, frozen=True):
    """A number of events within a period in seconds."""

    count: int
    period: float


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of one binding; times in seconds, None switches a rule off.

    Args:
        max_age: own session key is shifted at the next send after this age.
        max_messages: own session key is shifted after this many messages.
        max_bytes: own session key is shifted after this many plaintext bytes.
        on_peer_shift: own key is shifted after the peer shifted its key of its own accord.
        peer_shift_delay: how long after the peer's shift (0-30).
        peer_count: own key is shifted when the peer shifted this often within the period.
        max_peer_shifts: the dialog fails when the peer shifts more often within the period.
        peer_must_shift: the dialog fails when the peer's key grows older than this.
        active: the rule above is also enforced, by probes and a timer, while no messages arrive.
        remote_must_shift: the ``peer_must_shift`` that the peer has announced, checked against ``max_age``.
        kek_max_age: a key exchange key wraps no new session key after this age.
        kek_max_wraps: a key exchange key wraps at most this many session keys.
        max_lifetime: longest lifetime of a dialog, at most 30 days.
    """

    max_age: float | None = 3600.0
    max_messages: int | None = 2**20
    max_bytes: int | None = 2**36
    on_peer_shift: bool = True
    peer_shift_delay: float = 0.0
    peer_count: Rate | None = None
    max_peer_shifts: Rate | None = Rate(10, 60.0)
    peer_must_shift: float | None = None
    active: bool = False
    remote_must_shift: float | None = None
    kek_max_age: float = 86400.0
    kek_max_wraps: int = 2**20
    max_lifetime: int = MAX_LIFETIME

    def validate(self) -> None:
        """Raise ConfigurationError for rules that cannot be kept together."""
        # Written so that what is not a number fails: every comparison with it is false.
        if self.remote_must_shift is not None and not (self.max_age or math.inf) < self.remote_must_shift:
            raise ConfigurationError("max_age must be below the peer's announced peer_must_shift")
        if not 0 <= self.peer_shift_delay <= 30:
            raise ConfigurationError("peer_shift_delay is between 0 and 30 seconds")
        if not 0 < self.max_lifetime <= MAX_LIFETIME:
            raise ConfigurationError("max_lifetime is at most 30 days")
        for rate in (self.peer_count, self.max_peer_shifts):
            if rate is not None and not (rate.count >= 1 and 0 < rate.period < math.inf):
                raise ConfigurationError("a rate needs a count of at least 1 and a period above 0 that ends")
        for limit in (self.max_age, self.max_messages, self.max_bytes, self.peer_must_shift):
            if limit is not None and not limit > 0:
                raise ConfigurationError("limits are numbers above 0")
        if not 0 < self.kek_max_age < math.inf or self.kek_max_wraps < 1:
            raise ConfigurationError("kek_max_age and kek_max_wraps are above 0, and end")

    @property
    def kept_events(self) -> int:
        """How many shifts of the peer the windows must remember."""
        rates = (self.peer_count, self.max_peer_shifts)
        return max((rate.count for rate in rates if rate is not None), default=1)


def shift_too_soon(state: EndpointRecord, now: float) -> bool:
    """Tell whether the last own shift is less than a second ago; the first key was not a shift."""
    return state.out_generation > 1 and now - state.out_since < MIN_SHIFT_INTERVAL


def own_shift(policy: Policy, state: EndpointRecord, now: float) -> Cause | None:
    """Return why the own key must be shifted before the next message, or None.

    Args:
        policy: the rules.
        state: this side; a generation of 0 has no key yet.
        now: seconds since the Unix epoch.
    """
    if state.out_generation == 0:
        return Cause.START
    if shift_too_soon(state, now):
        return None
    if state.pending_cause and now >= state.pending_at:
        return Cause(state.pending_cause)
    if policy.max_age is not None and now - state.out_since >= policy.max_age:
        return Cause.TIME
    if policy.max_messages is not None and state.out_messages >= policy.max_messages:
        return Cause.VOLUME
    if policy.max_bytes is not None and state.out_bytes >= policy.max_bytes:
        return Cause.VOLUME
    return None


def peer_shifted(
    policy: Policy, state: EndpointRecord, cause: Cause, earlier: Sequence[ShiftEvent], now: float
) -> Reason | None:
    """Apply the rules to one authenticated shift of the peer, counted once.

    A shift that was itself a reaction (cause 4 or 5) counts but sets nothing off: two sides never chase each other.

    Args:
        policy: the rules.
        state: this side; an own shift that is called for is noted in it.
        cause: the cause in the peer's session key header.
        earlier: the peer's kept shifts before this one, oldest first.
        now: seconds since the Unix epoch.

    Returns the reason to fail the dialog, or None.
    """
    limit = policy.max_peer_shifts
    if limit is not None:
        recent = sum(1 for event in earlier if event.at > now - limit.period)
        if recent >= limit.count:
            return Reason.POLICY_SHIFT_RATE
    if cause in REACTIVE or state.pending_cause:
        return None
    if policy.on_peer_shift:
        state.pending_cause = Cause.PEER_SHIFT
        state.pending_at = now + policy.peer_shift_delay
        return None
    count = policy.peer_count
    if count is not None:
        since = max(now - count.period, state.count_mark)
        if 1 + sum(1 for event in earlier if event.at > since) >= count.count:
            state.pending_cause = Cause.PEER_SHIFT_COUNT
            state.pending_at = now
            state.count_mark = now
    return None


def peer_overdue(policy: Policy, state: EndpointRecord, now: float) -> bool:
    """Tell whether the peer has kept its current key longer than ``peer_must_shift`` allows."""
    if policy.peer_must_shift is None or state.in_generation == 0:
        return False
    return now - state.in_since > policy.peer_must_shift

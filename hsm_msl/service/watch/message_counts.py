"""What happened to messages, counted by the one process that handled them."""

from __future__ import annotations

from collections import Counter

from hsm_msl.backend.operations import add, no_latency
from hsm_msl.errors import BackendError, MslError, StoreError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.ports import Clock


class MessageCounts:
    """Counts messages (``ServerEvents``).

    Args:
        clock: this server's time.

    Attributes:
        outcomes: messages by outcome and what it was for: ``answered``; ``refused`` by the name of the MSL error;
            ``outage`` and ``defect`` by the kind of exception, both answered with a transient MSL error;
            ``unavailable``, when not even an error message could be protected; ``ignored``, MSL errors received.
        exchanges: master tokens issued, ``first`` ones and ``renewal``.
        put_off: renewals a client asked for in time and was not given.
        durations: from the whole request to the whole response.
    """

    __slots__ = ("_clock", "durations", "exchanges", "outcomes", "put_off")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.put_off = 0
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        self.exchanges = Counter({"first": 0, "renewal": 0})
        self.durations = no_latency()

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Count an answer."""
        self.outcomes["answered", "", ""] += 1
        if response.key_response is not None:
            self.exchanges["first" if request.master_token is None else "renewal"] += 1
        elif request.renewable and request.key_requests and request.master_token is not None:
            self.put_off += request.master_token.is_renewable(None, self._clock())

    def refused(self, error: MslError, request: MessageHeader | None) -> None:  # noqa: ARG002 - whose is not counted
        """Count a refusal."""
        self.outcomes["refused", error.code.name, error.code.response.name] += 1

    def failed(self, error: Exception, request: MessageHeader | None) -> None:  # noqa: ARG002 - as above
        """Count an outage or a defect."""
        outcome = "outage" if isinstance(error, BackendError | StoreError) else "defect"
        self.outcomes[outcome, type(error).__name__, "TRANSIENT_FAILURE"] += 1

    def unavailable(self) -> None:
        """Count a message that HTTP had to answer."""
        self.outcomes["unavailable", "", ""] += 1

    def ignored(self) -> None:
        """Count a message that is never answered."""
        self.outcomes["ignored", "", ""] += 1

    def took(self, nanoseconds: int) -> None:
        """Count a duration."""
        add(self.durations, nanoseconds)

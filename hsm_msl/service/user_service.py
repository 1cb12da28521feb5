"""Users known to another service, asked over HTTP: the example of ``ExternalScheme`` at work.

The request is ``POST`` of ``{"scheme", "entity", "credentials"}``. The service says who it is with 200 and
``{"user": "..."}`` and refuses credentials with 403. Everything else is no answer: the client is told to try again
later, never that its user was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from hsm_msl.errors import ConfigurationError, StoreError
from hsm_msl.service.circuit_breaker import CircuitBreaker

_KNOWN = 200
_REFUSED = 403
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_TRY_AGAIN = frozenset((429, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a user service.

    Attributes:
        timeout: seconds for one try, connecting included.
        tries: how often to ask at most.
        pause: seconds before the second try, doubled before each further one.
    """

    timeout: float = 2.0
    tries: int = 3
    pause: float = 0.1


class HttpUserService:
    """A ``UserService`` behind HTTP; safe under threads, which share its connections.

    Args:
        url: where to ask; https, except on the loopback interface.
        client: the HTTP client, with the certificates, headers and proxies the service needs.
        patience: timeouts and retries.
        breaker: stops asking a service that is down.
        sleep: waits that many seconds.

    Raises:
        ConfigurationError: the URL would send credentials in the clear.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client,
        *,
        patience: Patience | None = None,
        breaker: CircuitBreaker | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        target = httpx.URL(url)
        if target.scheme != "https" and target.host not in _LOOPBACK:
            raise ConfigurationError("the user service must be asked over https")
        self._url = target
        self._client = client
        self._patience = Patience() if patience is None else patience
        self._breaker = CircuitBreaker() if breaker is None else breaker
        self._sleep = sleep

    def identify(self, scheme: str, entity: str, credentials: Mapping[str, str]) -> str | None:
        """Ask who the user is.

        Args:
            scheme: name of the user authentication scheme.
            entity: identity of the entity the user is at.
            credentials: what the user presented.

        Returns:
            The user's identity, or None when the service refuses the credentials.

        Raises:
            StoreError: no answer after all tries, or the circuit is open. Says nothing of the credentials.
        """
        if not self._breaker.admit():
            raise StoreError("the user service is out of order; not asked")
        question = {"scheme": scheme, "entity": entity, "credentials": dict(credentials)}
        try:
            user = self._ask(question)
        except BaseException:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return user

    def _ask(self, question: Mapping[str, object]) -> str | None:
        pause = self._patience.pause
        trouble = "no tries"
        for attempt in range(self._patience.tries):
            if attempt:
                self._sleep(pause)
                pause *= 2
            try:
                response = self._client.post(self._url, json=question, timeout=self._patience.timeout)
            except httpx.HTTPError as error:
                # Only the kind: the text may hold what was sent.
                trouble = type(error).__name__
                continue
            if response.status_code not in _TRY_AGAIN:
                return _answer(response)
            trouble = f"HTTP status {response.status_code}"
        raise StoreError(f"the user service gives no answer: {trouble}")


def _answer(response: httpx.Response) -> str | None:
    if response.status_code == _REFUSED:
        return None
    if response.status_code != _KNOWN:
        raise StoreError(f"the user service answers with HTTP status {response.status_code}")
    try:
        body = response.json()
    except ValueError:
        body = None
    user = body.get("user") if isinstance(body, dict) else None
    if not isinstance(user, str) or not user:
        raise StoreError("the user service answers without a user")
    return user

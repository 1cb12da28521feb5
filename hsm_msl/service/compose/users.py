"""User authentication schemes of one's own, judged by services over HTTP."""

from __future__ import annotations

from contextlib import ExitStack

import httpx

from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.userauth.defaults import OwnTokens
from hsm_msl.msl.userauth.external import CarriedUser, ExternalScheme
from hsm_msl.ports import Authorization
from hsm_msl.service.circuit_breaker import CircuitBreaker
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.service.http_connections import LIMITS
from hsm_msl.service.user_service import HttpUserService, Patience


def user_services(
    config: Configuration[ServerConfig],
    closing: ExitStack,
    authorization: Authorization,
    tokens: OwnTokens,
    breakers: dict[str, CircuitBreaker],
) -> tuple[ExternalScheme, ...]:
    """Return the schemes a configuration defines.

    Args:
        config: the configuration.
        closing: takes what has to be closed.
        authorization: the hooks of every scheme.
        tokens: opens user ID tokens among credentials.
        breakers: takes the circuit breaker of every service, by its scheme.

    Raises:
        ConfigurationError: a URL that would send credentials in the clear, or is none.
    """
    made = []
    for index, section in enumerate(config.document.user_services):
        client = closing.enter_context(httpx.Client(trust_env=False, limits=LIMITS))
        try:
            breaker = breakers.setdefault(section.scheme, CircuitBreaker())
            patience = Patience(timeout=section.timeout)
            service = HttpUserService(section.url, client, patience=patience, breaker=breaker)
        except (ConfigurationError, httpx.InvalidURL) as error:
            raise config.error(f"user_services[{index}].url", str(error)) from None
        member = section.user_id_token
        carried = None
        if member is not None:
            carried = CarriedUser(member, tokens.user_id_tokens, tokens.issuer.check_user_id_token)
        made.append(
            ExternalScheme(
                section.scheme, section.mandatory, service, authorization, optional=section.optional, carried=carried
            )
        )
    return tuple(made)

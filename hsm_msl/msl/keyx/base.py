"""What a key exchange scheme is, how its data is read, and how the issuer picks one (msl-schemes section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens
from hsm_msl.ports import Authorization, SymmetricKeys
from hsm_msl.wire import fields

KNOWN_SCHEMES = frozenset({"ASYMMETRIC_WRAPPED", "DIFFIE_HELLMAN", "JWE_LADDER", "JWK_LADDER", "SYMMETRIC_WRAPPED"})


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a requester offers: the scheme, its object as it travels, and what the scheme read from it."""

    scheme: str
    keydata: Mapping[str, object]
    parsed: object = None

    def to_wire(self) -> dict[str, object]:
        """Return an element of ``keyrequestdata``."""
        return {"scheme": self.scheme, "keydata": self.keydata}


@dataclass(frozen=True, slots=True)
class PendingKeyRequest:
    """A request together with what its requester keeps to open the answer; used once."""

    request: KeyRequest
    secret: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyResponse:
    """The issuer's answer: a master token and what opens its session keys for the requester.

    ``keys`` is set on the issuer's side only.
    """

    master_token: MasterToken
    scheme: str
    keydata: Mapping[str, object]
    parsed: object = None
    keys: SymmetricKeys | None = field(default=None, repr=False)

    def to_wire(self) -> dict[str, object]:
        """Return the ``keyresponsedata`` object."""
        return {"scheme": self.scheme, "keydata": self.keydata, "mastertoken": self.master_token.to_wire()}


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks for session keys: the authenticated identity, and the master token when one is renewed."""

    identity: str
    master_token: MasterToken | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a scheme made for a requester: the response object and the handles of the session keys."""

    keydata: Mapping[str, object]
    keys: SymmetricKeys


class KeyExchange(Protocol):
    """One key exchange scheme, both roles."""

    @property
    def name(self) -> str:
        """The scheme's name on the wire."""

    def parse_request(self, keydata: Mapping[str, Any]) -> KeyRequest:
        """Read a request's object. Raises MslError."""

    def parse_response(self, keydata: Mapping[str, Any]) -> object:
        """Read a response's object. Raises MslError."""

    def answer(self, request: KeyRequest, requester: Requester) -> Answer:
        """Make session keys and wrap them for the requester. Raises MslError, BackendError."""

    def accept(self, pending: PendingKeyRequest, response: object) -> SymmetricKeys | None:
        """Open a response to our own request; None when it answers another request of ours.

        Raises:
            MslError: KEYX_RESPONSE_REQUEST_MISMATCH is said by the caller; anything else ends the attempt.
        """


KeyExchanges = Mapping[str, KeyExchange]
"""Schemes by name, in the issuer's order of preference."""


def _scheme(obj: Mapping[str, Any], exchanges: KeyExchanges) -> tuple[KeyExchange, Mapping[str, Any]]:
    name = fields.string(obj, "scheme")
    if name not in KNOWN_SCHEMES and name not in exchanges:
        raise MslError(ErrorCode.UNIDENTIFIED_KEYX_SCHEME)
    keydata = fields.mapping(obj, "keydata")
    exchange = exchanges.get(name)
    if exchange is None:
        raise MslError(ErrorCode.KEYX_FACTORY_NOT_FOUND)
    return exchange, keydata


def parse_key_request(obj: Mapping[str, Any], exchanges: KeyExchanges) -> KeyRequest:
    """Read one element of ``keyrequestdata``; a bad element fails the whole message.

    Raises:
        MslError: UNIDENTIFIED_KEYX_SCHEME, KEYX_FACTORY_NOT_FOUND, or what the scheme raises.
    """
    exchange, keydata = _scheme(obj, exchanges)
    return exchange.parse_request(keydata)


def parse_key_response(obj: Mapping[str, Any], exchanges: KeyExchanges, tokens: MasterTokens) -> KeyResponse:
    """Read ``keyresponsedata``; its master token comes first.

    Raises:
        MslError: the master token's codes, then as ``parse_key_request``.
        BackendError: a token key operation did not happen.
    """
    master_token = tokens.parse(fields.mapping(obj, "mastertoken"))
    exchange, keydata = _scheme(obj, exchanges)
    return KeyResponse(master_token, exchange.name, keydata, exchange.parse_response(keydata))


def respond(
    exchanges: KeyExchanges,
    requests: Sequence[KeyRequest],
    requester: Requester,
    issuer: TokenIssuer,
    authorization: Authorization,
) -> KeyResponse:
    """Answer the first request that works, in the issuer's order of preference.

    Args:
        exchanges: the local schemes, preferred first.
        requests: what the requester offers.
        requester: whom the session keys are for.
        issuer: creates the master token, or renews the requester's.
        authorization: may refuse a scheme for the identity.

    Raises:
        MslError: the last failure when every candidate failed, KEYX_FACTORY_NOT_FOUND when none matched,
            MASTERTOKEN_UNTRUSTED for a master token not issued here.
        BackendError, StoreError: no answer; other candidates are not tried, since this is no verdict.
    """
    if requester.master_token is not None and not requester.master_token.verified:
        raise MslError(ErrorCode.MASTERTOKEN_UNTRUSTED)
    failure: MslError | None = None
    for exchange in exchanges.values():
        for request in requests:
            if request.scheme != exchange.name:
                continue
            try:
                if not authorization.key_exchange_permitted(requester.identity, exchange.name):
                    raise MslError(ErrorCode.KEYX_INCORRECT_DATA)
                answer = exchange.answer(request, requester)
            except MslError as error:
                failure = error
                continue
            token = (
                issuer.create_master_token(requester.identity, answer.keys)
                if requester.master_token is None
                else issuer.renew_master_token(requester.master_token, answer.keys)
            )
            return KeyResponse(token, exchange.name, answer.keydata, keys=answer.keys)
    raise failure or MslError(ErrorCode.KEYX_FACTORY_NOT_FOUND)


def accept(exchanges: KeyExchanges, pending: Sequence[PendingKeyRequest], response: KeyResponse) -> SymmetricKeys:
    """Open a key response with the request of ours it answers (msl-schemes section 4.4).

    Not every response says which request it answers, so one that another request does not open is tried with the
    next, whatever the failure, as the JavaScript stack does.

    Raises:
        MslError: KEYX_FACTORY_NOT_FOUND, KEYX_RESPONSE_REQUEST_MISMATCH, or the code of the last failed opening.
        BackendError: a key operation did not happen.
    """
    exchange = exchanges.get(response.scheme)
    if exchange is None:
        raise MslError(ErrorCode.KEYX_FACTORY_NOT_FOUND)
    failure = MslError(ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH)
    for candidate in pending:
        if candidate.request.scheme != response.scheme:
            continue
        try:
            keys = exchange.accept(candidate, response.parsed)
        except MslError as error:
            failure = error
            continue
        if keys is not None:
            return keys
    raise failure

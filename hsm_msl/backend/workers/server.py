"""The process that holds a token: opens it, answers calls one after the other, and ends when its socket closes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace as replace_struct

from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.recovery import STAGES
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import PROFILES, recognise
from hsm_msl.backend.workers.protocol import (
    REMAKES,
    Answer,
    Call,
    Hello,
    Made,
    OnToken,
    Recipe,
    Remade,
    TokenItself,
    Value,
    receive,
    refusal,
    send,
)
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    HsmMslError,
    KeyNotFoundError,
    UsageError,
)
from hsm_msl.ports import MacAlgorithm, RsaPadding, SignatureScheme

CACHED_HANDLES = 4096
"""Session keys beyond this many are unwrapped again when they are used again."""

ROLES = frozenset(
    (
        "aes_key",
        "mac_key",
        "wrapping_key",
        "rsa_wrapping_key",
        "signing_key",
        "decryption_key",
        "unwrapping_key",
        "agreement_key",
        "derivation_key",
    )
)
CURVES: dict[str, ec.EllipticCurve] = {
    "secp256r1": ec.SECP256R1(),
    "secp384r1": ec.SECP384R1(),
    "secp521r1": ec.SECP521R1(),
}

# Arguments that are members of an enumeration travel by name; the verb tells of which.
_ENUMERATIONS: dict[str, type[SignatureScheme] | type[RsaPadding] | type[MacAlgorithm]] = {
    "sign": SignatureScheme,
    "decrypt": RsaPadding,
    "unwrap_exchange": RsaPadding,
    "unwrap_mac": MacAlgorithm,
    "derive_mac": MacAlgorithm,
    "wrap_for_rsa": RsaPadding,
    "wrap_for": RsaPadding,
}

VERBS = frozenset(
    (
        "encrypt_ecb",
        "decrypt_ecb",
        "encrypt_cbc",
        "decrypt_cbc",
        "crypt_ctr",
        "encrypt_gcm",
        "decrypt_gcm",
        "sign",
        "verify",
        "decrypt",
        "agree",
        "wrap",
        "unwrap",
        "wrap_key",
        "wrap_for_rsa",
        "wrap_under",
        "ready",
        "public_key",
        "public_value",
        "random",
        "mechanisms",
        "pin_flags",
        "generate_aes",
        "generate_mac",
        "generate_exchange",
        "agreed_wrapping",
        "ephemeral_dh",
        "ephemeral_ecdh",
        "wrap_for",
        "forget",
    )
)
"""What a call may name; nothing else of an object can be reached."""


class TokenServer:
    """Answers calls on one token.

    Args:
        token: the token, logged in.
        number: this worker's number, in the recipes of what it makes.
    """

    def __init__(self, token: Token, number: int) -> None:
        self._token = token
        self._number = number
        self._handles: OrderedDict[Recipe, Any] = OrderedDict()
        self._made: dict[int, Any] = {}
        self._counter = 0

    def answer(self, call: Call) -> Answer:
        """Do what a call asks.

        Args:
            call: from the service.

        Returns:
            The result or one of our exceptions; everything else is an outage without details.
        """
        try:
            if call.verb not in VERBS:
                raise UsageError(f"no such call: {call.verb!r}")
            return Answer(self._run(call), worn=self._token.connection.worn)
        except HsmMslError as error:
            reason = self._token.connection.recovery.reason
            return replace_struct(refusal(error), down=None if reason is None else str(reason))
        except Exception as error:  # whatever it is, the service must hear of it
            return refusal(BackendUnavailableError(f"the worker failed: {type(error).__name__}"))

    def _run(self, call: Call) -> Value:
        if isinstance(call.recipe, TokenItself):
            return self._run_token(call)
        if call.verb == "ready" and isinstance(call.recipe, OnToken):
            self._handles.pop(call.recipe, None)  # who asks anew wants what is there now
            return _fingerprint(self._handle(call.recipe))
        handle = self._handle(call.recipe)
        if call.verb == "forget":
            self._forget(call.recipe)
            return None
        if call.verb == "ready":
            return None
        if call.verb in ("public_key", "public_value"):
            value: bytes = getattr(handle, call.verb)
            return value
        answer: Value = getattr(handle, call.verb)(*self._arguments(call), **call.named)
        return answer

    def _run_token(self, call: Call) -> Value:
        token, arguments = self._token, self._arguments(call)
        match call.verb:
            case "random":
                return token.random(*arguments)
            case "mechanisms":
                return sorted(token.mechanisms())
            case "pin_flags":
                return sorted(token.pin_flags())
            case "generate_aes":
                return self._keep(token.generate_aes(*arguments))
            case "generate_mac":
                return self._keep(token.generate_mac(arguments[0], MacAlgorithm[arguments[1]]))
            case "generate_exchange":
                return self._keep(token.exchange_keys().generate(*arguments))
            case "agreed_wrapping":
                return self._keep(token.exchange_keys().wrapping_key(*arguments))
            case "ephemeral_dh":
                prime, generator = (int.from_bytes(value, "big") for value in arguments)
                return self._keep(token.ephemeral_dh(prime, generator))
            case "ephemeral_ecdh":
                return self._keep(token.ephemeral_ecdh(CURVES[arguments[0]]))
            case "wrap_for":
                return token.wrap_for(*arguments)
        raise UsageError(f"no such call on a token: {call.verb!r}")

    def _arguments(self, call: Call) -> list[Any]:
        return [*(self._handle(recipe) for recipe in call.keys), *_members(call.verb, call.arguments)]

    def _handle(self, recipe: Recipe) -> Any:
        if isinstance(recipe, Made):
            if recipe.worker != self._number or recipe.number not in self._made:
                raise BackendUnavailableError("a key made in a session was lost with its worker")
            return self._made[recipe.number]
        handle = self._handles.get(recipe)
        if handle is None:
            handle = self._handles[recipe] = self._open(recipe)
            while len(self._handles) > CACHED_HANDLES:
                self._handles.popitem(last=False)
        else:
            self._handles.move_to_end(recipe)
        return handle

    def _open(self, recipe: Recipe) -> Any:
        if isinstance(recipe, OnToken) and recipe.fingerprint is not None:
            return self._again(recipe, recipe.fingerprint)
        if isinstance(recipe, OnToken) and recipe.role in ROLES:
            extra = () if recipe.algorithm is None else (MacAlgorithm[recipe.algorithm],)
            named = {"by_blocks": True} if recipe.by_blocks else {}
            return getattr(self._token, recipe.role)(recipe.label, *extra, id=recipe.id, **named)
        if isinstance(recipe, Remade) and recipe.verb in REMAKES:
            return getattr(self._handle(recipe.parent), recipe.verb)(*_members(recipe.verb, recipe.arguments))
        raise UsageError("no such key")

    def _again(self, recipe: OnToken, fingerprint: bytes) -> Any:
        """Return a key that another worker found before: the same one, or nothing."""
        token, bare = self._token, replace_struct(recipe, fingerprint=None)
        try:
            handle = self._handle(bare)
        except KeyNotFoundError as error:
            connection = token.connection
            if connection.witnesses:
                raise
            # It was there. This process knows no other key, so the token may as well show none at all.
            connection.recovery.heal(connection.epoch, len(STAGES) - 1)
            try:
                handle = self._handle(bare)
            except KeyNotFoundError:
                raise BackendUnavailableError(f"{error}, nor any other key this service uses") from None
        if not hmac.compare_digest(_fingerprint(handle), fingerprint):
            raise BackendConfigurationError(
                f"{recipe.label or recipe.role} on token {token.name!r} is not the key it was when it was loaded; "
                "load the key ring again if that was intended"
            )
        return handle

    def _keep(self, handle: Any) -> int:
        self._counter += 1
        self._made[self._counter] = handle
        return self._counter

    def _forget(self, recipe: Recipe) -> None:
        if isinstance(recipe, Made):
            self._made.pop(recipe.number, None)
        else:
            self._handles.pop(recipe, None)


def _fingerprint(handle: Any) -> bytes:
    return hashlib.sha256(repr(tuple(handle.target.fingerprint)).encode("utf-8", "surrogatepass")).digest()


def _members(verb: str, arguments: Iterable[Value]) -> list[Any]:
    members = _ENUMERATIONS.get(verb)
    return [members[item] if members and isinstance(item, str) else item for item in arguments]


def serve(channel: socket.socket) -> None:
    """Open the token that the first frame describes, report, and answer calls until the other end is gone.

    Args:
        channel: this process's end of the socket pair.
    """
    with contextlib.suppress(EOFError, OSError):  # the service ended, perhaps while this process started
        _serve(channel)


def _serve(channel: socket.socket) -> None:
    hello = msgspec.msgpack.decode(receive(channel), type=Hello)
    try:
        token = _open(hello)
    except HsmMslError as error:
        send(channel, refusal(error))
        return
    server = TokenServer(token, hello.number)
    send(channel, Answer([token.name, token.connection.identity]))
    calls = msgspec.msgpack.Decoder(Call)
    while True:
        send(channel, server.answer(calls.decode(receive(channel))))


def _open(hello: Hello) -> Token:
    spec = hello.spec
    if spec.profile is not None and spec.profile not in PROFILES:
        raise BackendConfigurationError(f"no vendor profile {spec.profile!r}; known: {', '.join(sorted(PROFILES))}")
    loaded = module.load(spec.module, reserved=spec.reserved)
    selector = TokenSelector(spec.label, spec.serial, spec.manufacturer, spec.model)
    if spec.profile is None:
        found = selector.find(loaded)
        profile = recognise(found.manufacturer_id, found.model)
    else:
        profile = PROFILES[spec.profile]
    limit = profile.unwraps_per_process if spec.recycle_after is None else spec.recycle_after
    if limit:
        limit = max(1, round(limit * hello.share))
    return open_token(
        loaded,
        selector,
        pin_source(spec.pin) if spec.pin is not None else None,
        replace(profile, unwraps_per_process=limit),
        renews_module=False,
        pin_memory=None if spec.pin_memory is None else Path(spec.pin_memory),
    )

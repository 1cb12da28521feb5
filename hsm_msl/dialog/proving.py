"""Tries at the start what packets will ask of a service's keys, so that a token that cannot is found out by name."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.dialog import signatures
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.suites import SUITES, BodyCipher, Suite
from hsm_msl.errors import ConfigurationError, DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import AgreementKey, MacAlgorithm, RsaPadding
from hsm_msl.ports.dialog import UnwrappingKey

_NONCE, _SAMPLE = bytes(12), b"can this key do what it is for?"
_CANNOT = (MechanismUnsupportedError, KeyPolicyError, DataRejectedError)


def prove_suites(local: LocalService, suites: Iterable[int]) -> None:
    """Sign, and send a key exchange key to oneself, with every suite that bindings allow.

    Args:
        local: the service.
        suites: their numbers.

    Raises ConfigurationError that names the suite and what it lacks, BackendError when a key gives no answer.
    """
    for number in sorted(set(suites)):
        suite = SUITES[number]
        try:
            signature = signatures.sign(local.signing_key, _SAMPLE, suite)
            fits = signatures.verify(local.signing_key.public_key, _SAMPLE, signature, suite)
        except (*_CANNOT, ValueError) as error:
            raise _lacking(suite, f"the signing key does not sign: {error}") from error
        if not fits:
            raise _lacking(suite, f"it needs another signing key, for {suite.signature.value}")
        _prove_transport(local, suite)


def _prove_transport(local: LocalService, suite: Suite) -> None:
    private = local.encryption_keys[local.encryption_cert]
    if suite.transport is None:
        public = load_der_public_key(private.public_value) if isinstance(private, AgreementKey) else None
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise _lacking(suite, "it needs an encryption key on the curve P-256")
        return
    if not isinstance(private, UnwrappingKey):
        raise _lacking(suite, "it needs an RSA encryption key")
    try:
        wrapped = local.exchange.generate(suite.kek_size).wrap_for_rsa(private.public_key, suite.transport)
        private.unwrap_exchange(wrapped, suite.transport, suite.kek_size)
    except _CANNOT as error:
        advice = "; take suite 2 or 3" if suite.transport is RsaPadding.OAEP_SHA256 else ""
        raise _lacking(suite, f"no key exchange keys with {suite.transport.value}: {error}{advice}") from error


def prove_residence(local: LocalService, suites: Iterable[int]) -> None:
    """Do with keys made for it what every packet will ask of a token in which session keys stay.

    Args:
        local: the service.
        suites: numbers of the suites its bindings allow.

    Raises ConfigurationError that says what the token cannot do, BackendError when it gives no answer.
    """
    if local.resident is None:
        return
    where = "session keys cannot stay in this token (session_keys.residency)"
    for number in sorted(set(suites)):
        if SUITES[number].body is BodyCipher.A256CBC_HS512:
            raise ConfigurationError(
                f"{where}: suite {number} seals bodies with CBC and a separate MAC, for which the token would need"
                " two more keys and two more operations per packet; allow suites 1 to 3 only"
            )
    try:
        made = local.resident.generate_aes(32)
        body = local.storage.unwrap_aes(local.storage.wrap_key(made))
        stored = local.storage.wrap_key(local.resident.generate_mac(32))
        local.storage.unwrap_mac(stored, MacAlgorithm.HMAC_SHA256).sign(_SAMPLE)
        local.exchange.generate(32).wrap_key(made)
        sealed = {body.encrypt_gcm(_NONCE, _SAMPLE, b"core") for _ in range(2)}
        if len(sealed) > 1:
            raise MechanismUnsupportedError("it chooses the nonces of AES-GCM itself")
        body.decrypt_gcm(_NONCE, sealed.pop(), b"core")
    except _CANNOT as error:
        raise ConfigurationError(f'{where}: {error}; use residency = "host"') from error


def _lacking(suite: Suite, problem: str) -> ConfigurationError:
    return ConfigurationError(f"suite {suite.number} cannot be used: {problem}")

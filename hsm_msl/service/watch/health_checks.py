"""Checks that use keys and stores for real: what goes in one way must come out the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.key_manifest import KeyCheck
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import MechanismUnsupportedError
from hsm_msl.ports import AesKey, MacKey, RenewalState, RenewalStore, SignatureScheme, SigningKey, WrappingKey
from hsm_msl.service.key_drift import AnyKey, drift
from hsm_msl.service.watch.health import Check, WrongAnswerError

_BLOCK = 16
_KEY = 32
_STORE_SERIAL = 0

LabelledKeys = Callable[[], Iterable[tuple[str, AnyKey]]]
"""Returns the keys in use with their labels. Uses through these handles are not counted as evidence of use."""


def key_checks(keys: LabelledKeys) -> Iterator[Check]:
    """Yield a round trip for every key."""
    for label, key in keys():
        if isinstance(key, WrappingKey):
            yield Check(f"{label}: wrap and unwrap", partial(_wraps, key))
        elif isinstance(key, AesKey):
            yield Check(f"{label}: encrypt and decrypt", partial(_encrypts, key))
        elif isinstance(key, MacKey):
            yield Check(f"{label}: make and verify a MAC", partial(_authenticates, key))
        elif isinstance(key, DerivationKey):
            yield Check(f"{label}: derive the same key twice", partial(_derives, key))
        elif isinstance(key, SigningKey):
            yield Check(f"{label}: sign and verify", partial(_signs, key))


def drift_checks(keys: LabelledKeys, expected: Callable[[str], KeyCheck | None]) -> Iterator[Check]:
    """Yield a comparison with the key manifest for every key it knows."""
    for label, key in keys():
        check = expected(label)
        if check is not None:
            yield Check(f"{label}: as in the key manifest", partial(_fits, label, key, check))


def store_check(renewals: RenewalStore, name: str) -> Check:
    """Return the check that writes to a store and reads it back.

    Args:
        renewals: the store.
        name: of this server; one row of its own is left in the store.
    """

    def run() -> None:
        found: list[RenewalState | None] = []

        def look(state: RenewalState | None) -> RenewalState | None:
            found[:] = [state]
            return None

        identity = f"health check of {name}"
        renewals.create(identity, _STORE_SERIAL, RenewalState(0, 0, 0))
        renewals.renew(identity, _STORE_SERIAL, look)
        if found == [None]:
            raise WrongAnswerError("what was written is not there")

    return Check("store: write and read", run)


def _encrypts(key: AesKey) -> None:
    iv, data = os.urandom(_BLOCK), os.urandom(_KEY)
    sealed = key.encrypt_cbc(iv, data)
    if sealed == data or key.decrypt_cbc(iv, sealed) != data:
        raise WrongAnswerError("what was encrypted does not come back")


def _authenticates(key: MacKey) -> None:
    data = os.urandom(_KEY)
    tag = key.sign(data)
    if not key.verify(data, tag):
        raise WrongAnswerError("a MAC just made is not recognised")
    if key.verify(data, bytes((tag[0] ^ 1,)) + tag[1:]):
        raise WrongAnswerError("a false MAC is taken for a true one")


def _derives(key: DerivationKey) -> None:
    label, context, data = os.urandom(_BLOCK), os.urandom(_BLOCK), bytes(_BLOCK)
    made = [key.derive_aes(label, context, _BLOCK).encrypt_cbc(data, data) for _ in range(2)]
    if made[0] != made[1]:
        raise WrongAnswerError("what is derived differs from time to time")


def _wraps(key: WrappingKey) -> None:
    data = os.urandom(_KEY)
    wrapped = key.wrap(data)
    if data in wrapped or key.unwrap(wrapped) != data:
        raise WrongAnswerError("what was wrapped does not come back")


def _signs(key: SigningKey) -> None:
    data, public = os.urandom(_KEY), PublicKey(key.public_key)
    scheme = SignatureScheme.RSA_PKCS1_SHA256 if public.is_rsa else SignatureScheme.ECDSA_SHA256
    if not public.verify(data, key.sign(data, scheme), scheme):
        raise WrongAnswerError("the signature does not fit the public key")


def _fits(label: str, key: AnyKey, check: KeyCheck) -> None:
    try:
        problem = drift(label, key, check)
    except MechanismUnsupportedError:
        return  # what this token cannot compute, nobody compared when the server started either
    if problem is not None:
        raise WrongAnswerError(problem)

"""The token that one of softhsm/with-*.sh has started for this process, for the suites that run over every vendor.

A module reads its surroundings once and may bring the process down, so each vendor has a process of its own:
``vendor_runs`` starts them, and inside them the fixtures here stand for the token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag
from pkcs11.exceptions import AttributeValueInvalid

from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module as modules
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import PROFILES
from hsm_msl.errors import KeyNotFoundError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import AesKey, AgreementKey, DecryptionKey, MacAlgorithm, MacKey, SigningKey, WrappingKey
from key_backends import TokenKeys, rsa_pair
from token_fixture import CIPHER, KeyMaker

VENDOR = os.environ.get("HSM_MSL_TOKEN_PROFILE")
REFUSALS = (MechanismUnsupportedError, KeyPolicyError)
"""What a token that lacks something answers. Whether it may lack it is compared in ``vendor_runs``."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """In a vendor's process, report a refusal by name as one; the process that started this one judges it."""
    outcome = yield
    if VENDOR is not None and call.excinfo is not None and isinstance(call.excinfo.value, REFUSALS):
        report = outcome.get_result()
        report.outcome = "skipped"
        report.wasxfail = f"refused: {call.excinfo.value}"


class VendorKeys(TokenKeys):
    """Keys of known value on the vendor's token."""

    def __init__(self, token: Token, keys: KeyMaker) -> None:
        super().__init__(token, keys)
        self.name = token.connection.profile.name

    def wrapping(self, value: bytes) -> WrappingKey:
        if Mechanism.AES_KEY_WRAP in self.token.connection.mechanisms:
            return super().wrapping(value)
        return self.token.wrapping_key(self.keys.aes(value, CIPHER), by_blocks=True)

    def packing(self) -> WrappingKey:
        """Return a key that packs session keys: by AES key wrap, or under RSA where there is none."""
        if Mechanism.AES_KEY_WRAP in self.token.connection.mechanisms:
            return self.wrapping(bytes(range(80, 96)))
        return self.token.rsa_wrapping_key(self.keys.rsa(rsa_pair(), (Attribute.UNWRAP,)))


class MadeInToken:
    """A private key that a token made, of which only the public half is known here."""

    def __init__(self, label: str, public_key: bytes) -> None:
        self.label = label
        self._public = load_der_public_key(public_key)

    def public_key(self) -> Any:
        return self._public


class TpmKeys(VendorKeys):
    """A TPM makes its key pairs itself; it takes none, and no secret key either."""

    # Only what the TPM gives a key anyway: it takes no template that says less.
    CAPABILITIES = MechanismFlag.SIGN | MechanismFlag.VERIFY | MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT

    def __init__(self, token: Token, keys: KeyMaker) -> None:
        super().__init__(token, keys)
        self._pairs: dict[str, MadeInToken] = {}

    def aes(self, value: bytes) -> AesKey:
        return self._attempted(super().aes, value)

    def mac(self, value: bytes, algorithm: MacAlgorithm) -> MacKey:
        return self._attempted(super().mac, value, algorithm)

    def wrapping(self, value: bytes) -> WrappingKey:
        return self._attempted(super().wrapping, value)

    def signing(self, key: Any) -> SigningKey:
        return self.token.signing_key(key.label)

    def decryption(self, key: Any) -> DecryptionKey:
        return self.token.decryption_key(key.label)

    def ecdh(self, key: Any) -> AgreementKey:
        return self.token.agreement_key(key.label)

    def packing(self) -> WrappingKey:
        return self._attempted(super().packing)

    @staticmethod
    def _attempted(make: Callable[..., Any], *arguments: object) -> Any:
        try:
            return make(*arguments)
        except (AttributeValueInvalid, KeyNotFoundError):  # the second from the second try, whose label is taken
            raise MechanismUnsupportedError("the token takes no secret key") from None

    def pair(self, curve: Callable[[], ec.EllipticCurve] | None = None) -> MadeInToken:
        """Return the one RSA key pair of the tests, or that of a curve."""
        label = f"test.{'rsa' if curve is None else curve().name}.v1"
        if label not in self._pairs:
            named: dict[str, Any] = {"label": label, "id": label.encode(), "store": True}
            with self.keys.session() as session:
                if curve is None:
                    session.generate_keypair(KeyType.RSA, 2048, capabilities=self.CAPABILITIES, **named)
                else:
                    group = session.create_domain_parameters(
                        KeyType.EC, {Attribute.EC_PARAMS: curve_parameters(curve())}, local=True
                    )
                    group.generate_keypair(capabilities=self.CAPABILITIES, **named)
            self._pairs[label] = MadeInToken(label, self.token.signing_key(label).public_key)
        return self._pairs[label]


@pytest.fixture(scope="session")
def vendor_token() -> Iterator[Token]:
    """The token of this process, open."""
    environment = os.environ
    module = modules.load(environment["HSM_MSL_TOKEN_MODULE"], reserved=environment["HSM_MSL_TOKEN_RESERVED"] or None)
    token = open_token(
        module,
        TokenSelector(label=environment["HSM_MSL_TOKEN_LABEL"]),
        FilePin(Path(environment["HSM_MSL_TOKEN_PIN_FILE"])),
        PROFILES[environment["HSM_MSL_TOKEN_PROFILE"]],
    )
    yield token
    token.close()


@pytest.fixture(scope="session")
def vendor_backend(vendor_token: Token) -> VendorKeys:
    """The key ports over the token of this process."""
    kind = TpmKeys if VENDOR == "tpm2" else VendorKeys
    return kind(vendor_token, KeyMaker(vendor_token))


@pytest.fixture(autouse=VENDOR == "tpm2")
def pairs_made_in_token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the suites that import key pairs of known value use the TPM's own ones instead."""
    keys = request.getfixturevalue("vendor_backend")
    if isinstance(keys, TpmKeys):
        for name in ("rsa_pair", "ec_pair"):
            monkeypatch.setattr(request.module, name, keys.pair, raising=False)

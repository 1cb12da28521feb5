"""Tokens with keys of known value, in the SoftHSMv2 store of this test process.

``hsm_token`` is an open token that most tests share; ``keys`` puts keys of known value on it, once per value. A test
that breaks a token takes ``fresh_token``.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module as modules
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.cryptoki import User
from hsm_msl.backend.pkcs11.login import Login
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.workers import WorkerSpec, WorkerToken, open_worker_token
from hsm_msl.errors import BackendUnavailableError
from softhsm_fixture import SoftHsmStore

USES = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)
CIPHER = (Attribute.ENCRYPT, Attribute.DECRYPT)
MAC = (Attribute.SIGN, Attribute.VERIFY)
WRAP = (Attribute.WRAP, Attribute.UNWRAP)


@dataclass(frozen=True)
class TestToken:
    """An initialised token and where its PINs are."""

    __test__ = False

    label: str
    pin_file: Path
    so_pin_file: Path
    directory: Path

    @property
    def selector(self) -> TokenSelector:
        return TokenSelector(label=self.label)

    @property
    def pin(self) -> FilePin:
        return FilePin(self.pin_file)

    def worker_spec(self, forge: Forge) -> WorkerSpec:
        return WorkerSpec(forge.module.path, label=self.label, pin=f"file:{self.pin_file}", profile="softhsm")


class Forge:
    """Initialises tokens in the store of this process, through the module itself.

    Args:
        store: the token store.
    """

    def __init__(self, store: SoftHsmStore) -> None:
        self.store = store
        self.module = modules.load(store.module)
        self._names = itertools.count(1)

    def initialise(self) -> TestToken:
        """Initialise one more token; PINs are random and lie in files only we may read."""
        label = f"fresh-{next(self._names)}"
        pin_file, so_pin_file = self.store.directory / f"{label}.pin", self.store.directory / f"{label}.so-pin"
        for path in (pin_file, so_pin_file):
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(8) + "\n")
        before = set(self.tokens.iterdir())
        if not self._healthy():
            self.module.reinitialize()
        free = next(token for token in self.module.tokens() if not token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED)
        so_pin = so_pin_file.read_bytes().strip()
        self.module.cryptoki.call(
            "C_InitToken",
            ctypes.c_ulong(free.slot.slot_id),
            ctypes.c_char_p(so_pin),
            ctypes.c_ulong(len(so_pin)),
            ctypes.c_char_p(label.encode().ljust(32)),
        )
        token = self.module.token(label=label)
        login = Login(self.module, token, FilePin(so_pin_file), user=User.SECURITY_OFFICER)
        login.ensure()
        session = token.open(rw=True)
        session.init_pin(pin_file.read_text().strip())
        login.close()
        session.close()
        (directory,) = set(self.tokens.iterdir()) - before
        return TestToken(label, pin_file, so_pin_file, directory)

    def _healthy(self) -> bool:
        try:
            self.module.tokens()
        except BackendUnavailableError:  # a failed test left the module behind broken
            return False
        return True

    @property
    def tokens(self) -> Path:
        """The directory with one directory per token."""
        return self.store.directory / "tokens"


class KeyMaker:
    """Puts keys on a token through the plain binding; the same value and use gives the same key again."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._made: dict[object, str] = {}
        self._numbers = itertools.count(1)

    def secret(self, key_type: KeyType, value: bytes, uses: tuple[Attribute, ...], **changes: Any) -> str:
        """Import a secret key and return its label; ``changes`` are attributes by lower-case name."""
        cached = (key_type, value, uses, tuple(sorted(changes.items())))
        if cached not in self._made:
            self._made[cached] = label = self._label()
            self.create(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: key_type,
                    Attribute.VALUE: value,
                    **self._common(label, uses, changes),
                }
            )
        return self._made[cached]

    def aes(self, value: bytes, uses: tuple[Attribute, ...] = CIPHER, **changes: Any) -> str:
        return self.secret(KeyType.AES, value, uses, **changes)

    def hmac(self, value: bytes, **changes: Any) -> str:
        return self.secret(KeyType.GENERIC_SECRET, value, MAC, **changes)

    def rsa(self, key: Any, uses: tuple[Attribute, ...], **changes: Any) -> str:
        """Import an RSA private key of ``cryptography``."""
        numbers = key.private_numbers()
        modulus = numbers.public_numbers.n
        cached = (modulus, uses, tuple(sorted(changes.items())))
        if cached not in self._made:
            self._made[cached] = label = self._label()
            self.create(
                {
                    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                    Attribute.KEY_TYPE: KeyType.RSA,
                    Attribute.MODULUS: number(modulus),
                    Attribute.PUBLIC_EXPONENT: number(numbers.public_numbers.e),
                    Attribute.PRIVATE_EXPONENT: number(numbers.d),
                    Attribute.PRIME_1: number(numbers.p),
                    Attribute.PRIME_2: number(numbers.q),
                    Attribute.EXPONENT_1: number(numbers.dmp1),
                    Attribute.EXPONENT_2: number(numbers.dmq1),
                    Attribute.COEFFICIENT: number(numbers.iqmp),
                    **self._common(label, uses, changes, private=True),
                }
            )
        return self._made[cached]

    def ec(self, key: Any, parameters: bytes, point: bytes, uses: tuple[Attribute, ...]) -> str:
        """Import an EC private key of ``cryptography`` and its public half beside it."""
        secret = key.private_numbers().private_value
        cached = (secret, uses)
        if cached not in self._made:
            self._made[cached] = label = self._label()
            common = self._common(label, uses, {}, private=True)
            self.create(
                {
                    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                    Attribute.KEY_TYPE: KeyType.EC,
                    Attribute.EC_PARAMS: parameters,
                    Attribute.VALUE: secret.to_bytes((key.key_size + 7) // 8, "big"),
                    **common,
                }
            )
            self.create(
                {
                    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                    Attribute.KEY_TYPE: KeyType.EC,
                    Attribute.EC_PARAMS: parameters,
                    Attribute.EC_POINT: point,
                    Attribute.TOKEN: True,
                    Attribute.LABEL: label,
                    Attribute.ID: label.encode(),
                }
            )
        return self._made[cached]

    @contextlib.contextmanager
    def session(self) -> Iterator[pkcs11.Session]:
        """Open a read/write session under the token's login, after a test may have broken it."""
        connection = self._token.connection
        if not connection.login.proved():
            connection.renew()
        session = connection.token.open(rw=True)
        try:
            yield session
        finally:
            session.close()

    def create(self, attributes: dict[Attribute, Any]) -> None:
        """Create an object as it is described."""
        with self.session() as session:
            session.create_object(attributes)

    def destroy(self, label: str) -> None:
        """Take a key away, as another process would."""
        with self.session() as session:
            for found in list(session.get_objects({Attribute.LABEL: label})):
                found.destroy()
        self._made = {key: made for key, made in self._made.items() if made != label}

    def _label(self) -> str:
        return f"test.key.v{next(self._numbers)}"

    def _common(
        self, label: str, uses: tuple[Attribute, ...], changes: dict[str, Any], *, private: bool = False
    ) -> dict[Attribute, Any]:
        possible = [
            use for use in USES if not private or use not in (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP)
        ]
        attributes: dict[Attribute, Any] = {use: use in uses for use in possible}
        attributes |= {
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.LABEL: label,
            Attribute.ID: label.encode(),
        }
        return attributes | {Attribute[name.upper()]: value for name, value in changes.items()}


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


@pytest.fixture(scope="session")
def forge(softhsm_store: SoftHsmStore) -> Forge:
    return Forge(softhsm_store)


@pytest.fixture(scope="session")
def shared_token(forge: Forge) -> TestToken:
    """The token that tests share which do it no harm for good."""
    return forge.initialise()


@pytest.fixture(scope="session")
def hsm_token(forge: Forge, shared_token: TestToken) -> Iterator[Token]:
    """``shared_token``, opened in this process."""
    token = open_token(forge.module, shared_token.selector, shared_token.pin, SOFTHSM)
    yield token
    token.close()


@pytest.fixture(scope="session")
def worker_token(forge: Forge, shared_token: TestToken) -> Iterator[WorkerToken]:
    """``shared_token``, held by two worker processes."""
    token = open_worker_token(shared_token.worker_spec(forge), count=2, deadline_seconds=20)
    yield token
    token.close()


@pytest.fixture(scope="session")
def keys(hsm_token: Token) -> KeyMaker:
    """Makes keys of known value on ``hsm_token``."""
    return KeyMaker(hsm_token)


@pytest.fixture
def fresh_token(forge: Forge) -> TestToken:
    """An initialised token nobody else uses; open it with ``open_token``."""
    return forge.initialise()

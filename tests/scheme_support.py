"""What tests of schemes share: hooks that can be set, draws that are known, and a look at session keys."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.ports import SymmetricKeys
from vector_files import load

VECTORS = load("msl-schemes-vectors.json")


class Hooks:
    """``Authorization`` that refuses what it is told to, and remembers what it was asked."""

    def __init__(
        self,
        *,
        revoked: tuple[str, ...] = (),
        entity: tuple[str, ...] = (),
        users: tuple[str, ...] = (),
        pairs: tuple[tuple[str, str], ...] = (),
        exchanges: tuple[str, ...] = (),
    ) -> None:
        self._revoked = revoked
        self._entity = entity
        self._users = users
        self._pairs = pairs
        self._exchanges = exchanges
        self.asked: list[tuple[str, ...]] = []

    def entity_revoked(self, identity: str) -> bool:
        self.asked.append(("revoked", identity))
        return identity in self._revoked

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        self.asked.append(("entity", identity, scheme))
        return identity not in self._entity

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        self.asked.append(("user", identity, user or "", scheme))
        return identity not in self._users if user is None else (identity, user) not in self._pairs

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        self.asked.append(("exchange", identity, scheme))
        return identity not in self._exchanges


class Draws:
    """``RandomBytes`` that gives known values in order; asking for another length, or for more, fails the test."""

    def __init__(self, *values: bytes) -> None:
        self._values = list(values)

    def __call__(self, count: int) -> bytes:
        value = self._values.pop(0)
        assert len(value) == count
        return value

    @property
    def left(self) -> int:
        return len(self._values)


@contextlib.contextmanager
def refused(code: ErrorCode, response: ResponseCode) -> Iterator[None]:
    """Expect a refusal with this code, and that the code carries this response code."""
    with pytest.raises(MslError) as caught:
        yield
    assert caught.value.code is code
    assert code.response is response


def assert_keys(keys: SymmetricKeys | None, encryption: bytes, mac: bytes) -> None:
    """Prove by use that the handles are of these values."""
    assert keys is not None
    assert keys.encryption is not None
    assert keys.mac is not None
    cipher = Cipher(AES(encryption), ECB()).encryptor()
    assert keys.encryption.encrypt_ecb(bytes(32)) == cipher.update(bytes(32)) + cipher.finalize()
    assert keys.mac.sign(b"abc") == hmac.digest(mac, b"abc", "sha256")

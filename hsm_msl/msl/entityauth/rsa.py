"""RSA: an RSA key pair signs the entity's messages, which are not encrypted (msl-schemes section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hsm_msl.errors import ErrorCode
from hsm_msl.msl.entityauth.base import EntityAuthData
from hsm_msl.msl.entityauth.key_pair import KeyPairScheme, key_pair_data
from hsm_msl.ports import SignatureScheme

NAME = "RSA"


def rsa_data(identity: str, key_id: str) -> EntityAuthData:
    """Return the data with which an entity names itself and its key pair."""
    return key_pair_data(NAME, identity, key_id)


@dataclass(frozen=True, slots=True)
class RsaScheme(KeyPairScheme):
    """The RSA scheme; its private key stays in the token."""

    NAME: ClassVar[str] = NAME
    SIGNATURE: ClassVar[SignatureScheme] = SignatureScheme.RSA_PKCS1_SHA256
    PUBLIC_KEY_MISSING: ClassVar[ErrorCode] = ErrorCode.RSA_PUBLICKEY_NOT_FOUND
    PRIVATE_KEY_MISSING: ClassVar[ErrorCode] = ErrorCode.RSA_PRIVATEKEY_NOT_FOUND

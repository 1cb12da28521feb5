"""RSA: an RSA key pair signs the entity's messages, which are not encrypted (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization, PublicKeys, SignatureScheme, SigningKey
from hsm_msl.wire import fields

NAME = "RSA"


def rsa_data(identity: str, key_id: str) -> EntityAuthData:
    """Return the data with which an entity names itself and its key pair."""
    return EntityAuthData(NAME, identity, {"identity": identity, "pubkeyid": key_id}, key_id)


@dataclass(frozen=True, slots=True)
class RsaScheme:
    """The RSA scheme over trusted public keys and, for the local entity, its private key in the token.

    Attributes:
        public_keys: trusted keys by ID.
        local_key_id: ID of the local entity's own pair, or None for a pure verifier.
        signing: the local private key.
        bound_identities: identity each key ID may speak for; a key ID that is absent is not bound. The scheme itself
            lets the holder of any trusted key claim any identity.
    """

    public_keys: PublicKeys
    authorization: Authorization
    local_key_id: str | None = None
    signing: SigningKey | None = None
    bound_identities: Mapping[str, str] | None = None
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = True

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read identity and key ID. Raises MslError MSL_PARSE_ERROR."""
        return rsa_data(fields.string(authdata, "identity"), fields.string(authdata, "pubkeyid"))

    def context(self, data: EntityAuthData) -> SignatureContext:
        """Return the context of the named key.

        Raises:
            MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA (also for a key bound to another identity),
                RSA_PRIVATEKEY_NOT_FOUND, RSA_PUBLICKEY_NOT_FOUND.
            BackendError, StoreError: no answer.
        """
        check_entity(self.authorization, data.identity, NAME)
        key_id = str(data.parsed)
        if self.bound_identities is not None and self.bound_identities.get(key_id, data.identity) != data.identity:
            raise MslError(ErrorCode.INCORRECT_ENTITYAUTH_DATA, "this key speaks for another identity")
        verifying = self.public_keys.find(key_id)
        if key_id == self.local_key_id:
            if self.signing is None:
                raise MslError(ErrorCode.RSA_PRIVATEKEY_NOT_FOUND)
            return SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, signing=self.signing, verifying=verifying)
        if verifying is None:
            raise MslError(ErrorCode.RSA_PUBLICKEY_NOT_FOUND)
        return SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, verifying=verifying)

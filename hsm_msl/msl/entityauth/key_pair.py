"""What RSA and ECC share: a key pair, named by an ID, signs the entity's messages (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.errors import ErrorCode, MslError, quoted
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization, PublicKeys, SignatureScheme, SigningKey
from hsm_msl.wire import fields


def key_pair_data(scheme: str, identity: str, key_id: str) -> EntityAuthData:
    """Return the data with which an entity names itself and its key pair."""
    return EntityAuthData(scheme, identity, {"identity": identity, "pubkeyid": key_id}, key_id)


@dataclass(frozen=True, slots=True)
class KeyPairScheme:
    """A key pair scheme over trusted public keys and, for the local entity, its private key in the token.

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

    NAME: ClassVar[str]
    SIGNATURE: ClassVar[SignatureScheme]
    PUBLIC_KEY_MISSING: ClassVar[ErrorCode]
    PRIVATE_KEY_MISSING: ClassVar[ErrorCode]

    @property
    def name(self) -> str:
        """The scheme's name on the wire."""
        return self.NAME

    @property
    def encrypts(self) -> bool:
        """No: messages are signed only."""
        return False

    @property
    def protects_integrity(self) -> bool:
        """Yes."""
        return True

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read identity and key ID. Raises MslError MSL_PARSE_ERROR."""
        return key_pair_data(self.NAME, fields.string(authdata, "identity"), fields.string(authdata, "pubkeyid"))

    def context(self, data: EntityAuthData) -> SignatureContext:
        """Return the context of the named key.

        Raises:
            MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA (also for a key bound to another identity), and the
                scheme's codes for a missing private or public key.
            BackendError, StoreError: no answer.
        """
        check_entity(self.authorization, data.identity, self.NAME)
        key_id = str(data.parsed)
        if self.bound_identities is not None and self.bound_identities.get(key_id, data.identity) != data.identity:
            raise MslError(ErrorCode.INCORRECT_ENTITYAUTH_DATA, "this key speaks for another identity")
        verifying = self.public_keys.find(key_id)
        if key_id == self.local_key_id:
            if self.signing is None:
                raise MslError(self.PRIVATE_KEY_MISSING)
            return SignatureContext(self.SIGNATURE, signing=self.signing, verifying=verifying)
        if verifying is None:
            raise MslError(self.PUBLIC_KEY_MISSING, f"key ID {quoted(key_id)}")
        return SignatureContext(self.SIGNATURE, verifying=verifying)

"""PSK: keys shared with one entity encrypt and authenticate its messages (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization, PresharedKeys, RandomBytes, SymmetricKeys
from hsm_msl.wire import fields

NAME = "PSK"


def psk_data(identity: str) -> EntityAuthData:
    """Return the data with which an entity names itself under this scheme."""
    return EntityAuthData(NAME, identity, {"identity": identity})


@dataclass(frozen=True, slots=True)
class PskScheme:
    """The PSK scheme over a store of pre-shared keys."""

    keys: PresharedKeys
    authorization: Authorization
    random: RandomBytes
    name: str = NAME
    encrypts: bool = True
    protects_integrity: bool = True

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read the identity. Raises MslError MSL_PARSE_ERROR."""
        return psk_data(fields.string(authdata, "identity"))

    def find(self, identity: str) -> SymmetricKeys:
        """Return the entity's keys after the hooks agreed; key exchanges anchored in them ask here too.

        Raises:
            MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA, ENTITY_NOT_FOUND.
            BackendError, StoreError: no answer.
        """
        check_entity(self.authorization, identity, NAME)
        keys = self.keys.find(identity)
        if keys is None:
            raise MslError(ErrorCode.ENTITY_NOT_FOUND)
        return keys

    def context(self, data: EntityAuthData) -> SymmetricContext:
        """Return the context of the entity's pre-shared keys. Raises as ``find``."""
        return SymmetricContext(self.find(data.identity), data.identity, self.random)

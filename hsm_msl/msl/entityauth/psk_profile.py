"""PSK_PROFILE: pre-shared keys of one entity, used under a profile of it (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization, PresharedKeys, RandomBytes
from hsm_msl.wire import fields

NAME = "PSK_PROFILE"


def psk_profile_data(psk_id: str, profile: str) -> EntityAuthData:
    """Return the data with which an entity names its keys and the profile it acts under."""
    return EntityAuthData(NAME, f"{psk_id}-{profile}", {"pskid": psk_id, "profile": profile}, psk_id)


@dataclass(frozen=True, slots=True)
class PskProfileScheme:
    """The PSK_PROFILE scheme over a store of pre-shared keys.

    Keys and hooks go by the key set's ID, the identity by ID and profile. An exchange anchored in pre-shared keys
    asks for the whole identity, so it works only where the store of keys resolves that too.
    """

    keys: PresharedKeys
    authorization: Authorization
    random: RandomBytes
    name: str = NAME
    encrypts: bool = True
    protects_integrity: bool = True

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read key set ID and profile. Raises MslError MSL_PARSE_ERROR."""
        return psk_profile_data(fields.string(authdata, "pskid"), fields.string(authdata, "profile"))

    def context(self, data: EntityAuthData) -> SymmetricContext:
        """Return the context of the key set.

        Raises:
            MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA, ENTITY_NOT_FOUND.
            BackendError, StoreError: no answer.
        """
        psk_id = str(data.parsed)
        check_entity(self.authorization, psk_id, NAME)
        keys = self.keys.find(psk_id)
        if keys is None:
            raise MslError(ErrorCode.ENTITY_NOT_FOUND)
        return SymmetricContext(keys, data.identity, self.random)

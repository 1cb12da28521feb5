"""NONE: an entity that only names itself; nothing is encrypted or signed (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.null import NullContext
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization
from hsm_msl.wire import fields

NAME = "NONE"


def none_data(identity: str) -> EntityAuthData:
    """Return the data with which an unauthenticated entity names itself."""
    return EntityAuthData(NAME, identity, {"identity": identity})


@dataclass(frozen=True, slots=True)
class NoneScheme:
    """The NONE scheme; the hooks decide who may use it."""

    authorization: Authorization
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = False

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read the identity. Raises MslError MSL_PARSE_ERROR."""
        return none_data(fields.string(authdata, "identity"))

    def context(self, data: EntityAuthData) -> NullContext:
        """Return the null context. Raises MslError ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA; StoreError."""
        check_entity(self.authorization, data.identity, NAME)
        return NullContext()

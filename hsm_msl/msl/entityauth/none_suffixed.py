"""NONE_SUFFIXED: an unprotected entity that names itself below a root (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.null import NullContext
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.ports import Authorization
from hsm_msl.wire import fields

NAME = "NONE_SUFFIXED"


def none_suffixed_data(root: str, suffix: str) -> EntityAuthData:
    """Return the data with which an unauthenticated entity names its root and itself."""
    return EntityAuthData(NAME, f"{root}.{suffix}", {"root": root, "suffix": suffix}, root)


@dataclass(frozen=True, slots=True)
class NoneSuffixedScheme:
    """The NONE_SUFFIXED scheme; the hooks decide about roots, never about single suffixes."""

    authorization: Authorization
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = False

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read root and suffix. Raises MslError MSL_PARSE_ERROR."""
        return none_suffixed_data(fields.string(authdata, "root"), fields.string(authdata, "suffix"))

    def context(self, data: EntityAuthData) -> NullContext:
        """Return the null context. Raises MslError ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA; StoreError."""
        check_entity(self.authorization, str(data.parsed), NAME)
        return NullContext()

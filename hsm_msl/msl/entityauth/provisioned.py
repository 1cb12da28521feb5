"""PROVISIONED: an entity without identity is given one with its first message (msl-schemes section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hsm_msl.crypto.null import NullContext
from hsm_msl.errors import StoreError
from hsm_msl.msl.entityauth.base import EntityAuthData
from hsm_msl.ports.schemes import IdentityService

NAME = "PROVISIONED"


def provisioned_data() -> EntityAuthData:
    """Return the data with which an entity asks for an identity."""
    return EntityAuthData(NAME, "", {})


@dataclass(frozen=True, slots=True)
class ProvisionedScheme:
    """The PROVISIONED scheme over a service that names entities.

    There is no identity to ask the hooks about. The entity learns its name from the master token's issuer alone; the
    data never carries it.
    """

    identities: IdentityService
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = False

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:  # noqa: ARG002 - the object is empty
        """Return data without identity."""
        return provisioned_data()

    def assign(self, data: EntityAuthData) -> EntityAuthData:
        """Return the data with a new identity, another one for each call.

        Raises:
            StoreError: the service gives no identity.
        """
        identity = self.identities.assign()
        if not identity:
            raise StoreError("the identity service assigned an empty identity")
        return replace(data, identity=identity)

    def context(self, data: EntityAuthData) -> NullContext:  # noqa: ARG002 - nothing is proved
        """Return the null context."""
        return NullContext()

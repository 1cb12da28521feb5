"""Opening a sealed key inside the token: transport key, inner key, the key itself; none of them seen by the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import GeneralError, PKCS11Error

from hsm_msl.errors import DataRejectedError
from hsm_provision.labels import KeyName
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import halves
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, find_object
from hsm_provision.token.vocabulary import CLASSES, KEY_TYPES, binding_template
from hsm_provision.transport import SealedMaterial

UNSET_FOR_PRIVATE = {Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT, Attribute.VERIFY: DEFAULT}
"""Rights the binding adds to every unwrap template, and which a private key does not have."""

_UNWRAP_ONLY = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: True,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.DERIVE: False,
}


def open_sealed(
    session: TokenSession,
    profile: KeyProfile,
    material: SealedMaterial,
    template: dict[str, bool],
    name: KeyName | None,
    *,
    store: bool,
) -> Any:
    """Open a sealed key into an object of the token.

    Args:
        session: the token, which holds the transport key's private half.
        profile: the kind of key.
        material: the sealed key.
        template: the attributes the object gets.
        name: its label and ID; None for a session object.
        store: whether it becomes a token object.

    Returns:
        The binding's secret or private key object.

    Raises:
        KeyNotFoundError: the transport key is not on this token.
        DataRejectedError: the sealed key was made for another key or was changed.
        BackendUnavailableError: the token fails.
    """
    carrier = find_object(session, material.carrier, "private")
    half = halves(profile)[0]
    with token_errors("opening a sealed key"), _refused_when_vague(session):
        inner = carrier.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.AES,
            material.sealed_key,
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=(Mechanism.SHA_1, MGF.SHA1, None),
            store=False,
            template=_UNWRAP_ONLY,
        )
        try:
            return inner.unwrap_key(
                CLASSES[half],
                KEY_TYPES[profile.type],
                material.wrapped,
                id=name.key_id if name else None,
                label=name.label if name else None,
                mechanism=Mechanism.AES_KEY_WRAP_PAD if half == "private" else Mechanism.AES_KEY_WRAP,
                store=store,
                template={**(UNSET_FOR_PRIVATE if half == "private" else {}), **binding_template(template)},
            )
        finally:
            inner.destroy()


@contextlib.contextmanager
def _refused_when_vague(session: TokenSession) -> Iterator[None]:
    """Read a general error as bad input when the token answers other calls (SoftHSMv2 says nothing else)."""
    try:
        yield
    except GeneralError:
        try:
            session.binding.generate_random(64)
        except PKCS11Error as outage:
            raise outage from None
        raise DataRejectedError("the sealed key does not open with this token's transport key") from None

"""Keys that are backed up at birth: made as session objects, wrapped once, and only then put into the token for good.

No token object is ever extractable. What leaves is one blob under the backup key; the session object dies with it,
and the token object is made by opening that very blob, which proves that the blob opens.
"""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import GeneralError

from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_provision.check_values import CheckValue, public_check_value
from hsm_provision.desired_keys import Material
from hsm_provision.labels import KeyName
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import Half, halves
from hsm_provision.token.access import token_errors
from hsm_provision.token.creation import key_values, public_values, refuse_collision
from hsm_provision.token.objects import TokenSession, find_object, spki_of
from hsm_provision.token.possession import halves_match
from hsm_provision.token.probing import check_value_of_handle, zero_key
from hsm_provision.token.transport import UNSET_FOR_PRIVATE, open_sealed
from hsm_provision.token.vocabulary import CLASSES, CURVE_PARAMETERS, GENERATION, KEY_TYPES, binding_template
from hsm_provision.transport import SealedMaterial


def wrap_mechanism(profile: KeyProfile) -> str:
    """Return the name of the mechanism that wraps keys of this profile: RFC 3394, or RFC 5649 for pairs."""
    return "AES_KEY_WRAP_PAD" if profile.type in ("rsa", "ec") else "AES_KEY_WRAP"


def make_and_wrap(
    session: TokenSession, profile: KeyProfile, size: int | str, material: Material | None, backup_label: str
) -> tuple[bytes, bytes | None]:
    """Make a key as a session object, wrap it under the backup key and drop it.

    Args:
        session: the token.
        profile: the kind of key.
        size: bits or curve name.
        material: an existing key to be taken in; None generates one.
        backup_label: the wrapping key.

    Returns:
        The wrapped key, and the public half (SubjectPublicKeyInfo DER) of a pair.

    Raises:
        KeyNotFoundError: there is no such backup key.
        MechanismUnsupportedError: the token cannot make or wrap such a key.
        BackendUnavailableError: the token fails.
    """
    backup = find_object(session, backup_label, "secret")
    with token_errors(f"making a {profile.name} key for backup"):
        handle, public = _session_key(session, profile, size, material)
        try:
            wrapped = bytes(backup.wrap_key(handle, mechanism=Mechanism[wrap_mechanism(profile)]))
            return wrapped, spki_of(public) if public is not None else None
        finally:
            handle.destroy()
            if public is not None:
                public.destroy()


def unwrap_to_token(
    session: TokenSession, profile: KeyProfile, name: KeyName, wrapped: bytes, spki: bytes | None, backup_label: str
) -> None:
    """Open a wrapped key into the token, with the attributes of the profile and never those of the blob.

    Args:
        session: the token.
        profile: the kind of key.
        name: its label and ID.
        wrapped: the blob.
        spki: the public half of a pair, SubjectPublicKeyInfo DER.
        backup_label: the wrapping key.

    Raises:
        KeyNotFoundError: there is no such backup key.
        KeyPolicyError: an object of that label or ID exists.
        DataRejectedError: the blob does not open under this backup key.
        BackendUnavailableError: the token fails.
    """
    refuse_collision(session, name)
    backup = find_object(session, backup_label, "secret")
    half = halves(profile)[0]
    with token_errors(f"restoring {name.label}"):
        created = _unwrap(session, backup, profile, wrapped, name, session.template(profile, half), store=True)
        if spki is None:
            return
        try:
            session.binding.create_object(
                {
                    **public_values(profile, spki),
                    Attribute.LABEL: name.label,
                    Attribute.ID: name.key_id,
                    **binding_template(session.template(profile, "public")),
                }
            )
        except BaseException:
            created.destroy()
            raise


def wrapped_check_value(
    session: TokenSession, profile: KeyProfile, wrapped: bytes, spki: bytes | None, backup_label: str
) -> CheckValue | None:
    """Open a wrapped key into a session object, compute its check value and drop it.

    Returns:
        The check value, or None when a pair's private half does not belong to ``spki``.

    Raises:
        DataRejectedError: the blob does not open under this backup key.
        KeyNotFoundError: there is no such backup key.
        BackendUnavailableError: the token fails.
    """
    backup = find_object(session, backup_label, "secret")
    half = halves(profile)[0]
    template = {**session.template(profile, half), "TOKEN": False}
    with token_errors("proving a backup"):
        handle = _unwrap(session, backup, profile, wrapped, None, template, store=False)
        try:
            if spki is None:
                return check_value_of_handle(session, profile, handle)
            return public_check_value(spki) if halves_match(profile, handle, spki) else None
        finally:
            handle.destroy()


def _session_key(
    session: TokenSession, profile: KeyProfile, size: int | str, material: Material | None
) -> tuple[Any, Any | None]:
    templates = {half: _passing(session, profile, half) for half in halves(profile)}
    if isinstance(material, SealedMaterial):
        private = {**session.template(profile, halves(profile)[0]), "TOKEN": False, "EXTRACTABLE": True}
        handle = open_sealed(session, profile, material, private, None, store=False)
        if material.spki is None:
            return handle, None
        return handle, session.binding.create_object({**public_values(profile, material.spki), **templates["public"]})
    if material is not None:
        made = {
            half: session.binding.create_object({**key_values(profile, half, material), **template})
            for half, template in templates.items()
        }
        return made[halves(profile)[0]], made.get("public")
    mechanism = GENERATION[profile.type]
    if profile.type in ("aes", "hmac-sha256"):
        handle = session.binding.generate_key(
            KEY_TYPES[profile.type], size, store=False, mechanism=mechanism, template=templates["secret"]
        )
        return handle, None
    pair = {"public_template": templates["public"], "private_template": templates["private"]}
    if profile.type == "rsa":
        public, private = session.binding.generate_keypair(
            KeyType.RSA, size, store=False, mechanism=mechanism, **pair
        )
    else:
        parameters = session.binding.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: CURVE_PARAMETERS[str(size)]}, local=True
        )
        public, private = parameters.generate_keypair(store=False, mechanism=mechanism, **pair)
    return private, public


def _passing(session: TokenSession, profile: KeyProfile, half: Half) -> dict[Attribute, Any]:
    """Return the template of a session object that lives until it is wrapped."""
    template = {**session.template(profile, half), "TOKEN": False}
    if half != "public":
        template["EXTRACTABLE"] = True
    return binding_template(template)


def _unwrap(
    session: TokenSession,
    backup: Any,
    profile: KeyProfile,
    wrapped: bytes,
    name: KeyName | None,
    template: dict[str, bool],
    *,
    store: bool,
) -> Any:
    half = halves(profile)[0]
    mechanism = Mechanism[wrap_mechanism(profile)]
    return judged(
        lambda: backup.unwrap_key(
            CLASSES[half],
            KEY_TYPES[profile.type],
            wrapped,
            id=name.key_id if name else None,
            label=name.label if name else None,
            mechanism=mechanism,
            store=store,
            template={**(UNSET_FOR_PRIVATE if half == "private" else {}), **binding_template(template)},
        ),
        lambda: _prove_unwrapping(session, backup, mechanism),
        (GeneralError,),
        "the wrapped key does not open under this backup key",
    )


def _prove_unwrapping(session: TokenSession, backup: Any, mechanism: Mechanism) -> None:
    """Wrap and unwrap a key known to be good; the binding's errors pass."""
    zero = zero_key(session)
    try:
        blob = backup.wrap_key(zero, mechanism=mechanism)
    finally:
        zero.destroy()
    backup.unwrap_key(
        CLASSES["secret"],
        KeyType.GENERIC_SECRET,
        blob,
        mechanism=mechanism,
        store=False,
        template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    ).destroy()

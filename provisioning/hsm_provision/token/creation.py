"""Keys brought into a token: generated there, or imported from material the host was given."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import serialization
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import decode_ec_private_key, decode_ec_public_key
from pkcs11.util.rsa import decode_rsa_private_key, decode_rsa_public_key

from hsm_msl.errors import KeyPolicyError
from hsm_provision.desired_keys import Material
from hsm_provision.key_material import OpenMaterial, PrivateMaterial
from hsm_provision.labels import KeyName
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import Half, halves
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, list_keys
from hsm_provision.token.transport import open_sealed
from hsm_provision.token.vocabulary import CURVE_PARAMETERS, GENERATION, KEY_TYPES, binding_template
from hsm_provision.transport import SealedMaterial


def generate_key(session: TokenSession, profile: KeyProfile, name: KeyName, size: int | str) -> None:
    """Generate a key inside the token.

    Args:
        session: where.
        profile: the kind of key.
        name: its label and ID.
        size: bits, or the curve name of an EC pair.

    Raises:
        KeyPolicyError: an object of that label or ID exists.
        MechanismUnsupportedError: the token cannot generate such a key.
        BackendUnavailableError: the token fails; nothing of the key is left.
    """
    refuse_collision(session, name)
    common: dict[str, Any] = {
        "id": name.key_id,
        "label": name.label,
        "store": True,
        "mechanism": GENERATION[profile.type],
    }
    with token_errors(f"generating {name.label}"):
        if profile.type in ("aes", "hmac-sha256"):
            session.binding.generate_key(
                KEY_TYPES[profile.type], size, template=_template(session, profile, "secret", name), **common
            )
            return
        templates = {
            "public_template": _template(session, profile, "public", name),
            "private_template": _template(session, profile, "private", name),
        }
        if profile.type == "rsa":
            session.binding.generate_keypair(KeyType.RSA, size, **templates, **common)
            return
        parameters = session.binding.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: CURVE_PARAMETERS[str(size)]}, local=True
        )
        parameters.generate_keypair(**templates, **common)


def import_key(session: TokenSession, profile: KeyProfile, name: KeyName, material: Material) -> None:
    """Create a key from material the host holds, with the attributes of the profile.

    Args:
        session: where.
        profile: the kind of key.
        name: its label and ID.
        material: the value; pairs are stored as both halves.

    Raises:
        KeyPolicyError: an object of that label or ID exists.
        MechanismUnsupportedError: the token cannot hold such a key.
        BackendUnavailableError: the token fails; nothing of the key is left.
    """
    refuse_collision(session, name)
    created: list[Any] = []
    try:
        with token_errors(f"importing {name.label}"):
            if isinstance(material, SealedMaterial):
                protected = session.template(profile, halves(profile)[0])
                created.append(open_sealed(session, profile, material, protected, name, store=True))
                if material.spki is not None:
                    public = {**public_values(profile, material.spki), **_template(session, profile, "public", name)}
                    created.append(session.binding.create_object(public))
                return
            for half in halves(profile):
                values = key_values(profile, half, material)
                created.append(session.binding.create_object({**values, **_template(session, profile, half, name)}))
    except BaseException:
        for handle in created:
            handle.destroy()
        raise


def refuse_collision(session: TokenSession, name: KeyName) -> None:
    """Make sure that neither label nor ID is taken. Raises KeyPolicyError, BackendUnavailableError."""
    listing = list_keys(session)
    if listing.of_label(name.label):
        raise KeyPolicyError(f"an object labelled {name.label!r} exists already; nothing was created")
    if listing.of_id(name.key_id):
        raise KeyPolicyError(f"an object with the ID of {name.label!r} exists already; nothing was created")


def _template(session: TokenSession, profile: KeyProfile, half: Half, name: KeyName) -> dict[Attribute, Any]:
    return {
        Attribute.LABEL: name.label,
        Attribute.ID: name.key_id,
        **binding_template(session.template(profile, half)),
    }


def key_values(profile: KeyProfile, half: Half, material: OpenMaterial) -> dict[Attribute, Any]:
    """Return class, type and value attributes of one object made from material."""
    if not isinstance(material, PrivateMaterial):
        return {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KEY_TYPES[profile.type],
            Attribute.VALUE: material.value,
        }
    if half == "public":
        return public_values(profile, material.spki)
    traditional = material.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return dict(decode_rsa_private_key(traditional) if profile.type == "rsa" else decode_ec_private_key(traditional))


def public_values(profile: KeyProfile, spki: bytes) -> dict[Attribute, Any]:
    """Return class, type and value attributes of a public key object from SubjectPublicKeyInfo DER."""
    if profile.type == "ec":
        return dict(decode_ec_public_key(spki))
    key = serialization.load_der_public_key(spki)
    return dict(decode_rsa_public_key(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)))

"""The words of this package and their PKCS#11 constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from hsm_provision.profiles import KeyKind
from hsm_provision.templates import Half

CLASSES: Mapping[Half, ObjectClass] = {
    "secret": ObjectClass.SECRET_KEY,
    "private": ObjectClass.PRIVATE_KEY,
    "public": ObjectClass.PUBLIC_KEY,
}
HALVES: Mapping[ObjectClass, Half] = {kind: half for half, kind in CLASSES.items()}

KEY_TYPES: Mapping[KeyKind, KeyType] = {
    # Tokens disagree about the typed HMAC keys; every one takes a generic secret for HMAC.
    "aes": KeyType.AES,
    "hmac-sha256": KeyType.GENERIC_SECRET,
    "rsa": KeyType.RSA,
    "ec": KeyType.EC,
}
KINDS: Mapping[KeyType, KeyKind] = {kind: name for name, kind in KEY_TYPES.items()}

GENERATION: Mapping[KeyKind, Mechanism] = {
    "aes": Mechanism.AES_KEY_GEN,
    "hmac-sha256": Mechanism.GENERIC_SECRET_KEY_GEN,
    "rsa": Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    "ec": Mechanism.EC_KEY_PAIR_GEN,
}

CURVE_PARAMETERS: Mapping[str, bytes] = {
    "P-256": encode_named_curve_parameters("secp256r1"),
    "P-384": encode_named_curve_parameters("secp384r1"),
}
CURVE_NAMES: Mapping[bytes, str] = {parameters: name for name, parameters in CURVE_PARAMETERS.items()}

BOOLEAN_ATTRIBUTES: Mapping[Half, tuple[Attribute, ...]] = {
    "secret": (
        Attribute.TOKEN,
        Attribute.PRIVATE,
        Attribute.SENSITIVE,
        Attribute.EXTRACTABLE,
        Attribute.COPYABLE,
        Attribute.MODIFIABLE,
        Attribute.ALWAYS_SENSITIVE,
        Attribute.NEVER_EXTRACTABLE,
        Attribute.LOCAL,
        Attribute.ENCRYPT,
        Attribute.DECRYPT,
        Attribute.WRAP,
        Attribute.UNWRAP,
        Attribute.SIGN,
        Attribute.VERIFY,
        Attribute.DERIVE,
    ),
    "private": (
        Attribute.TOKEN,
        Attribute.PRIVATE,
        Attribute.SENSITIVE,
        Attribute.EXTRACTABLE,
        Attribute.COPYABLE,
        Attribute.MODIFIABLE,
        Attribute.ALWAYS_SENSITIVE,
        Attribute.NEVER_EXTRACTABLE,
        Attribute.LOCAL,
        Attribute.SIGN,
        Attribute.SIGN_RECOVER,
        Attribute.DECRYPT,
        Attribute.UNWRAP,
        Attribute.DERIVE,
    ),
    "public": (
        Attribute.TOKEN,
        Attribute.PRIVATE,
        Attribute.COPYABLE,
        Attribute.MODIFIABLE,
        Attribute.LOCAL,
        Attribute.VERIFY,
        Attribute.VERIFY_RECOVER,
        Attribute.ENCRYPT,
        Attribute.WRAP,
        Attribute.DERIVE,
    ),
}


def binding_template(template: Mapping[str, bool]) -> dict[Attribute, Any]:
    """Return the attributes of a template under the binding's names, in the same order."""
    return {Attribute[name]: value for name, value in template.items()}

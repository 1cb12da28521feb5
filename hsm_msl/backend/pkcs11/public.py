"""Public halves of token keys as SubjectPublicKeyInfo, and signatures in the form the ports speak."""

from __future__ import annotations

from asn1crypto.core import ObjectIdentifier, OctetString
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import key_type_of, read
from hsm_msl.errors import KeyPolicyError, MechanismUnsupportedError

CURVES: dict[str, type[ec.EllipticCurve]] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
    "1.3.132.0.35": ec.SECP521R1,
}


def public_half(private: Handle) -> bytes:
    """Return the public key that belongs to a private one, SubjectPublicKeyInfo DER.

    Args:
        private: the private key's handle; the binding's exceptions pass.

    Raises:
        KeyPolicyError: an EC key without a public object of the same CKA_ID beside it.
        MechanismUnsupportedError: a key type or curve that is not spoken here.
    """
    key_type = key_type_of(private)
    if key_type is KeyType.RSA:
        modulus = read(private, Attribute.MODULUS, b"")
        exponent = read(private, Attribute.PUBLIC_EXPONENT, b"")
        if not modulus or not exponent:
            public = _partner(private)
            modulus, exponent = public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT]
        numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
        return _der(numbers.public_key())
    if key_type is KeyType.EC:
        parameters = read(private, Attribute.EC_PARAMS, b"")
        point = read(private, Attribute.EC_POINT, b"") or _partner(private)[Attribute.EC_POINT]
        return ec_public_key(parameters or _partner(private)[Attribute.EC_PARAMS], point)
    raise MechanismUnsupportedError(f"{key_type.name if key_type else 'such'} keys are not used here")


def ec_public_key(parameters: bytes, point: bytes) -> bytes:
    """Return SubjectPublicKeyInfo DER for CKA_EC_PARAMS and CKA_EC_POINT.

    Args:
        parameters: a named curve's OID, DER.
        point: the point, DER octet string as the standard says or bare as some tokens have it.

    Raises:
        MechanismUnsupportedError: not one of the curves spoken here, or no point of it.
    """
    curve = _curve(parameters)
    size = (curve.key_size + 7) // 8
    try:
        if len(point) != 1 + 2 * size:
            point = OctetString.load(point).native
        return _der(ec.EllipticCurvePublicKey.from_encoded_point(curve, point))
    except ValueError:  # tpm2-pkcs11 with P-521
        raise MechanismUnsupportedError(f"the token shows no point of {curve.name} that can be read") from None


def ec_point(spki: bytes) -> tuple[ec.EllipticCurve, bytes]:
    """Return curve and uncompressed point of an EC public key.

    Args:
        spki: SubjectPublicKeyInfo DER.

    Raises:
        ValueError: malformed, not an EC key, a point off its curve, or an unknown curve.
    """
    try:
        key = serialization.load_der_public_key(spki)
    except UnsupportedAlgorithm as error:
        raise ValueError("unknown key type or curve") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")
    encoding = serialization.Encoding.X962
    return key.curve, key.public_bytes(encoding, serialization.PublicFormat.UncompressedPoint)


def curve_parameters(curve: ec.EllipticCurve) -> bytes:
    """Return CKA_EC_PARAMS for a curve.

    Args:
        curve: one of ``CURVES``.

    Raises:
        MechanismUnsupportedError: another curve.
    """
    for oid, known in CURVES.items():
        if isinstance(curve, known):
            parameters: bytes = ObjectIdentifier(oid).dump()
            return parameters
    raise MechanismUnsupportedError(f"curve {curve.name} is not used here")


def ecdsa_der(raw: bytes) -> bytes:
    """Return an ECDSA signature as ASN.1 DER.

    Args:
        raw: both halves at equal length, as tokens return them.
    """
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def _partner(private: Handle) -> Handle:
    identifier = private[Attribute.ID]
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: identifier}
    found = list(private.session.get_objects(template)) if identifier else []
    if len(found) != 1:
        raise KeyPolicyError(
            f"private key {read(private, Attribute.LABEL, '')!r} (id {identifier.hex()}) has {len(found)} public "
            "objects of its CKA_ID beside it; it needs exactly one, because the token does not show its public half"
        )
    return found[0]


def _curve(parameters: bytes) -> ec.EllipticCurve:
    try:
        oid = ObjectIdentifier.load(parameters).dotted
    except ValueError:
        oid = ""
    if oid not in CURVES:
        raise MechanismUnsupportedError(f"curve {oid or 'with explicit parameters'} is not used here")
    return CURVES[oid]()


def _der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

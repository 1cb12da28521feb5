"""JSON Web Keys (RFC 7517, RFC 7518 section 6) as a source of keys to import."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec, rsa

_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


def secret_from_jwk(jwk: object) -> bytes:
    """Return the value of an ``oct`` key.

    Raises:
        ValueError: this is no ``oct`` JWK.
    """
    members = _members(jwk, "oct")
    return _bytes(members, "k")


def private_key_from_jwk(jwk: object) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return the private key of an ``RSA`` (with or without CRT members) or ``EC`` JWK.

    Raises:
        ValueError: this is no private RSA or EC JWK, or its numbers do not fit together.
    """
    if isinstance(jwk, dict) and jwk.get("kty") == "EC":
        members = _members(jwk, "EC")
        curve = _CURVES.get(str(members.get("crv")))
        if curve is None:
            raise ValueError("curve")
        public = ec.EllipticCurvePublicNumbers(_integer(members, "x"), _integer(members, "y"), curve)
        return ec.EllipticCurvePrivateNumbers(_integer(members, "d"), public).private_key()
    members = _members(jwk, "RSA")
    modulus, exponent, private = (_integer(members, name) for name in ("n", "e", "d"))
    if "p" in members:
        p, q = _integer(members, "p"), _integer(members, "q")
    else:
        p, q = rsa.rsa_recover_prime_factors(modulus, exponent, private)
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=private,
        dmp1=rsa.rsa_crt_dmp1(private, p),
        dmq1=rsa.rsa_crt_dmq1(private, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(exponent, modulus),
    )
    return numbers.private_key()


def _members(jwk: object, kind: str) -> dict[str, object]:
    if not isinstance(jwk, dict) or jwk.get("kty") != kind:
        raise ValueError(kind)
    return jwk


def _bytes(members: Mapping[str, object], name: str) -> bytes:
    text = members.get(name)
    if not isinstance(text, str):
        raise ValueError(name)
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _integer(members: Mapping[str, object], name: str) -> int:
    return int.from_bytes(_bytes(members, name), "big")

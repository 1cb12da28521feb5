"""The keys of the confinement test: their labels, their values, and how they get onto the token.

Run as a program it reads the values from standard input and imports them; the server's process never has them.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

CLIENT = "psk-client"
SECRETS = {
    f"{purpose}.{role}": size
    for purpose in ("msl.token", "psk", "service")
    for role, size in (("encryption", 16), ("mac", 32))
}
"""Secret keys and their length in bytes."""
PAIRS = ("identity", "msl.token.wrap")
"""RSA key pairs: one signs, one packs session keys (the token has no AES key wrap)."""
LABELS = {name: f"confined.{name}.v1" for name in (*SECRETS, *PAIRS)}


def fresh_values() -> dict[str, bytes]:
    """Return new values of every key; RSA keys as PKCS #8."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    values = {name: secrets.token_bytes(size) for name, size in SECRETS.items()}
    for name in PAIRS:
        key = rsa.generate_private_key(65537, 2048)
        values[name] = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return values


def import_keys(values: Mapping[str, bytes]) -> None:
    """Put the keys onto the token of this process's environment."""
    from cryptography.hazmat.primitives.serialization import load_der_private_key
    from pkcs11 import Attribute, KeyType, ObjectClass

    from confined_server import opened
    from token_fixture import CIPHER, MAC, USES, number

    token = opened()
    session = token.connection.token.open(rw=True)

    def common(name: str, uses: tuple[Attribute, ...], possible: tuple[Attribute, ...]) -> dict[Attribute, Any]:
        return {use: use in uses for use in possible} | {
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.LABEL: LABELS[name],
            Attribute.ID: name.encode(),
        }

    for name in SECRETS:
        encrypts = name.endswith("encryption")
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES if encrypts else KeyType.GENERIC_SECRET,
                Attribute.VALUE: values[name],
                **common(name, CIPHER if encrypts else MAC, USES),
            }
        )
    for name in PAIRS:
        numbers = load_der_private_key(values[name], None).private_numbers()
        use = Attribute.SIGN if name == "identity" else Attribute.UNWRAP
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.MODULUS: number(numbers.public_numbers.n),
                Attribute.PUBLIC_EXPONENT: number(numbers.public_numbers.e),
                Attribute.PRIVATE_EXPONENT: number(numbers.d),
                Attribute.PRIME_1: number(numbers.p),
                Attribute.PRIME_2: number(numbers.q),
                Attribute.EXPONENT_1: number(numbers.dmp1),
                Attribute.EXPONENT_2: number(numbers.dmq1),
                Attribute.COEFFICIENT: number(numbers.iqmp),
                **common(name, (use,), (Attribute.SIGN, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE)),
            }
        )
    session.close()
    token.close()


if __name__ == "__main__":
    if "HSM_MSL_TOKEN_MODULE" not in os.environ:
        sys.exit("run this under one of softhsm/with-*.sh")
    import_keys({name: bytes.fromhex(value) for name, value in json.load(sys.stdin).items()})

"""Fleet keys derived in the token: SP 800-108 with AES-CMAC (issue: fleet keys)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from pkcs11 import Attribute

from hsm_msl.backend.derived import (
    ENCRYPTION_LABEL,
    MAC_LABEL,
    WRAPPING_LABEL,
    DerivedKeys,
    SoftwareDerivationKey,
)
from hsm_msl.backend.pkcs11.derivation import TokenDerivationKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareWrappingKey
from hsm_msl.errors import KeyPolicyError
from hsm_msl.ports import SymmetricKeys
from scheme_support import assert_keys
from token_fixture import KeyMaker

MASTER = bytes(range(64, 80))
DERIVE = (Attribute.ENCRYPT, Attribute.DERIVE)
IDENTITIES = ["", "x", "device-0001", "exactly-16-bytes", "ein Gerät", "long " * 40]


def kdf(label: bytes, context: bytes, size: int) -> bytes:
    """SP 800-108r1 section 4.1 written out: counter mode, 32-bit counter and length, PRF AES-CMAC."""
    output = b""
    for counter in range(1, size // 16 + 1):
        mac = CMAC(AES(MASTER))
        mac.update(counter.to_bytes(4) + label + b"\0" + context + (size * 8).to_bytes(4))
        output += mac.finalize()
    return output


@pytest.fixture(params=["software", "token"])
def derivation(request: pytest.FixtureRequest) -> SoftwareDerivationKey | TokenDerivationKey:
    if request.param == "software":
        return SoftwareDerivationKey(MASTER)
    keys: KeyMaker = request.getfixturevalue("keys")
    return TokenDerivationKey(request.getfixturevalue("hsm_token").connection, keys.aes(MASTER, DERIVE))


@pytest.mark.parametrize("identity", IDENTITIES)
def test_derived_keys_are_those_of_the_standard(
    derivation: SoftwareDerivationKey | TokenDerivationKey, identity: str
) -> None:
    found = DerivedKeys(derivation, lambda name: True, version="v1").find(identity)
    context = identity.encode()
    assert_keys(found, kdf(ENCRYPTION_LABEL, context, 16), kdf(MAC_LABEL, context, 32))
    assert found is not None
    assert found.wrapping is not None
    assert found.version == "v1"
    expected = SoftwareWrappingKey(kdf(WRAPPING_LABEL, context, 16))
    assert found.wrapping.wrap(bytes(16)) == expected.wrap(bytes(16))


def test_derived_keys_are_cached_and_only_for_the_fleet() -> None:
    fleet: set[str] = {"a"}
    derived = DerivedKeys(SoftwareDerivationKey(MASTER), fleet.__contains__, capacity=1)
    first = derived.find("a")
    assert isinstance(first, SymmetricKeys)
    assert derived.find("a") is first
    assert derived.find("b") is None
    fleet.clear()
    assert derived.find("a") is None


@pytest.mark.parametrize(
    "uses",
    [
        (Attribute.DERIVE,),
        (Attribute.ENCRYPT,),
        (*DERIVE, Attribute.DECRYPT),
        (*DERIVE, Attribute.SIGN),
        (*DERIVE, Attribute.WRAP),
    ],
    ids=lambda uses: "+".join(use.name for use in uses),
)
def test_a_master_key_may_do_that_and_nothing_else(
    hsm_token: Token, keys: KeyMaker, uses: tuple[Attribute, ...]
) -> None:
    with pytest.raises(KeyPolicyError):
        TokenDerivationKey(hsm_token.connection, keys.aes(MASTER, uses))


def test_a_derived_key_cannot_be_read_from_the_token(hsm_token: Token, keys: KeyMaker) -> None:
    master = TokenDerivationKey(hsm_token.connection, keys.aes(MASTER, DERIVE))
    derived = master.derive_aes(ENCRYPTION_LABEL, b"x", 16)
    attributes = derived.target.call(
        lambda handle: handle.get_attributes([Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.TOKEN])
    )
    assert attributes == {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.TOKEN: False}

"""The modules of the protocol's own description, with every mode, through the backend (issue 3).

Keys in this process and in a SoftHSMv2 token give what an independent implementation gives; what a token cannot do is
refused by name when the key is opened, not when a message waits for it.
"""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareDhKey
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.errors import DataRejectedError, MechanismUnsupportedError
from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS, decode_group, encode_group
from hsm_msl.msl.keyx.diffie_hellman import normal_form
from hsm_msl.ports import AgreementKey, MacAlgorithm, SignatureScheme
from msl_keys import rsa_key
from scheme_certificates import ec_key
from scheme_places import Place
from scheme_support import assert_keys

BLOCKS = bytes(range(48))
IV = bytes(range(240, 256))
SIZES = [16, 24, 32]


def reference(mode: ECB | CBC | CTR, key: bytes, data: bytes) -> bytes:
    cipher = Cipher(AES(key), mode).encryptor()
    return cipher.update(data) + cipher.finalize()


@pytest.mark.parametrize("size", SIZES)
def test_aes_ecb_and_cbc(place: Place, size: int) -> None:
    value = bytes(range(size))
    key = place.aes(value)
    assert key.encrypt_ecb(BLOCKS) == reference(ECB(), value, BLOCKS)
    assert key.decrypt_ecb(key.encrypt_ecb(BLOCKS)) == BLOCKS
    assert key.encrypt_cbc(IV, BLOCKS) == reference(CBC(IV), value, BLOCKS)
    assert key.decrypt_cbc(IV, key.encrypt_cbc(IV, BLOCKS)) == BLOCKS


@pytest.mark.parametrize("counter", [bytes(16), IV, b"\xff" * 16], ids=["zero", "high", "wrapping"])
def test_aes_ctr_counts_all_128_bits(place: Place, counter: bytes) -> None:
    value = bytes(range(16))
    data = bytes(100)
    blocks = b"".join(((int.from_bytes(counter) + n) % 2**128).to_bytes(16) for n in range(7))
    expected = reference(ECB(), value, blocks)[:100]
    assert place.aes(value).crypt_ctr(counter, data) == expected
    if counter != b"\xff" * 16:
        assert expected == reference(CTR(counter), value, data)


HMACS = {
    MacAlgorithm.HMAC_SHA1: "sha1",
    MacAlgorithm.HMAC_SHA256: "sha256",
    MacAlgorithm.HMAC_SHA384: "sha384",
    MacAlgorithm.HMAC_SHA512: "sha512",
    MacAlgorithm.HMAC_SHA3_256: "sha3_256",
    MacAlgorithm.HMAC_SHA3_384: "sha3_384",
    MacAlgorithm.HMAC_SHA3_512: "sha3_512",
}


@pytest.mark.parametrize("algorithm", HMACS, ids=lambda algorithm: algorithm.value)
def test_hmac(place: Place, algorithm: MacAlgorithm) -> None:
    """SHA-3 where the token has it; SoftHSMv2 has not, and says so by name."""
    value = bytes(range(64))
    if place.name == "token" and "SHA3-" in algorithm.value:
        with pytest.raises(MechanismUnsupportedError, match="the token"):
            place.mac(value, algorithm)
        return
    key = place.mac(value, algorithm)
    expected = hmac.digest(value, b"data", HMACS[algorithm])
    assert key.sign(b"data") == expected
    assert key.verify(b"data", expected)
    assert not key.verify(b"data", expected[:-1] + bytes([expected[-1] ^ 1]))
    assert not key.verify(b"data", expected[:-1])


class Agreements:
    """Makes one-time Diffie-Hellman keys where the place is."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def make(self, prime: int, generator: int) -> AgreementKey:
        if self._token is None:
            return SoftwareDhKey(prime, generator, os.urandom)
        return self._token.ephemeral_dh(prime, generator)


@pytest.fixture(params=["software", "token"])
def agreements(request: pytest.FixtureRequest) -> Agreements:
    return Agreements(request.getfixturevalue("hsm_token") if request.param == "token" else None)


@pytest.mark.parametrize("how", ["agreed", "sent"])
@pytest.mark.parametrize("name", ["modp-1536", "ffdhe-2048"])
def test_agreement_and_the_split_of_its_digest(agreements: Agreements, name: str, how: str) -> None:
    """The group is named, or sent as PKCS #3; SHA-384 of the secret gives 16 bytes AES and 32 bytes HMAC."""
    group = STANDARD_GROUPS[name]
    if how == "sent":
        group = decode_group(encode_group(group))
    ours = agreements.make(group.prime, group.generator)
    exponent = int.from_bytes(os.urandom(32))
    peer = pow(group.generator, exponent, group.prime).to_bytes(group.size)
    secret = pow(int.from_bytes(ours.public_value), exponent, group.prime).to_bytes(group.size)
    assert ours.agree(peer) == secret
    digest = hashlib.sha384(b"\0" + secret.lstrip(b"\0")).digest()
    keys = HostVault(os.urandom).derive(hashlib.sha384(normal_form(ours.agree(peer))).digest())
    assert_keys(keys, digest[:16], digest[16:])


@pytest.mark.parametrize("value", ["0", "1", "p-1", "p"])
def test_weak_public_values_are_refused(agreements: Agreements, value: str) -> None:
    group = STANDARD_GROUPS["modp-1536"]
    number = {"0": 0, "1": 1, "p-1": group.prime - 1, "p": group.prime}[value]
    with pytest.raises(DataRejectedError):
        agreements.make(group.prime, group.generator).agree(number.to_bytes(group.size))


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_rsa_signatures(place: Place) -> None:
    key = rsa_key("modules")
    signing = place.signing(pkcs8(key))
    public = key.public_key()
    public.verify(signing.sign(b"data", SignatureScheme.RSA_PKCS1_SHA256), b"data", padding.PKCS1v15(), SHA256())
    pss = padding.PSS(padding.MGF1(SHA256()), 32)
    public.verify(signing.sign(b"data", SignatureScheme.RSA_PSS_SHA256), b"data", pss, SHA256())


@pytest.mark.parametrize("scheme", [SignatureScheme.ECDSA_SHA256, SignatureScheme.ECDSA_SHA384])
def test_ecdsa_signatures_are_der(place: Place, scheme: SignatureScheme) -> None:
    key = ec_key("modules")
    signature = place.signing(pkcs8(key)).sign(b"data", scheme)
    utils.decode_dss_signature(signature)
    algorithm = SHA256() if scheme is SignatureScheme.ECDSA_SHA256 else SHA384()
    key.public_key().verify(signature, b"data", ec.ECDSA(algorithm))

"""What every signing, decryption and agreement key does, wherever the key is."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.backend.software import SoftwareDhKey, SoftwareEcdhKey
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import ConfigurationError, DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import RsaPadding, SignatureScheme
from key_backends import KeyBackend, ec_pair, rsa_pair, spki

RSA_SCHEMES = [SignatureScheme.RSA_PKCS1_SHA256, SignatureScheme.RSA_PSS_SHA256]
EC_SCHEMES = [SignatureScheme.ECDSA_SHA256, SignatureScheme.ECDSA_SHA384]
CURVES = [ec.SECP256R1, ec.SECP384R1]

PADDINGS = {
    RsaPadding.OAEP_SHA1: padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None),
    RsaPadding.OAEP_SHA256: padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
    RsaPadding.PKCS1: padding.PKCS1v15(),
}

MODP_1536 = int(  # RFC 3526 section 2
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF",
    16,
)
SHORT_PRIME = 2**521 - 1  # far too weak for use, and of a length that is not whole bytes


@pytest.mark.parametrize("scheme", RSA_SCHEMES)
def test_rsa_signatures_verify_and_nothing_else_does(backend: KeyBackend, scheme: SignatureScheme) -> None:
    key = backend.signing(rsa_pair())
    assert key.public_key == spki(rsa_pair())
    check_signatures(key.sign(b"message", scheme), key.public_key, scheme)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("scheme", EC_SCHEMES)
def test_ecdsa_signatures_verify_and_nothing_else_does(
    backend: KeyBackend, scheme: SignatureScheme, curve: type[ec.EllipticCurve]
) -> None:
    key = backend.signing(ec_pair(curve))
    assert key.public_key == spki(ec_pair(curve))
    check_signatures(key.sign(b"message", scheme), key.public_key, scheme)


def check_signatures(signature: bytes, public_key: bytes, scheme: SignatureScheme) -> None:
    verifier = PublicKey(public_key)
    assert verifier.verify(b"message", signature, scheme)
    assert not verifier.verify(b"Message", signature, scheme)
    for bad in (b"", b"\x30", signature[:-1], signature + b"\0", bytes(len(signature))):
        assert not verifier.verify(b"message", bad, scheme)
    for other in set(SignatureScheme) - {scheme}:
        assert not verifier.verify(b"message", signature, other)


def test_signatures_over_any_length(backend: KeyBackend) -> None:
    key = backend.signing(rsa_pair())
    verifier = PublicKey(key.public_key)
    for data in (b"", bytes(1 << 18)):
        for scheme in RSA_SCHEMES:
            assert verifier.verify(data, key.sign(data, scheme), scheme)


def test_a_scheme_for_another_kind_of_key_is_refused(backend: KeyBackend) -> None:
    for scheme in EC_SCHEMES:
        with pytest.raises(KeyPolicyError):
            backend.signing(rsa_pair()).sign(b"", scheme)
    for scheme in RSA_SCHEMES:
        with pytest.raises(KeyPolicyError):
            backend.signing(ec_pair(ec.SECP256R1)).sign(b"", scheme)


@pytest.mark.parametrize("bad", [b"", b"\x30\x00", bytes(100)])
def test_a_malformed_public_key_is_refused(bad: bytes) -> None:
    with pytest.raises(ConfigurationError):
        PublicKey(bad)


def encrypt(data: bytes, how: RsaPadding) -> bytes:
    public = rsa_pair().public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(data, PADDINGS[how])


def supported(backend: KeyBackend, how: RsaPadding) -> bool:
    return not (backend.name == "softhsm" and how is RsaPadding.OAEP_SHA256)


@pytest.mark.parametrize("how", RsaPadding)
def test_rsa_decryption(backend: KeyBackend, how: RsaPadding) -> None:
    key = backend.decryption(rsa_pair())
    assert key.public_key == spki(rsa_pair())
    if not supported(backend, how):  # SoftHSMv2 has OAEP with SHA-1 only
        with pytest.raises(MechanismUnsupportedError):
            key.decrypt(encrypt(b"secret", how), how)
        return
    for data in (b"", b"secret", os.urandom(128)):
        assert key.decrypt(encrypt(data, how), how) == data


def test_every_bad_ciphertext_is_refused_in_the_same_words(backend: KeyBackend) -> None:
    key = backend.decryption(rsa_pair())
    words = set()
    for how in (RsaPadding.OAEP_SHA1, RsaPadding.OAEP_SHA256):
        if not supported(backend, how):
            continue
        good = encrypt(b"secret", how)
        changed = good[:-1] + bytes([good[-1] ^ 1])
        bad = [b"", good[:-1], good + b"\0", bytes(256), b"\xff" * 256, changed, encrypt(b"", RsaPadding.PKCS1)]
        for data in bad:
            with pytest.raises(DataRejectedError) as refusal:
                key.decrypt(data, how)
            words.add(str(refusal.value))
        assert key.decrypt(good, how) == b"secret"
    assert len(words) == 1


# Modulo this Mersenne prime 2 has 521 powers only, and one key in so many would be the refused value 1.
@pytest.mark.parametrize(("prime", "generator"), [(MODP_1536, 2), (SHORT_PRIME, 3)], ids=["1536", "521"])
def test_diffie_hellman_agrees_with_plain_arithmetic(backend: KeyBackend, prime: int, generator: int) -> None:
    key = backend.dh(prime, generator)
    size = (prime.bit_length() + 7) // 8
    assert len(key.public_value) == size
    peer = SoftwareDhKey(prime, generator, os.urandom)
    secret = key.agree(peer.public_value)
    assert secret == peer.agree(key.public_value)
    assert len(secret) == size


def test_diffie_hellman_takes_a_value_with_or_without_leading_zeros(backend: KeyBackend) -> None:
    key = backend.dh(MODP_1536, 2)
    assert key.agree(b"\x05") == key.agree(bytes(191) + b"\x05") == key.agree(bytes(300) + b"\x05")


def test_diffie_hellman_refuses_values_out_of_range(backend: KeyBackend) -> None:
    """SP 800-56A section 5.6.2.3.1: 2 to p - 2; the edges themselves are fine."""
    key = backend.dh(MODP_1536, 2)
    for value in (0, 1, MODP_1536 - 1, MODP_1536, MODP_1536 + 2):
        with pytest.raises(DataRejectedError):
            key.agree(value.to_bytes(193, "big"))
    with pytest.raises(DataRejectedError):
        key.agree(b"")
    for value in (2, MODP_1536 - 2):
        assert len(key.agree(value.to_bytes(192, "big"))) == 192


@pytest.mark.parametrize("curve", [*CURVES, ec.SECP521R1])
def test_ecdh_agrees_with_the_library(backend: KeyBackend, curve: type[ec.EllipticCurve]) -> None:
    key = backend.ecdh(ec_pair(curve))
    assert key.public_value == spki(ec_pair(curve))
    peer = SoftwareEcdhKey(ec.generate_private_key(curve()))
    secret = key.agree(peer.public_value)
    assert secret == peer.agree(key.public_value)
    assert len(secret) == (curve().key_size + 7) // 8


def test_ecdh_refuses_what_is_no_point_of_its_curve(backend: KeyBackend) -> None:
    key = backend.ecdh(ec_pair(ec.SECP256R1))
    good = spki(ec.generate_private_key(ec.SECP256R1()))
    load_der_public_key(good)
    off_curve = good[:-1] + bytes([good[-1] ^ 1])
    for bad in (b"", b"\x30\x00", off_curve, spki(ec_pair(ec.SECP384R1)), spki(rsa_pair())):
        with pytest.raises(DataRejectedError):
            key.agree(bad)

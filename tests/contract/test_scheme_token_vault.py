"""``token`` residency: session keys that are session objects of a SoftHSMv2 token (ARCHITECTURE, session keys)."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey
from hsm_msl.backend.token_vault import TokenVault
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.transport import PaddedJwkTransport, RsaTransport, WrapTransport
from hsm_msl.errors import DataRejectedError, ErrorCode, KeyPolicyError, MslError, ResponseCode
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import Requester
from hsm_msl.ports import KeyForm, RsaPadding, SessionData, SymmetricKeys
from hsm_msl.wire import codec
from msl_keys import Ephemeral, Ring, rsa_key, spki
from scheme_places import TokenPlace, entity_keys
from scheme_support import assert_keys, refused
from token_fixture import KeyMaker

WRAP_KEYS = bytes(range(16)), bytes(range(16, 32))
PEER = rsa_key("peer")


@pytest.fixture
def place(hsm_token: Token, keys: KeyMaker) -> TokenPlace:
    return TokenPlace(hsm_token, keys)


@pytest.fixture
def ring(place: TokenPlace) -> Ring:
    return Ring(entity_keys(place, bytes(range(32, 48)), bytes(range(48, 80)), WRAP_KEYS[0]))


@pytest.fixture
def vault(hsm_token: Token, ring: Ring) -> TokenVault:
    return TokenVault(hsm_token, ring)


def context(ring: Ring) -> SymmetricContext:
    return SymmetricContext(ring.primary(), "issuer", os.urandom)


def same(one: SymmetricKeys, other: SymmetricKeys) -> bool:
    assert one.encryption is not None
    assert other.encryption is not None
    assert one.mac is not None
    assert other.mac is not None
    block = bytes(range(16))
    return one.encryption.encrypt_ecb(block) == other.encryption.encrypt_ecb(block) and one.mac.sign(
        block
    ) == other.mac.sign(block)


def test_keys_reach_the_peer_through_its_rsa_key(vault: TokenVault) -> None:
    keys = vault.generate()
    wrapped = vault.export(keys, RsaTransport(RsaPadding.OAEP_SHA1, spki(PEER)), KeyForm.RAW)
    opened = [PEER.decrypt(value, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)) for value in wrapped]
    assert [len(value) for value in opened] == [16, 32]
    assert_keys(keys, opened[0], opened[1])


@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        (PEER.public_key().public_numbers().n - 1, 65537),
        (2**2047, 65537),
        (2**16391 + 1, 65537),
        (2**4095 + 1, 2**4094 + 1),
    ],
    ids=["even", "power of two", "too long", "exponent too long"],
)
def test_a_useless_rsa_key_of_a_peer_is_its_fault_and_no_outage(
    vault: TokenVault, hsm_token: Token, modulus: int, exponent: int
) -> None:
    """Whoever sends one must not make the token log in again, which takes the keys of others with it."""
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    before = dict(hsm_token.connection.recovery.counts)
    with refused(ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE, ResponseCode.FAIL):
        vault.export(vault.generate(), RsaTransport(RsaPadding.OAEP_SHA1, public), KeyForm.RAW)
    assert hsm_token.connection.recovery.counts == before


def test_keys_reach_the_peer_through_a_shared_wrapping_key(vault: TokenVault, place: TokenPlace) -> None:
    kpw = bytes(range(80, 96))
    keys = vault.generate()
    wrapped = vault.export(keys, WrapTransport(place.wrapping(kpw)), KeyForm.RAW)
    assert_keys(keys, *(SoftwareWrappingKey(kpw).unwrap(value) for value in wrapped))
    received = vault.receive(*wrapped, WrapTransport(place.wrapping(kpw)), KeyForm.RAW)
    assert same(keys, received)


def test_a_master_token_gives_the_keys_back_to_another_process(
    vault: TokenVault, ring: Ring, hsm_token: Token
) -> None:
    keys = vault.generate()
    sealed = vault.seal(SessionData("device", keys, {"realm": "test"}), context(ring))
    opened = TokenVault(hsm_token, ring).open(sealed, context(ring))
    assert (opened.identity, opened.issuer_data) == ("device", {"realm": "test"})
    assert same(opened.keys, keys)
    assert isinstance(opened.keys.encryption, TokenAesKey)
    attributes = opened.keys.encryption.target.call(
        lambda handle: handle.get_attributes([Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.TOKEN])
    )
    assert attributes == {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.TOKEN: False}


def test_nothing_in_a_master_token_is_a_key(vault: TokenVault, ring: Ring) -> None:
    """Whoever decrypts the session data on the host sees wrapped blobs and nothing else."""
    sealed = vault.seal(SessionData("device", vault.generate()), context(ring))
    session = codec.decode(context(ring).decrypt(sealed))
    assert set(session) == {"identity", "wrappedencryptionkey", "wrappedhmackey"}


def test_tokens_outlive_a_rotation_of_the_wrapping_key(vault: TokenVault, ring: Ring, place: TokenPlace) -> None:
    keys = vault.generate()
    sealed = vault.seal(SessionData("device", keys), context(ring))
    old = ring.versions[0]
    ring.versions.insert(0, SymmetricKeys(old.encryption, old.mac, place.wrapping(WRAP_KEYS[1])))
    assert same(vault.open(sealed, context(ring)).keys, keys)
    ring.versions.pop()
    with refused(ErrorCode.MASTERTOKEN_KEY_CREATION_ERROR, ResponseCode.ENTITY_REAUTH):
        vault.open(sealed, context(ring))


def test_tokens_of_the_other_residency_start_a_new_session(vault: TokenVault, ring: Ring) -> None:
    host = HostVault(os.urandom)
    in_token = vault.seal(SessionData("device", vault.generate()), context(ring))
    on_host = host.seal(SessionData("device", host.generate()), context(ring))
    for opener, sealed in ((host, in_token), (vault, on_host)):
        with refused(ErrorCode.MASTERTOKEN_SESSIONDATA_PARSE_ERROR, ResponseCode.ENTITY_REAUTH):
            opener.open(sealed, context(ring))


def test_what_needs_bytes_is_refused(vault: TokenVault, place: TokenPlace) -> None:
    keys = vault.generate()
    rsa_transport = RsaTransport(RsaPadding.OAEP_SHA1, spki(PEER))
    wrap = WrapTransport(place.wrapping(bytes(16)))
    refusals = [
        lambda: vault.derive(bytes(48)),
        lambda: vault.export(keys, rsa_transport, KeyForm.JWK_KEY_OPS),
        lambda: vault.export(keys, PaddedJwkTransport(wrap), KeyForm.RAW),
        lambda: vault.receive(b"", b"", rsa_transport, KeyForm.RAW),
        lambda: vault.receive(b"", b"", wrap, KeyForm.JWK_USE),
        vault.generate_wrapping,
        lambda: vault.export_wrapping(SoftwareWrappingKey(bytes(16)), wrap, KeyForm.RAW),
        lambda: vault.receive_wrapping(b"", wrap, KeyForm.RAW),
    ]
    for refusal in refusals:
        with pytest.raises(KeyPolicyError, match="session keys stay in the token"):
            refusal()


def test_foreign_keys_are_refused(vault: TokenVault, ring: Ring, place: TokenPlace) -> None:
    """Only keys made in this token, and made to leave it, are wrapped; opened ones are not."""
    software = SymmetricKeys(SoftwareAesKey(bytes(16)), vault.generate().mac)
    on_token = SymmetricKeys(place.aes(bytes(16)), vault.generate().mac)
    for keys in (software, on_token):
        with pytest.raises(KeyPolicyError):
            vault.export(keys, RsaTransport(RsaPadding.OAEP_SHA1, spki(PEER)), KeyForm.RAW)
        with pytest.raises(KeyPolicyError):
            vault.seal(SessionData("device", keys), context(ring))
    opened = vault.open(vault.seal(SessionData("device", vault.generate()), context(ring)), context(ring))
    with pytest.raises(KeyPolicyError):
        vault.seal(opened, context(ring))
    with pytest.raises(KeyPolicyError):
        vault.seal(SessionData("device", SymmetricKeys()), context(ring))
    ring.versions[:] = [SymmetricKeys(ring.versions[0].encryption, ring.versions[0].mac)]
    with pytest.raises(KeyPolicyError, match="no wrapping key"):
        vault.seal(SessionData("device", vault.generate()), context(ring))


def der(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("padding_name", ["OAEP_SHA1", "PKCS1"])
def test_a_peers_key_that_is_unfit(hsm_token: Token, vault: TokenVault, padding_name: str) -> None:
    resident = hsm_token
    key = resident.generate_aes(16)
    small = rsa.generate_private_key(65537, 1024)
    resident.wrap_for(key, der(small), RsaPadding[padding_name])
    for unfit in (b"junk", der(ec.generate_private_key(ec.SECP256R1()))):
        with pytest.raises(DataRejectedError):
            resident.wrap_for(key, unfit, RsaPadding[padding_name])
    with pytest.raises(MslError) as caught:
        vault.export(vault.generate(), RsaTransport(RsaPadding[padding_name], b"junk"), KeyForm.RAW)
    assert caught.value.code is ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE


def test_the_exchange_answers_over_the_token(vault: TokenVault) -> None:
    """ASYMMETRIC_WRAPPED/RSA, the requester being plain software."""
    server = AsymmetricWrapped(Ephemeral(os.urandom), vault, os.urandom, ("RSA",))
    client = AsymmetricWrapped(Ephemeral(os.urandom), HostVault(os.urandom), os.urandom)
    pending = client.request("RSA")
    answer = server.answer(pending.request, Requester("device"))
    keys = client.accept(pending, client.parse_response(answer.keydata))
    assert keys is not None
    assert same(keys, answer.keys)

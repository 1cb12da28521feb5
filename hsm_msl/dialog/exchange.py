"""Key exchange keys: made, signed for and wrapped by the sender, verified and opened by the receiver (section 4).

The signature is checked before the private key is used, and covers the digest of the KEK header: that a key was
encrypted to a public key says nothing about who did it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsm_msl.dialog import signatures
from hsm_msl.dialog.binding import Binding, CertificateFacts
from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.errors import KeyUnusableError, PeerRejectedError, RewrapNeededError
from hsm_msl.dialog.headers import (
    Authentication,
    KekHeader,
    PairHeader,
    parse_kek,
    parse_pair,
    protected_bytes,
    sign1,
    signed_bytes,
)
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.names import CLOCK_SKEW, ID_SIZE, PROTOCOL
from hsm_msl.dialog.suites import Suite, suite_of
from hsm_msl.dialog.trust import Trust
from hsm_msl.errors import DataRejectedError
from hsm_msl.ports import AgreementKey, RandomBytes, WrappingKey
from hsm_msl.ports.dialog import ExchangeKey, UnwrappingKey

_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class MadeKek:
    """A fresh key exchange key with the headers that carry it."""

    key: ExchangeKey
    pair_header: bytes
    kek_header: bytes


@dataclass(frozen=True, slots=True)
class VerifiedPair:
    """A pair header that is trusted, with the KEK header it vouches for."""

    pair: PairHeader
    kek: KekHeader
    suite: Suite


def make_kek(
    local: LocalService,
    remote: str,
    recipient: CertificateFacts,
    suite: Suite,
    *,
    epoch: int,
    not_before: int,
    not_after: int,
    random: RandomBytes,
) -> MadeKek:
    """Make a key exchange key for one ordered pair of services.

    Args:
        local: the sender.
        remote: name of the receiver.
        recipient: the receiver's encryption certificate.
        suite: what to use.
        epoch: rises with every key of this pair.
        not_before: first Unix second at which receivers accept the headers.
        not_after: last one.
        random: source of the ephemeral key and the nonce.

    Raises BackendError when a key operation gives no result, DataRejectedError for an unusable recipient key.
    """
    key = local.exchange.generate(suite.kek_size)
    ephemeral = b""
    if suite.transport is not None:
        wrapped = key.wrap_for_rsa(recipient.public_key, suite.transport)
    else:
        private = ec.derive_private_key(
            1 + int.from_bytes(random(40)) % (_CURVE_ORDER - 1),
            ec.SECP256R1(),
        )
        ephemeral = private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        peer = serialization.load_der_public_key(recipient.public_key)
        if not isinstance(peer, ec.EllipticCurvePublicKey) or not isinstance(peer.curve, ec.SECP256R1):
            raise DataRejectedError("the recipient's certificate holds no P-256 key")
        shared = private.exchange(ec.ECDH(), peer)
        context = _agreement_context(local.name, remote, recipient.digest, local.signing_cert, suite, ephemeral)
        wrapped = key.wrap_under(local.exchange.wrapping_key(_agreed_key(shared, context)))
    header = KekHeader(
        algorithm=suite.transport_alg,
        receiver_cert=recipient.digest,
        size=suite.kek_size,
        epoch=epoch,
        not_after=not_after,
        sender=local.name,
        receiver=remote,
        ephemeral=ephemeral,
        wrapped=wrapped,
    ).encode()
    payload = Authentication(
        sender=local.name,
        receiver=remote,
        instance=local.instance,
        signing_cert=local.signing_cert,
        encryption_cert=recipient.digest,
        kek_digest=hashlib.sha256(header).digest(),
        epoch=epoch,
        not_before=not_before,
        not_after=not_after,
        suite=suite.number,
        nonce=random(ID_SIZE),
    ).encode()
    protected = protected_bytes(suite.signature_alg, local.signing_cert)
    signature = signatures.sign(local.signing_key, signed_bytes(protected, payload), suite)
    return MadeKek(key, sign1(protected, payload, signature, local.presented), header)


def verify_pair(
    local_name: str, pair_bytes: bytes, kek_bytes: bytes, binding: Binding | None, now: float, trust: Trust
) -> VerifiedPair:
    """Check that the key exchange key comes from whom it names, for us, now; no private key is used.

    Raises PacketError for malformed headers and PeerRejectedError for every reason not to trust them.
    """
    pair = parse_pair(pair_bytes)
    kek = parse_kek(kek_bytes)
    claim = pair.authentication
    if binding is None or not binding.active(now):
        raise PeerRejectedError("no binding in force")
    if claim.receiver != local_name or not _names(binding, claim.sender):
        raise PeerRejectedError("headers are for another pair of services")
    if claim.suite not in binding.suites:
        raise PeerRejectedError("suite not allowed by the binding")
    signer = trust.signer(binding, claim.sender, claim.signing_cert, pair.certificates.signing, now)
    suite = suite_of(claim.suite)
    if not signatures.verify(signer.public_key, pair.signed(), pair.signature, suite):
        raise PeerRejectedError("pair signature does not fit")
    if not hmac.compare_digest(claim.kek_digest, hashlib.sha256(kek_bytes).digest()):
        raise PeerRejectedError("pair header vouches for another key exchange key")
    stated = (kek.sender, kek.receiver, kek.receiver_cert, kek.epoch, kek.not_after, kek.size, kek.algorithm)
    if stated != (
        claim.sender,
        claim.receiver,
        claim.encryption_cert,
        claim.epoch,
        claim.not_after,
        suite.kek_size,
        suite.transport_alg,
    ):
        raise PeerRejectedError("KEK header contradicts the pair header")
    if not claim.not_before - CLOCK_SKEW <= now <= claim.not_after + CLOCK_SKEW:
        raise PeerRejectedError("headers are not valid at this time")
    return VerifiedPair(pair, kek, suite)


def verified_before(pair_bytes: bytes, kek_bytes: bytes) -> VerifiedPair:
    """Read headers that were verified when they came, to open what was received under them. Raises PacketError."""
    pair = parse_pair(pair_bytes)
    return VerifiedPair(pair, parse_kek(kek_bytes), suite_of(pair.authentication.suite))


def open_kek(local: LocalService, verified: VerifiedPair) -> WrappingKey:
    """Open a verified key exchange key with the private key it is encrypted to.

    Raises RewrapNeededError when this side has no such key any more, KeyUnusableError when the key refuses the input,
    BackendError when the operation gave no result.
    """
    header, suite = verified.kek, verified.suite
    private = local.encryption_keys.get(header.receiver_cert)
    if private is None:
        raise RewrapNeededError(header.sender)
    try:
        if suite.transport is not None:
            if not isinstance(private, UnwrappingKey):
                raise DataRejectedError("key of the wrong type")
            return private.unwrap_exchange(header.wrapped, suite.transport, suite.kek_size)
        if not isinstance(private, AgreementKey):
            raise DataRejectedError("key of the wrong type")
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), header.ephemeral)
        shared = private.agree(
            point.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        context = _agreement_context(
            header.sender,
            header.receiver,
            header.receiver_cert,
            verified.pair.authentication.signing_cert,
            suite,
            header.ephemeral,
        )
        return local.exchange.wrapping_key(_agreed_key(shared, context)).unwrap_wrapping(header.wrapped)
    except (DataRejectedError, ValueError) as error:
        digest = hashlib.sha256(header.encode()).digest()
        raise KeyUnusableError(digest, header.sender) from error


def _names(binding: Binding, sender: str) -> bool:
    return sender.startswith(binding.remote) if binding.prefix else sender == binding.remote


def _agreement_context(
    sender: str, receiver: str, receiver_cert: bytes, signing_cert: bytes, suite: Suite, ephemeral: bytes
) -> bytes:
    return encode(
        [PROTOCOL, "kek", sender, receiver, receiver_cert, signing_cert, suite.number, suite.kek_size, ephemeral]
    )


def _agreed_key(shared: bytes, context: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, context).derive(shared)

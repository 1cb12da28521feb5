"""The three headers that carry a key: pair, key exchange key, session key (section 4, COSE shapes of RFC 9052)."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from hsm_msl.dialog.encoding import decode, encode
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import HASH_SIZE, ID_SIZE, MAX_CHAIN, MAX_HEADERS, MAX_NAME, MAX_SEQ, SPLIT_PARTS
from hsm_msl.dialog.suites import suite_of

# COSE header labels (RFC 9052 section 3.1) and this protocol's private ones.
_ALG, _CRIT, _KID = 1, 2, 4
_VERSION = -65601
_EPHEMERAL = -1
# Certificates ride unprotected (RFC 9360, x5chain): trust comes from bindings, so whoever alters them gains nothing.
_X5CHAIN, _ENCRYPTION_CHAIN = 33, -65610

_T = TypeVar("_T", bound=msgspec.Struct)


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    """The authentication information a pair header signs; times are Unix seconds.

    ``kek_digest`` is what proves that the key exchange key came from the named sender.
    """

    sender: str
    receiver: str
    instance: bytes
    signing_cert: bytes
    encryption_cert: bytes
    kek_digest: bytes
    epoch: int
    not_before: int
    not_after: int
    suite: int
    nonce: bytes

    def encode(self) -> bytes:
        """Return the deterministic encoding."""
        return encode(dict(enumerate((getattr(self, name) for name in self.__struct_fields__), 1)))


class Certificates(msgspec.Struct, frozen=True):
    """The certificates a service presents, DER, each followed by those between it and its issuer; may be empty."""

    signing: tuple[bytes, ...] = ()
    encryption: tuple[bytes, ...] = ()

    def bucket(self) -> dict[int, object]:
        """Return the unprotected bucket that carries them."""
        chains = {_X5CHAIN: self.signing, _ENCRYPTION_CHAIN: self.encryption}
        return {label: list(chain) for label, chain in chains.items() if chain}


NOTHING_PRESENTED = Certificates()


class PairHeader(msgspec.Struct, frozen=True):
    """COSE_Sign1 over the authentication information."""

    protected: bytes
    payload: bytes
    signature: bytes
    authentication: Authentication
    key_id: bytes
    certificates: Certificates

    def signed(self) -> bytes:
        """Return the Sig_structure that the signature covers (RFC 9052 section 4.4)."""
        return signed_bytes(self.protected, self.payload)


class KekHeader(msgspec.Struct, frozen=True, kw_only=True):
    """How the key exchange key travels; ``ephemeral`` is the uncompressed P-256 point of ECDH suites, else empty."""

    algorithm: int
    receiver_cert: bytes
    size: int
    epoch: int
    not_after: int
    sender: str
    receiver: str
    ephemeral: bytes
    wrapped: bytes

    def encode(self) -> bytes:
        """Return the header; its digest is the identity of the key."""
        protected = encode(
            {
                _ALG: self.algorithm,
                _KID: self.receiver_cert,
                -65602: self.size,
                -65603: self.epoch,
                -65604: self.not_after,
                -65605: self.sender,
                -65606: self.receiver,
            }
        )
        unprotected = {_EPHEMERAL: self.ephemeral} if self.ephemeral else {}
        return encode([protected, unprotected, self.wrapped])


class DskHeader(msgspec.Struct, frozen=True, kw_only=True):
    """How a session key travels: for one dialog, direction and generation, under one key exchange key.

    ``wrapped`` is the session key, or where tokens must hold them the keys of body, tags and system tags one by one.
    """

    kek_id: bytes
    dialog: bytes
    direction: int
    generation: int
    first_seq: int
    cause: int
    wrapped: bytes | tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the header; its digest is the identity of the session key."""
        protected = encode(
            {
                1: self.kek_id,
                2: self.dialog,
                3: self.direction,
                4: self.generation,
                5: self.first_seq,
                6: int(self.cause),
            }
        )
        return encode([protected, self.wrapped if isinstance(self.wrapped, bytes) else list(self.wrapped)])


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver's signed statement that key exchange keys must be encrypted to another certificate (section 10)."""

    sender: str
    receiver: str
    dialog: bytes
    encryption_cert: bytes
    issued_at: int

    def encode(self) -> bytes:
        """Return the deterministic encoding."""
        return encode(dict(enumerate((getattr(self, name) for name in self.__struct_fields__), 1)))


class SignedNotice(msgspec.Struct, frozen=True):
    """COSE_Sign1 over a notice."""

    protected: bytes
    payload: bytes
    signature: bytes
    notice: Notice
    key_id: bytes
    algorithm: int
    certificates: Certificates

    def signed(self) -> bytes:
        """Return the Sig_structure that the signature covers."""
        return signed_bytes(self.protected, self.payload)


def kek_id(header: bytes) -> bytes:
    """Return the identity of a key exchange key: 16 bytes of SHA-256 over its whole header."""
    return hashlib.sha256(header).digest()[:ID_SIZE]


def dsk_id(header: bytes) -> bytes:
    """Return the identity of a session key: 16 bytes of SHA-256 over its whole header."""
    return hashlib.sha256(header).digest()[:ID_SIZE]


def signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure of COSE_Sign1 without external data."""
    return encode(["Signature1", protected, b"", payload])


def protected_bytes(algorithm: int, key_id: bytes) -> bytes:
    """Return the protected bucket of a signature; the protocol version is critical."""
    return encode({_ALG: algorithm, _CRIT: [_VERSION], _KID: key_id, _VERSION: 1})


def sign1(
    protected: bytes, payload: bytes, signature: bytes, certificates: Certificates = NOTHING_PRESENTED
) -> bytes:
    """Return COSE_Sign1 with the certificates its signer presents."""
    return encode([protected, certificates.bucket(), payload, signature])


def parse_pair(data: bytes) -> PairHeader:
    """Read a pair header. Raises PacketError for any other shape, or an algorithm that is not the suite's."""
    protected, payload, signature, key_id, algorithm, certificates = _parse_sign1(data)
    authentication = _struct(decode(payload), Authentication)
    if len(authentication.instance) != ID_SIZE or len(authentication.nonce) != ID_SIZE:
        raise PacketError("identifier of the wrong size")
    for digest in (authentication.signing_cert, authentication.encryption_cert, authentication.kek_digest):
        _sized(digest, HASH_SIZE)
    if suite_of(authentication.suite).signature_alg != algorithm or key_id != authentication.signing_cert:
        raise PacketError("signature algorithm or key does not fit")
    return PairHeader(protected, payload, signature, authentication, key_id, certificates)


def parse_notice(data: bytes) -> SignedNotice:
    """Read a signed notice. Raises PacketError for any other shape."""
    protected, payload, signature, key_id, algorithm, certificates = _parse_sign1(data)
    notice = _struct(decode(payload), Notice)
    _sized(notice.dialog, ID_SIZE)
    _sized(notice.encryption_cert, HASH_SIZE)
    return SignedNotice(protected, payload, signature, notice, key_id, algorithm, certificates)


def parse_kek(data: bytes) -> KekHeader:
    """Read a KEK header. Raises PacketError for any other shape."""
    item = _items(data, 3)
    protected, unprotected, wrapped = item
    fields = decode(_sized(protected))
    labels = {_ALG, _KID, -65602, -65603, -65604, -65605, -65606}
    if not isinstance(fields, dict) or set(fields) != labels or not isinstance(unprotected, dict):
        raise PacketError("malformed KEK header")
    if not set(unprotected) <= {_EPHEMERAL}:
        raise PacketError("malformed KEK header")
    return KekHeader(
        algorithm=_integer(fields[_ALG], -MAX_SEQ),
        receiver_cert=_sized(fields[_KID], HASH_SIZE),
        size=_integer(fields[-65602]),
        epoch=_integer(fields[-65603]),
        not_after=_integer(fields[-65604]),
        sender=_text(fields[-65605]),
        receiver=_text(fields[-65606]),
        ephemeral=_sized(unprotected[_EPHEMERAL], 65) if unprotected else b"",
        wrapped=_sized(wrapped),
    )


def parse_dsk(data: bytes) -> DskHeader:
    """Read a session key header. Raises PacketError for any other shape."""
    protected, wrapped = _items(data, 2)
    fields = decode(_sized(protected))
    if not isinstance(fields, dict) or set(fields) != {1, 2, 3, 4, 5, 6}:
        raise PacketError("malformed session key header")
    header = DskHeader(
        kek_id=_sized(fields[1], ID_SIZE),
        dialog=_sized(fields[2], ID_SIZE),
        direction=_integer(fields[3]),
        generation=_integer(fields[4], 1),
        first_seq=_integer(fields[5], 1),
        cause=_integer(fields[6], 1),
        wrapped=_parts(wrapped) if isinstance(wrapped, list) else _sized(wrapped),
    )
    if header.direction > 1 or header.cause > 7:
        raise PacketError("malformed session key header")
    return header


def _parts(wrapped: list[object]) -> tuple[bytes, ...]:
    if len(wrapped) != SPLIT_PARTS:
        raise PacketError("malformed session key header")
    return tuple(map(_sized, wrapped))


def _parse_sign1(data: bytes) -> tuple[bytes, bytes, bytes, bytes, int, Certificates]:
    protected, unprotected, payload, signature = _items(data, 4)
    fields = decode(_sized(protected))
    if not isinstance(fields, dict) or set(fields) != {_ALG, _CRIT, _KID, _VERSION}:
        raise PacketError("malformed signature header")
    if fields[_CRIT] != [_VERSION] or fields[_VERSION] != 1:
        raise PacketError("critical header not understood")
    return (
        _sized(protected),
        _sized(payload),
        _sized(signature),
        _sized(fields[_KID], HASH_SIZE),
        _integer(fields[_ALG], -MAX_SEQ),
        _certificates(unprotected),
    )


def _certificates(bucket: object) -> Certificates:
    if not isinstance(bucket, dict) or not set(bucket) <= {_X5CHAIN, _ENCRYPTION_CHAIN}:
        raise PacketError("malformed signature header")
    for chain in bucket.values():
        if not isinstance(chain, list) or not 0 < len(chain) <= MAX_CHAIN:
            raise PacketError("malformed certificate chain")
    signing, encryption = (tuple(map(_sized, bucket.get(label, ()))) for label in (_X5CHAIN, _ENCRYPTION_CHAIN))
    return Certificates(signing, encryption)


def _items(data: bytes, count: int) -> list[object]:
    if len(data) > MAX_HEADERS:
        raise PacketError("header too large")
    item = decode(data)
    if not isinstance(item, list) or len(item) != count:
        raise PacketError("header with the wrong number of parts")
    return item


def _struct(fields: object, into: type[_T]) -> _T:
    names = into.__struct_fields__
    if not isinstance(fields, dict) or set(fields) != set(range(1, len(names) + 1)):
        raise PacketError("signed fields are not the expected ones")
    named = {name: fields[number] for number, name in enumerate(names, 1)}
    for value in named.values():
        if isinstance(value, str):
            _text(value)
        elif type(value) is int:
            _integer(value)
    for field in msgspec.structs.fields(into):
        if type(named[field.name]) is not field.type:  # msgspec would read text as base64 where bytes belong
            raise PacketError("signed field of the wrong type")
    try:
        return msgspec.convert(named, into)
    except msgspec.ValidationError as error:
        raise PacketError("signed field of the wrong type") from error


def _sized(value: object, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or not value or (size is not None and len(value) != size):
        raise PacketError("byte string of the wrong size")
    return value


def _integer(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MAX_SEQ:
        raise PacketError("number out of range")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_NAME:
        raise PacketError("name of the wrong type or size")
    return value

"""Process-local session keys: the one module in which session-key bytes exist outside a token.

MSL puts the session keys into the master token, encrypted under token keys. With ``host`` residency they are
process-local while in use; everything outside this module sees handles.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)

from hsm_msl.errors import DataRejectedError, ErrorCode, KeyPolicyError, MslError, UsageError
from hsm_msl.ports import (
    AesKey,
    KeyForm,
    KeyTransport,
    MacAlgorithm,
    MacKey,
    RandomBytes,
    Sealing,
    SessionData,
    SymmetricKeys,
    WrappingKey,
)
from hsm_msl.wire import binary, codec, fields, jose

_AES_BYTES = (16, 24, 32)
_ENCRYPTION_BYTES = 16
_MAC_BYTES = 32
_SIGNATURE_ALGORITHMS = {"HmacSHA256": MacAlgorithm.HMAC_SHA256, "AESCmac": MacAlgorithm.AES_CMAC}
_SIGNATURE_NAMES = {algorithm: name for name, algorithm in _SIGNATURE_ALGORITHMS.items()}


class _Local:
    """Keep key bytes out of representations and pickles."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("keys are not serialisable")


def _aes(value: bytes) -> algorithms.AES:
    # The library also takes the double length of XTS, which no port of ours means.
    if len(value) not in _AES_BYTES:
        raise ValueError("not the size of an AES key")
    return algorithms.AES(value)


class LocalAesKey(_Local):
    """An AES key in this process, 16, 24 or 32 bytes. Raises ValueError for other sizes."""

    __slots__ = ("_algorithm",)

    def __init__(self, value: bytes) -> None:
        self._algorithm = _aes(value)

    def _crypt(self, mode: modes.Mode, data: bytes, *, encrypt: bool) -> bytes:
        cipher: Cipher[Any] = Cipher(self._algorithm, mode)
        context = cipher.encryptor() if encrypt else cipher.decryptor()
        return context.update(data) + context.finalize()

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks, each on its own."""
        return self._crypt(modes.ECB(), data, encrypt=True)  # noqa: S305 - a primitive the protocol's modules name

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Invert ``encrypt_ecb``."""
        return self._crypt(modes.ECB(), data, encrypt=False)  # noqa: S305 - as above

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks; ``update`` gives them all, so nothing is left to finalise."""
        return Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(data)

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Invert ``encrypt_cbc``."""
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(data)

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode."""
        return self._crypt(modes.CTR(counter), data, encrypt=True)

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag."""
        return AESGCM(self._algorithm.key).encrypt(nonce, data, associated)

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Invert ``encrypt_gcm``. Raises DataRejectedError when the tag does not fit."""
        try:
            return AESGCM(self._algorithm.key).decrypt(nonce, data, associated)
        except Exception as error:
            raise DataRejectedError("authentication tag does not fit") from error


class LocalHmacKey(_Local):
    """An HMAC-SHA256 key in this process; the keyed state is copied for each tag, which is twice as fast."""

    __slots__ = ("_keyed", "_value")

    def __init__(self, value: bytes) -> None:
        if not value:
            raise ValueError("empty MAC key")
        self._value = value
        self._keyed = HMAC(value, SHA256())

    @property
    def algorithm(self) -> MacAlgorithm:
        """HMAC-SHA256."""
        return MacAlgorithm.HMAC_SHA256

    def sign(self, data: bytes) -> bytes:
        """Return the 32-byte tag."""
        keyed = self._keyed.copy()
        keyed.update(data)
        return keyed.finalize()

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell in constant time whether the tag fits."""
        keyed = self._keyed.copy()
        keyed.update(data)
        return hmac.compare_digest(keyed.finalize(), tag)


class LocalCmacKey(_Local):
    """An AES-CMAC key in this process, 16, 24 or 32 bytes. Raises ValueError for other sizes."""

    __slots__ = ("_cipher",)

    def __init__(self, value: bytes) -> None:
        self._cipher = _aes(value)

    @property
    def algorithm(self) -> MacAlgorithm:
        """AES-CMAC."""
        return MacAlgorithm.AES_CMAC

    def sign(self, data: bytes) -> bytes:
        """Return the 16-byte tag."""
        mac = CMAC(self._cipher)
        mac.update(data)
        return mac.finalize()

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell in constant time whether the tag fits."""
        return hmac.compare_digest(self.sign(data), tag)


class LocalWrappingKey(_Local):
    """A key-encrypting key in this process, 16, 24 or 32 bytes. Raises ValueError for other sizes."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(algorithms.AES(value).key)

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes. Raises DataRejectedError for a length RFC 3394, or 5649 with ``pad``, does not take."""
        try:
            return aes_key_wrap_with_padding(self._value, data) if pad else aes_key_wrap(self._value, data)
        except ValueError:
            raise DataRejectedError("length cannot be wrapped") from None

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``. Raises DataRejectedError when the integrity check fails or the length is wrong."""
        try:
            return aes_key_unwrap_with_padding(self._value, wrapped) if pad else aes_key_unwrap(self._value, wrapped)
        except (InvalidUnwrap, ValueError):
            raise DataRejectedError("wrapped key is damaged or of another key") from None

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a process-local session key. Raises KeyPolicyError for one that is not."""
        return self.wrap(_encryption_bytes(key) if isinstance(key, AesKey) else _mac_bytes(key))

    def unwrap_aes(self, wrapped: bytes) -> LocalAesKey:
        """Unwrap into a process-local AES key. Raises DataRejectedError, also for a size AES does not have."""
        return _sized(LocalAesKey, self.unwrap(wrapped))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a process-local MAC key. Raises as ``unwrap_aes``; KeyPolicyError for another algorithm."""
        if algorithm not in _SIGNATURE_NAMES:
            raise KeyPolicyError(f"session keys do not use {algorithm.value}")
        value = self.unwrap(wrapped)
        return _sized(LocalCmacKey, value) if algorithm is MacAlgorithm.AES_CMAC else LocalHmacKey(value)

    def unwrap_wrapping(self, wrapped: bytes) -> LocalWrappingKey:
        """Unwrap into a process-local key-encrypting key. Raises as ``unwrap_aes``."""
        return _sized(LocalWrappingKey, self.unwrap(wrapped))


_K = TypeVar("_K", LocalAesKey, LocalCmacKey, LocalWrappingKey)


def _sized(kind: Callable[[bytes], _K], value: bytes) -> _K:
    try:
        return kind(value)
    except ValueError:
        raise DataRejectedError("the unwrapped key has a size AES does not have") from None


def _local_mac(value: bytes, algorithm: MacAlgorithm) -> MacKey:
    return LocalCmacKey(value) if algorithm is MacAlgorithm.AES_CMAC else LocalHmacKey(value)


def _encryption_bytes(key: AesKey | None) -> bytes:
    if not isinstance(key, LocalAesKey):
        raise KeyPolicyError("the session encryption key is not process-local and cannot be written")
    return bytes(key._algorithm.key)


def _mac_bytes(key: MacKey | None) -> bytes:
    if isinstance(key, LocalHmacKey):
        return key._value
    if isinstance(key, LocalCmacKey):
        return bytes(key._cipher.key)
    raise KeyPolicyError("the session MAC key is not process-local and cannot be written")


_ENCRYPTION_JWK = jose.Jwk(alg="A128CBC", use="enc")
_MAC_JWK = jose.Jwk(alg="HS256", use="sig")
_WRAPPING_JWK = jose.Jwk(alg="A128KW", use="wrap")
_KEY_OPS = {"enc": ("encrypt", "decrypt"), "sig": ("sign", "verify"), "wrap": ("unwrapKey", "wrapKey")}


def _write(value: bytes, form: KeyForm, jwk: jose.Jwk) -> bytes:
    if form is KeyForm.RAW:
        return value
    if form is KeyForm.JWK_KEY_OPS:
        return jose.encode_jwk(replace(jwk, k=value, use=None, key_ops=_KEY_OPS[jwk.use or ""]))
    return jose.encode_jwk(replace(jwk, k=value))


def _read(text: bytes, form: KeyForm, malformed: ErrorCode) -> bytes:
    # The JavaScript stack writes a JWK where the mechanism says raw bytes (msl-schemes section 11, row 1).
    if form is KeyForm.RAW and not (text.startswith(b"{") and len(text) > _MAC_BYTES):
        return text
    jwk = jose.decode_jwk(text, malformed)
    if jwk.alg is None:
        raise MslError(ErrorCode.SESSION_KEY_CREATION_FAILURE, "alg: missing, so nobody knows what the key is")
    return jwk.k or b""


class HostVault:
    """Session keys as process-local handles (``host`` residency).

    Args:
        random: source of fresh keys; give it the token's generator where keys should come from there.
    """

    __slots__ = ("_random",)

    def __init__(self, random: RandomBytes) -> None:
        self._random = random

    def generate(self) -> SymmetricKeys:
        """Return a fresh AES-128 key and a fresh 32-byte HMAC-SHA256 key."""
        return self.derive(self._random(_ENCRYPTION_BYTES + _MAC_BYTES))

    def derive(self, digest: bytes) -> SymmetricKeys:
        """Split 48 bytes into an AES-128 key and an HMAC-SHA256 key (msl-schemes section 7.2)."""
        return SymmetricKeys(LocalAesKey(digest[:_ENCRYPTION_BYTES]), LocalHmacKey(digest[_ENCRYPTION_BYTES:]))

    def export(self, keys: SymmetricKeys, transport: KeyTransport, form: KeyForm) -> tuple[bytes, bytes]:
        """Write each key in ``form`` and wrap it for the peer.

        Raises:
            KeyPolicyError: a key is not process-local.
            MslError: the transport cannot carry the key.
        """
        encryption = _write(_encryption_bytes(keys.encryption), form, _ENCRYPTION_JWK)
        mac = _write(_mac_bytes(keys.mac), form, _MAC_JWK)
        return transport.wrap(encryption), transport.wrap(mac)

    def receive(
        self,
        encryption: bytes,
        mac: bytes,
        transport: KeyTransport,
        form: KeyForm,
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,
    ) -> SymmetricKeys:
        """Unwrap and read both keys.

        Raises:
            MslError: the transport or the key's form is refused, ``malformed`` for a text that is no object;
                SESSION_KEY_CREATION_FAILURE for unusable sizes.
        """
        try:
            return SymmetricKeys(
                LocalAesKey(_read(transport.unwrap(encryption), form, malformed)),
                LocalHmacKey(_read(transport.unwrap(mac), form, malformed)),
            )
        except ValueError:
            # The library's text may quote the value's size, never needed by a peer.
            raise MslError(ErrorCode.SESSION_KEY_CREATION_FAILURE) from None

    def generate_wrapping(self) -> WrappingKey:
        """Return a fresh AES-128 key-encrypting key of a key ladder."""
        return LocalWrappingKey(self._random(_ENCRYPTION_BYTES))

    def export_wrapping(self, key: WrappingKey, transport: KeyTransport, form: KeyForm, key_id: str = "") -> bytes:
        """Write a ladder's key in ``form``, with a key ID unless it is empty, and wrap it.

        Raises:
            KeyPolicyError: the key is not process-local.
            MslError: the transport cannot carry the key.
        """
        if not isinstance(key, LocalWrappingKey):
            raise KeyPolicyError("the ladder's key is not process-local and cannot be written")
        return transport.wrap(_write(key._value, form, replace(_WRAPPING_JWK, kid=key_id or None)))

    def receive_wrapping(
        self,
        wrapped: bytes,
        transport: KeyTransport,
        form: KeyForm,
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,
    ) -> WrappingKey:
        """Unwrap and read a ladder's key. Raises MslError as ``receive``."""
        try:
            return LocalWrappingKey(_read(transport.unwrap(wrapped), form, malformed))
        except ValueError:
            raise MslError(ErrorCode.SESSION_KEY_CREATION_FAILURE) from None

    def seal(self, data: SessionData, context: Sealing) -> bytes:
        """Encrypt the session data of a master token (msl-wire section 8.1).

        Raises:
            KeyPolicyError: a key is not process-local.
            BackendError: the token key operation did not happen.
        """
        mac = binary.encode(_mac_bytes(data.keys.mac))
        algorithm = data.keys.mac.algorithm if data.keys.mac else MacAlgorithm.HMAC_SHA256
        session: dict[str, object] = {
            "signaturealgorithm": _SIGNATURE_NAMES[algorithm],
            "encryptionalgorithm": "AES",
            "hmackey": mac,
            "identity": data.identity,
            "signaturekey": mac,
            "encryptionkey": binary.encode(_encryption_bytes(data.keys.encryption)),
        }
        if data.issuer_data is not None:
            session["issuerdata"] = data.issuer_data
        return context.encrypt(codec.encode(session))

    def open(self, sealed: bytes, context: Sealing) -> SessionData:
        """Decrypt and read the session data of a verified master token.

        Raises:
            MslError: a crypto code, MASTERTOKEN_SESSIONDATA_PARSE_ERROR, UNIDENTIFIED_ALGORITHM,
                MASTERTOKEN_KEY_CREATION_ERROR.
            BackendError: the token key operation did not happen.
        """
        failure = ErrorCode.MASTERTOKEN_SESSIONDATA_PARSE_ERROR
        session = codec.decode(context.decrypt(sealed), failure)
        identity = fields.string(session, "identity", failure)
        encryption = fields.binary(session, "encryptionkey", failure)
        cipher = fields.optional_string(session, "encryptionalgorithm", failure)
        mac = fields.binary(session, "signaturekey" if "signaturekey" in session else "hmackey", failure)
        name = fields.optional_string(session, "signaturealgorithm", failure)
        issuer_data: Mapping[str, object] | None = fields.optional_mapping(session, "issuerdata", failure)
        algorithm = MacAlgorithm.HMAC_SHA256 if name is None else _SIGNATURE_ALGORITHMS.get(name)
        if cipher not in (None, "AES") or algorithm is None:
            raise MslError(ErrorCode.UNIDENTIFIED_ALGORITHM)
        try:
            keys = SymmetricKeys(LocalAesKey(encryption), _local_mac(mac, algorithm))
        except ValueError:
            raise MslError(ErrorCode.MASTERTOKEN_KEY_CREATION_ERROR) from None
        return SessionData(identity, keys, issuer_data)

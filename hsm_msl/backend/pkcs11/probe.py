"""What a token really does: every operation the service may ask for is tried once and compared with plain software.

Trials use session keys only, so nothing on the token changes. Where a token has no session key pairs (a TPM), a
signature of a key it holds is tried instead.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.decryption import TokenDecryptionKey
from hsm_msl.backend.pkcs11.errors import translate
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.rsa_transport import mechanism_for
from hsm_msl.backend.pkcs11.rsa_wrapping import TokenRsaWrappingKey
from hsm_msl.backend.pkcs11.samples import Samples, as_token_object, discard
from hsm_msl.backend.pkcs11.signing import TokenSigningKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.backend.software import (
    SoftwareAesKey,
    SoftwareDhKey,
    SoftwareEcdhKey,
    SoftwareWrappingKey,
    software_mac_key,
)
from hsm_msl.backend.software.asymmetric import RSA_PADDINGS
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import (
    BackendError,
    ConfigurationError,
    DataRejectedError,
    HsmMslError,
    KeyPolicyError,
    MechanismUnsupportedError,
)
from hsm_msl.ports import MacAlgorithm, RsaPadding, SignatureScheme

_HASHED = "hashed on the host"
_IV = bytes(range(16))
_DATA = bytes(range(256)) * 4
_TEXT = b"hsm-msl tries its token"
_OAKLEY_5 = int(  # RFC 3526 section 2, 1536 bits: long enough to try, short enough not to wait for
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF",
    16,
)


class Ability(Enum):
    """How a token does something."""

    NATIVE = "yes"
    FALLBACK = "by fallback"
    NO = "no"
    WRONG = "WRONG"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One trial.

    Attributes:
        name: what was tried.
        ability: how it went.
        how: the mechanism or the fallback, or why not; one sentence for people.
        mechanisms: names without CKM_ of what the trial was about; useless to the service when it did not go well.
    """

    name: str
    ability: Ability
    how: str
    mechanisms: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether the service can use it."""
        return self.ability in (Ability.NATIVE, Ability.FALLBACK)


class WrongResultError(HsmMslError):
    """A token gave a result that plain software does not agree with."""


class _Way(NamedTuple):
    """How a trial went; what it leaves open follows from the mechanisms the token has."""

    how: str = ""
    native: bool | None = None


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    mechanisms: tuple[Mechanism, ...]  # the first one is the native way
    run: Callable[[Token], _Way]  # or raises
    fallback: str = ""  # what is done without the native way


def probe(token: Token) -> tuple[Finding, ...]:
    """Try everything once.

    Args:
        token: the token, logged in.

    Returns:
        A finding for every trial, in a fixed order. No trial raises: what went wrong is in its finding.
    """
    return tuple(_try(token, trial) for trial in _TRIALS)


def usable_mechanisms(token: Token, findings: tuple[Finding, ...]) -> frozenset[str]:
    """Return the token's mechanisms without those whose trial did not go well.

    Args:
        token: the token.
        findings: from ``probe``.
    """
    useless = {name for finding in findings if not finding.works for name in finding.mechanisms}
    proved = {name for finding in findings if finding.works for name in finding.mechanisms}
    return token.mechanisms() - (useless - proved)


def _try(token: Token, trial: _Trial) -> Finding:
    names = tuple(mechanism.name for mechanism in trial.mechanisms)
    native = not trial.mechanisms or trial.mechanisms[0] in token.connection.mechanisms
    try:
        how, told = trial.run(token)
        native = native if told is None else told
        ability = Ability.NATIVE if native else Ability.FALLBACK
        return Finding(trial.name, ability, how or (names[0] if native else trial.fallback), names)
    except (MechanismUnsupportedError, KeyPolicyError) as error:
        return Finding(trial.name, Ability.NO, _reason(error), names)
    except (WrongResultError, DataRejectedError) as error:
        return Finding(trial.name, Ability.WRONG, _reason(error), names)
    except BackendError as error:
        return Finding(trial.name, Ability.FAILED, _reason(error), names)
    except PKCS11Error as error:
        return Finding(trial.name, Ability.FAILED, _reason(translate(error, trial.name)), names)


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


def _agree(*pairs: tuple[object, object]) -> None:
    if any(found != expected for found, expected in pairs):
        raise WrongResultError("the result is not what software makes of the same key and data")


def _aes(method: str) -> Callable[[Token], _Way]:
    first = {"cbc": (_IV,), "ctr": (_IV,)}.get(method, ())

    def run(token: Token) -> _Way:
        target, value = Samples(token.connection).secret(KeyType.AES, 16, session_keys.DATA_KEY)
        key = TokenAesKey(target)
        if method == "gcm":
            sealed = key.encrypt_gcm(_IV[:12], _DATA, _TEXT)
            _agree((key.decrypt_gcm(_IV[:12], sealed, _TEXT), _DATA))
            if value is not None:
                _agree((sealed, SoftwareAesKey(value).encrypt_gcm(_IV[:12], _DATA, _TEXT)))
        else:
            there, back = ("crypt_ctr",) * 2 if method == "ctr" else (f"encrypt_{method}", f"decrypt_{method}")
            sealed = getattr(key, there)(*first, _DATA)
            _agree((getattr(key, back)(*first, sealed), _DATA))
            if value is not None:
                _agree((sealed, getattr(SoftwareAesKey(value), there)(*first, _DATA)))
        discard(target)
        return _Way()

    return run


def _mac(algorithm: MacAlgorithm, size: int) -> Callable[[Token], _Way]:
    def run(token: Token) -> _Way:
        key_type = session_keys.mac_key_type(algorithm)
        target, value = Samples(token.connection).secret(key_type, size, session_keys.MAC_KEY)
        tag = TokenMacKey(target, algorithm).sign(_DATA)
        if value is not None:
            _agree((tag, software_mac_key(value, algorithm).sign(_DATA)))
        discard(target)
        return _Way()

    return run


def _wrap(token: Token, *, pad: bool) -> _Way:
    profile = token.connection.profile
    native = Mechanism.AES_KEY_WRAP in token.connection.mechanisms
    if pad and profile.padded_wrap not in token.connection.mechanisms:
        native = False
    uses = session_keys.WRAPPING_KEY if native else session_keys.DATA_KEY
    target, value = Samples(token.connection).secret(KeyType.AES, 16, uses)
    key = TokenWrappingKey(target, by_blocks=not native)
    wrapped = key.wrap(_DATA[:32], pad=pad)
    _agree((key.unwrap(wrapped, pad=pad), _DATA[:32]))
    if value is not None:
        _agree((wrapped, SoftwareWrappingKey(value).wrap(_DATA[:32], pad=pad)))
    discard(target)
    if not native:
        return _Way("by blocks over AES-ECB, with a key for encryption", native=False)
    if not pad or profile.padded_wrap is None:
        return _Way("AES_KEY_WRAP", native=True)
    return _Way(
        profile.padded_wrap.name + ("" if profile.ragged_key_wrap else ", whole units of 8 bytes"), native=True
    )


def _keep(token: Token) -> _Way:
    """Pack two session keys and open them again: by AES key wrap, or under RSA."""
    samples = Samples(token.connection)
    key: TokenWrappingKey | TokenRsaWrappingKey
    native = Mechanism.AES_KEY_WRAP in token.connection.mechanisms
    if native:
        target, _ = samples.secret(KeyType.AES, 16, session_keys.WRAPPING_KEY)
        key = TokenWrappingKey(target)
    else:
        target = samples.rsa(Attribute.UNWRAP)
        key = TokenRsaWrappingKey(as_token_object(target))
    aes, mac = token.generate_aes(16), token.generate_mac(32)
    again = key.unwrap_aes(key.wrap_key(aes)), key.unwrap_mac(key.wrap_key(mac), MacAlgorithm.HMAC_SHA256)
    _agree((again[0].encrypt_ecb(_DATA), aes.encrypt_ecb(_DATA)), (again[1].sign(_DATA), mac.sign(_DATA)))
    discard(target)
    return _Way()


def _generate(kind: str) -> Callable[[Token], _Way]:
    def run(token: Token) -> _Way:
        if kind == "aes":
            _agree((len(token.generate_aes(16).encrypt_ecb(_DATA)), len(_DATA)))
        else:
            _agree((len(token.generate_mac(32).sign(_DATA)), 32))
        return _Way()

    return run


def _sign(scheme: SignatureScheme, curve: ec.EllipticCurve | None = None) -> Callable[[Token], _Way]:
    def run(token: Token) -> _Way:
        key, tried = _signer(token, curve)
        try:
            public = PublicKey(key.public_key)
        except ConfigurationError as error:
            raise WrongResultError(f"the public key: {error}") from None
        if not public.verify(_TEXT, key.sign(_TEXT, scheme), scheme):
            raise WrongResultError("the signature does not verify")
        return _Way("; ".join(part for part in (_HASHED if curve else "", tried) if part))

    return run


def _signer(token: Token, curve: ec.EllipticCurve | None) -> tuple[TokenSigningKey, str]:
    samples = Samples(token.connection)
    try:
        target = samples.rsa(Attribute.SIGN) if curve is None else samples.ec(curve)
        return TokenSigningKey(as_token_object(target)), ""
    except (BackendError, PKCS11Error):
        found = samples.existing(KeyType.RSA if curve is None else KeyType.EC)
        if found is None:
            raise MechanismUnsupportedError("the token makes no such session key, and holds none to try") from None
        label, identity = found
        return token.signing_key(label, id=identity or None), f"tried with the key {label!r} on the token"


def _decrypt(padding: RsaPadding) -> Callable[[Token], _Way]:
    def run(token: Token) -> _Way:
        mechanism_for(token.connection, padding)
        target = Samples(token.connection).rsa(Attribute.DECRYPT)
        key = TokenDecryptionKey(as_token_object(target))
        public = load_der_public_key(key.public_key)
        if not isinstance(public, rsa.RSAPublicKey):
            raise WrongResultError("an RSA key shows a public half of another kind")
        _agree((key.decrypt(public.encrypt(_TEXT, RSA_PADDINGS[padding]), padding), _TEXT))
        discard(target)
        return _Way()

    return run


def _ecdh(token: Token) -> _Way:
    own, peer = token.ephemeral_ecdh(ec.SECP256R1()), SoftwareEcdhKey(ec.generate_private_key(ec.SECP256R1()))
    _agree((own.agree(peer.public_value), peer.agree(own.public_value)))
    own.close()
    return _Way()


def _dh(token: Token) -> _Way:
    own, peer = token.ephemeral_dh(_OAKLEY_5, 2), SoftwareDhKey(_OAKLEY_5, 2, secrets.token_bytes)
    _agree((own.agree(peer.public_value), peer.agree(own.public_value)))
    own.close()
    return _Way()


def _random(token: Token) -> _Way:
    if token.random(32) == token.random(32):
        raise WrongResultError("two draws are equal")
    return _Way("C_GenerateRandom")


_M = Mechanism
_TRIALS: tuple[_Trial, ...] = (
    _Trial("random bytes", (), _random),
    _Trial("AES-ECB", (_M.AES_ECB,), _aes("ecb")),
    _Trial("AES-CBC", (_M.AES_CBC, _M.AES_ECB), _aes("cbc"), "chained by hand over AES-ECB"),
    _Trial("AES-CTR", (_M.AES_CTR, _M.AES_ECB), _aes("ctr"), "counters encrypted with AES-ECB"),
    _Trial("AES-GCM", (_M.AES_GCM,), _aes("gcm")),
    _Trial("HMAC-SHA1", (_M.SHA_1_HMAC,), _mac(MacAlgorithm.HMAC_SHA1, 20)),
    _Trial("HMAC-SHA256", (_M.SHA256_HMAC,), _mac(MacAlgorithm.HMAC_SHA256, 32)),
    _Trial("HMAC-SHA384", (_M.SHA384_HMAC,), _mac(MacAlgorithm.HMAC_SHA384, 48)),
    _Trial("HMAC-SHA512", (_M.SHA512_HMAC,), _mac(MacAlgorithm.HMAC_SHA512, 64)),
    _Trial("AES-CMAC", (_M.AES_CMAC,), _mac(MacAlgorithm.AES_CMAC, 16)),
    _Trial("AES key generation", (_M.AES_KEY_GEN,), _generate("aes")),
    _Trial("MAC key generation", (_M.GENERIC_SECRET_KEY_GEN,), _generate("mac")),
    _Trial("key wrap RFC 3394", (_M.AES_KEY_WRAP, _M.AES_ECB), lambda token: _wrap(token, pad=False)),
    _Trial(
        "key wrap RFC 5649",
        (_M.AES_KEY_WRAP_KWP, _M.AES_KEY_WRAP_PAD, _M.AES_ECB),
        lambda token: _wrap(token, pad=True),
    ),
    _Trial(
        "session keys packed in the token",
        (_M.AES_KEY_WRAP,),
        _keep,
        "under RSA-OAEP, for this service's own master tokens",
    ),
    _Trial(
        "RSA PKCS#1 v1.5 SHA-256 signature",
        (_M.SHA256_RSA_PKCS, _M.RSA_PKCS),
        _sign(SignatureScheme.RSA_PKCS1_SHA256),
        f"{_HASHED}, DigestInfo signed with RSA_PKCS",
    ),
    _Trial(
        "RSA-PSS SHA-256 signature",
        (_M.SHA256_RSA_PKCS_PSS, _M.RSA_PKCS_PSS),
        _sign(SignatureScheme.RSA_PSS_SHA256),
        f"{_HASHED}, signed with RSA_PKCS_PSS",
    ),
    _Trial(
        "ECDSA P-256 SHA-256 signature",
        (_M.ECDSA,),
        _sign(SignatureScheme.ECDSA_SHA256, ec.SECP256R1()),
    ),
    _Trial(
        "ECDSA P-384 SHA-384 signature",
        (_M.ECDSA,),
        _sign(SignatureScheme.ECDSA_SHA384, ec.SECP384R1()),
    ),
    _Trial("RSA-OAEP SHA-1 decryption", (_M.RSA_PKCS_OAEP,), _decrypt(RsaPadding.OAEP_SHA1)),
    _Trial("RSA-OAEP SHA-256 decryption", (_M.RSA_PKCS_OAEP,), _decrypt(RsaPadding.OAEP_SHA256)),
    _Trial("RSA PKCS#1 v1.5 decryption", (_M.RSA_PKCS,), _decrypt(RsaPadding.PKCS1)),
    _Trial("ECDH P-256", (_M.ECDH1_DERIVE,), _ecdh),
    _Trial("Diffie-Hellman 1536", (_M.DH_PKCS_DERIVE,), _dh),
)

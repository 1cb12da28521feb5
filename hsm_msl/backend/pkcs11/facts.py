"""What a token says of itself, and how fast it is: facts for people and monitoring, no trial of what it can do."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

from pkcs11 import Attribute, KeyType, TokenFlag

from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.errors import CryptokiError, translate
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.samples import Samples, as_token_object
from hsm_msl.backend.pkcs11.signing import TokenSigningKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import BackendError
from hsm_msl.ports import MacAlgorithm, SignatureScheme

_UNAVAILABLE = ctypes.c_ulong(-1).value  # CK_UNAVAILABLE_INFORMATION
_NO_LIMIT = 1 << 31  # some say CK_EFFECTIVELY_INFINITE (0), some a number nobody reaches
_KIB = bytes(1024)


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", ctypes.c_ulong),
        ("most_sessions", ctypes.c_ulong),
        ("sessions", ctypes.c_ulong),
        ("most_write_sessions", ctypes.c_ulong),
        ("write_sessions", ctypes.c_ulong),
        ("longest_pin", ctypes.c_ulong),
        ("shortest_pin", ctypes.c_ulong),
        ("public_memory", ctypes.c_ulong),
        ("free_public_memory", ctypes.c_ulong),
        ("private_memory", ctypes.c_ulong),
        ("free_private_memory", ctypes.c_ulong),
        ("hardware", ctypes.c_ubyte * 2),
        ("firmware", ctypes.c_ubyte * 2),
        ("time", ctypes.c_char * 16),
    )


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """The answer of C_GetTokenInfo, and what the profile knows.

    Attributes:
        module: path of the PKCS#11 library.
        label, manufacturer, model, serial, hardware, firmware: as the token has them.
        flags: names of the flags that are set.
        most_sessions: the most sessions of this process; None when the token names no limit.
        pin_lengths: shortest and longest PIN, in bytes.
        free_memory: bytes left for private objects; None when the token does not tell.
        profile: name of the vendor profile.
        tested: whether this project runs its suite on such tokens.
        source: where the profile is from.
        quirks: what an operator should know.
        mechanisms: names of the mechanisms in use.
        broken: mechanisms the token lists that are not used, because they do not work as the standard says.
    """

    module: str
    label: str
    manufacturer: str
    model: str
    serial: str
    hardware: str
    firmware: str
    flags: tuple[str, ...]
    most_sessions: int | None
    pin_lengths: tuple[int, int]
    free_memory: int | None
    profile: str
    tested: bool
    source: str
    quirks: tuple[str, ...]
    mechanisms: tuple[str, ...]
    broken: tuple[str, ...]


def token_facts(token: Token) -> TokenFacts:
    """Ask a token about itself.

    Args:
        token: the token, logged in.

    Raises:
        BackendUnavailableError: it gives no answer.
    """
    connection = token.connection
    info = _TokenInfo()
    try:
        slot = ctypes.c_ulong(connection.token.slot.slot_id)
        connection.module.cryptoki.call("C_GetTokenInfo", slot, ctypes.pointer(info))
    except CryptokiError as error:
        raise translate(error, f"asking token {token.name!r} about itself") from None
    profile = connection.profile
    listed = set(connection.token.slot.get_mechanisms())
    return TokenFacts(
        module=connection.module.path,
        label=_text(info.label),
        manufacturer=_text(info.manufacturer),
        model=_text(info.model),
        serial=_text(info.serial),
        hardware=".".join(map(str, info.hardware)),
        firmware=".".join(map(str, info.firmware)),
        flags=tuple(sorted(str(flag.name) for flag in TokenFlag if info.flags & flag)),
        most_sessions=info.most_sessions if 0 < info.most_sessions < _NO_LIMIT else None,
        pin_lengths=(info.shortest_pin, info.longest_pin),
        free_memory=None if info.free_private_memory == _UNAVAILABLE else info.free_private_memory,
        profile=profile.name,
        tested=profile.tested,
        source=profile.source,
        quirks=profile.quirks,
        mechanisms=tuple(sorted(token.mechanisms())),
        broken=tuple(sorted(mechanism.name for mechanism in profile.broken & listed)),
    )


@dataclass(frozen=True, slots=True)
class Speed:
    """How often per second one thread got an answer; None when the token cannot do it."""

    operation: str
    per_second: float | None


def measure(token: Token, seconds: float = 0.3) -> tuple[Speed, ...]:
    """Time the operations a server makes for a message, on session keys.

    Args:
        token: the token, logged in.
        seconds: how long each one is repeated.
    """
    samples = Samples(token.connection)

    def hmac() -> Callable[[], object]:
        target, _ = samples.secret(KeyType.GENERIC_SECRET, 32, session_keys.MAC_KEY)
        key = TokenMacKey(target, MacAlgorithm.HMAC_SHA256)
        return lambda: key.sign(_KIB)

    def cbc() -> Callable[[], object]:
        target, _ = samples.secret(KeyType.AES, 16, session_keys.DATA_KEY)
        key = TokenAesKey(target)
        return lambda: key.encrypt_cbc(_KIB[:16], _KIB)

    def rsa() -> Callable[[], object]:
        target = samples.rsa(Attribute.SIGN)
        key = TokenSigningKey(as_token_object(target))
        return lambda: key.sign(_KIB, SignatureScheme.RSA_PKCS1_SHA256)

    rows: tuple[tuple[str, Callable[[], Callable[[], object]]], ...] = (
        ("HMAC-SHA256 of 1 KiB", hmac),
        ("AES-CBC of 1 KiB", cbc),
        ("RSA-2048 signature", rsa),
        ("16 random bytes", lambda: lambda: token.random(16)),
    )
    return tuple(Speed(name, _rate(prepare, seconds)) for name, prepare in rows)


def _rate(prepare: Callable[[], Callable[[], object]], seconds: float) -> float | None:
    try:
        call = prepare()
        call()
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            call()
            count += 1
        return count / elapsed
    except BackendError:
        return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").rstrip(" \0")

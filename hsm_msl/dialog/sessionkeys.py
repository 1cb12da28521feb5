"""The keys of one direction of one dialog under one generation, derived from its session key (sections 2 and 4).

This module alone touches the bytes of session keys (residence ``host``); everything else holds its handles. Python
cannot promise to wipe memory: the derived keys live as long as the handle that a cache drops.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import PROTOCOL, SESSION_KEY_SIZE, TAG_SIZE
from hsm_msl.dialog.suites import BodyCipher, Suite

_BLOCK = 16
_CBC_TAG = 32


class KeyBinding:
    """What a session key is for; every derived key depends on all of it, so a moved header yields useless keys."""

    __slots__ = ("dialog", "direction", "generation", "initiator", "kek_id", "suite", "target")

    def __init__(
        self,
        dialog: bytes,
        initiator: str,
        target: str,
        direction: int,
        generation: int,
        kek_id: bytes,
        suite: Suite,
    ) -> None:
        self.dialog = dialog
        self.initiator = initiator
        self.target = target
        self.direction = direction
        self.generation = generation
        self.kek_id = kek_id
        self.suite = suite

    def salt(self, direction: int) -> bytes:
        """Return the KDF salt for a direction."""
        return hashlib.sha256(
            encode(
                [
                    PROTOCOL,
                    self.dialog,
                    self.initiator,
                    self.target,
                    direction,
                    self.generation,
                    self.kek_id,
                    self.suite.number,
                ]
            )
        ).digest()


class PacketKeys(Protocol):
    """What seals and opens the packets of one generation, here or in the token; see ``DirectionKeys``."""

    @property
    def fingerprint(self) -> str:
        """Tells two of them apart, for people and tests."""

    def seal(self, seq: int, frag: int, plaintext: bytes, core: bytes) -> bytes:
        """Return the sealed body of one fragment; a (seq, frag) pair is used once per key."""

    def open(self, seq: int, frag: int, body: bytes, core: bytes) -> bytes:
        """Invert ``seal``. Raises PacketError, the same for every cause."""

    def tag(self, covered: bytes) -> bytes:
        """Return the 16-byte tag of a packet in this direction."""

    def check(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a packet in this direction. Raises PacketError when it does not fit."""

    def system_tag(self, covered: bytes) -> bytes:
        """Return the tag of a system packet in the *other* direction, sent by a side without own session key."""

    def check_system(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a system packet from the other direction. Raises PacketError when it does not fit."""


class DirectionKeys:
    """Seals and opens bodies, makes and checks packet tags of one generation.

    Args:
        secret: the 32-byte session key; not kept.
        binding: what the key is for.

    Raises PacketError when the session key has another size.
    """

    __slots__ = ("_body", "_env", "_sys", "fingerprint")

    def __init__(self, secret: bytes, binding: KeyBinding) -> None:
        if len(secret) != SESSION_KEY_SIZE:
            raise PacketError("session key of the wrong size")
        extracted = HKDF.extract(hashes.SHA256(), binding.salt(binding.direction), secret)
        cipher = binding.suite.body
        key = _expand(extracted, b"sdp1 body key", cipher.key_size)
        iv = _expand(extracted, b"sdp1 body iv", 12 if cipher is not BodyCipher.A256CBC_HS512 else 32)
        self._body: _Gcm | _CbcHmac = _CbcHmac(key, iv) if cipher is BodyCipher.A256CBC_HS512 else _Gcm(key, iv)
        self._env = _expand(extracted, b"sdp1 env mac", 32)
        reverse = HKDF.extract(hashes.SHA256(), binding.salt(1 - binding.direction), secret)
        self._sys = _expand(reverse, b"sdp1 sys reply", 32)
        self.fingerprint = hashlib.sha256(b"sdp1 fingerprint" + self._env).hexdigest()[:16]

    @classmethod
    def split(cls, parts: tuple[bytes, ...], binding: KeyBinding) -> DirectionKeys:
        """Return the keys of a header that carries them one by one, for a token to hold (``residence``).

        Raises PacketError when one has another size.
        """
        cipher = binding.suite.body
        if cipher is BodyCipher.A256CBC_HS512 or [len(part) for part in parts] != split_sizes(binding.suite):
            raise PacketError("session key of the wrong size")
        keys = cls.__new__(cls)
        body, keys._env, keys._sys = parts
        keys._body = _Gcm(body, split_iv(binding))
        keys.fingerprint = hashlib.sha256(b"sdp1 fingerprint" + keys._env).hexdigest()[:16]
        return keys

    def __repr__(self) -> str:
        return f"DirectionKeys({self.fingerprint})"

    def seal(self, seq: int, frag: int, plaintext: bytes, core: bytes) -> bytes:
        """Return the sealed body of one fragment; a (seq, frag) pair is used once per key."""
        return self._body.seal(seq << 16 | frag, plaintext, core)

    def open(self, seq: int, frag: int, body: bytes, core: bytes) -> bytes:
        """Invert ``seal``. Raises PacketError, the same for every cause."""
        return self._body.open(seq << 16 | frag, body, core)

    def tag(self, covered: bytes) -> bytes:
        """Return the 16-byte tag of a packet in this direction."""
        return hmac.digest(self._env, covered, "sha256")[:TAG_SIZE]

    def check(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a packet in this direction. Raises PacketError when it does not fit."""
        if not hmac.compare_digest(self.tag(covered), tag):
            raise PacketError("packet is not authentic")

    def system_tag(self, covered: bytes) -> bytes:
        """Return the tag of a system packet in the *other* direction, sent by a side without own session key."""
        return hmac.digest(self._sys, covered, "sha256")[:TAG_SIZE]

    def check_system(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a system packet from the other direction. Raises PacketError when it does not fit."""
        if not hmac.compare_digest(self.system_tag(covered), tag):
            raise PacketError("packet is not authentic")


def split_sizes(suite: Suite) -> list[int]:
    """Return the sizes of the keys in a header that carries them one by one: body, tags, system tags."""
    return [suite.body.key_size, 32, 32]


def split_iv(binding: KeyBinding) -> bytes:
    """Return where the nonces of keys that were not derived begin; no secret, since each key has its own."""
    return hashlib.sha256(b"sdp1 body iv" + binding.salt(binding.direction)).digest()[:12]


def _expand(extracted: bytes, label: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), size, label).derive(extracted)


class _Gcm:
    """AES-GCM with nonce = IV XOR counter."""

    __slots__ = ("_aead", "_iv")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._iv = int.from_bytes(iv)

    def seal(self, counter: int, plaintext: bytes, core: bytes) -> bytes:
        return self._aead.encrypt((self._iv ^ counter).to_bytes(12), plaintext, core)

    def open(self, counter: int, body: bytes, core: bytes) -> bytes:
        try:
            return self._aead.decrypt((self._iv ^ counter).to_bytes(12), body, core)
        except (InvalidTag, ValueError) as error:
            raise PacketError("packet is not authentic") from error


class _CbcHmac:
    """A256CBC-HS512 (RFC 7518 section 5.2.5).

    CBC needs an IV nobody can foretell, so it is a MAC over the counter and not the counter itself.
    """

    __slots__ = ("_encryption", "_iv", "_mac")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._mac = key[:32]
        self._encryption = key[32:]
        self._iv = iv

    def _initial(self, counter: int) -> bytes:
        return hmac.digest(self._iv, counter.to_bytes(12), "sha256")[:_BLOCK]

    def _cipher(self, iv: bytes) -> Cipher[modes.CBC]:
        return Cipher(algorithms.AES(self._encryption), modes.CBC(iv))

    def _tag(self, iv: bytes, ciphertext: bytes, core: bytes) -> bytes:
        covered = core + iv + ciphertext + (8 * len(core)).to_bytes(8)
        return hmac.digest(self._mac, covered, "sha512")[:_CBC_TAG]

    def seal(self, counter: int, plaintext: bytes, core: bytes) -> bytes:
        iv = self._initial(counter)
        pad = padding.PKCS7(8 * _BLOCK).padder()
        encryptor = self._cipher(iv).encryptor()
        ciphertext = encryptor.update(pad.update(plaintext) + pad.finalize()) + encryptor.finalize()
        return ciphertext + self._tag(iv, ciphertext, core)

    def open(self, counter: int, body: bytes, core: bytes) -> bytes:
        iv = self._initial(counter)
        ciphertext, tag = body[:-_CBC_TAG], body[-_CBC_TAG:]
        if not hmac.compare_digest(self._tag(iv, ciphertext, core), tag):
            raise PacketError("packet is not authentic")
        decryptor = self._cipher(iv).decryptor()
        strip = padding.PKCS7(8 * _BLOCK).unpadder()
        try:
            padded = decryptor.update(ciphertext) + decryptor.finalize()
            return strip.update(padded) + strip.finalize()
        except ValueError as error:
            raise PacketError("packet is not authentic") from error

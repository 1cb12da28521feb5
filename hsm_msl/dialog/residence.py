"""Session keys that stay in the token: one key per purpose, and a token operation per packet part (section 10).

Tokens cannot derive the keys of a direction as ``sessionkeys`` does, so the session key header carries them one by
one, wrapped. What the derivation bound them to - dialog, direction, generation - is in the core that tag and body
authenticate, together with the digest of the header itself: under a header that was moved no packet is authentic.
"""

from __future__ import annotations

import hashlib
import hmac

from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import TAG_SIZE
from hsm_msl.dialog.sessionkeys import KeyBinding, split_iv
from hsm_msl.errors import DataRejectedError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, WrappingKey


class ResidentDirectionKeys:
    """The keys of one direction as handles (``PacketKeys``).

    Args:
        body: seals bodies.
        env: makes packet tags.
        sys: makes tags of the other direction's system packets.
        binding: what the keys are for.
    """

    __slots__ = ("_body", "_env", "_iv", "_sys", "fingerprint")

    def __init__(self, body: AesKey, env: MacKey, sys: MacKey, binding: KeyBinding) -> None:
        self._body = body
        self._env = env
        self._sys = sys
        self._iv = int.from_bytes(split_iv(binding))
        self.fingerprint = hashlib.sha256(binding.salt(binding.direction)).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"ResidentDirectionKeys({self.fingerprint})"

    def seal(self, seq: int, frag: int, plaintext: bytes, core: bytes) -> bytes:
        """Return the sealed body of one fragment. Raises BackendError."""
        return self._body.encrypt_gcm(self._nonce(seq, frag), plaintext, core)

    def open(self, seq: int, frag: int, body: bytes, core: bytes) -> bytes:
        """Invert ``seal``. Raises PacketError, the same for every cause, and BackendError."""
        try:
            return self._body.decrypt_gcm(self._nonce(seq, frag), body, core)
        except DataRejectedError as error:
            raise PacketError("packet is not authentic") from error

    def tag(self, covered: bytes) -> bytes:
        """Return the tag of a packet in this direction. Raises BackendError."""
        return self._env.sign(covered)[:TAG_SIZE]

    def check(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a packet in this direction. Raises PacketError, BackendError."""
        if not hmac.compare_digest(self.tag(covered), tag):
            raise PacketError("packet is not authentic")

    def system_tag(self, covered: bytes) -> bytes:
        """Return the tag of a system packet in the other direction. Raises BackendError."""
        return self._sys.sign(covered)[:TAG_SIZE]

    def check_system(self, covered: bytes, tag: bytes) -> None:
        """Check the tag of a system packet from the other direction. Raises PacketError, BackendError."""
        if not hmac.compare_digest(self.system_tag(covered), tag):
            raise PacketError("packet is not authentic")

    def _nonce(self, seq: int, frag: int) -> bytes:
        return (self._iv ^ (seq << 16 | frag)).to_bytes(12)


def unwrap_resident(key: WrappingKey, parts: tuple[bytes, ...], binding: KeyBinding) -> ResidentDirectionKeys:
    """Open the keys of a direction beside the key that wraps them.

    Raises DataRejectedError when one cannot be opened, BackendError.
    """
    body, env, sys = parts
    return ResidentDirectionKeys(
        key.unwrap_aes(body),
        key.unwrap_mac(env, MacAlgorithm.HMAC_SHA256),
        key.unwrap_mac(sys, MacAlgorithm.HMAC_SHA256),
        binding,
    )

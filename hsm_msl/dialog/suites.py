"""The suites: which signature, key transport, key wrap and body cipher go together (dialog section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hsm_msl.dialog.errors import PacketError
from hsm_msl.ports import RsaPadding, SignatureScheme


class BodyCipher(Enum):
    """How bodies are sealed: key size in bytes, and the COSE or JOSE name."""

    A128GCM = (16, "A128GCM")
    A256GCM = (32, "A256GCM")
    A256CBC_HS512 = (64, "A256CBC-HS512")

    @property
    def key_size(self) -> int:
        """Bytes of key."""
        return self.value[0]

    @property
    def overhead(self) -> int:
        """Bytes by which a sealed body is longer than its plaintext; with padding the most."""
        return 48 if self is BodyCipher.A256CBC_HS512 else 16


@dataclass(frozen=True, slots=True)
class Suite:
    """One row of the table; numbers are COSE algorithm ids (RFC 9053, RFC 8812 for RS256)."""

    number: int
    signature: SignatureScheme
    signature_alg: int
    recover: bool
    transport: RsaPadding | None
    transport_alg: int
    kek_size: int
    body: BodyCipher


_PS256, _ES256, _RS256 = -37, -7, -257
_OAEP_SHA1, _OAEP_SHA256, _ECDH_ES_A256KW = -40, -41, -31

SUITES: dict[int, Suite] = {
    suite.number: suite
    for suite in (
        Suite(
            1,
            SignatureScheme.RSA_PSS_SHA256,
            _PS256,
            False,
            RsaPadding.OAEP_SHA256,
            _OAEP_SHA256,
            32,
            BodyCipher.A256GCM,
        ),
        Suite(
            2,
            SignatureScheme.ECDSA_SHA256,
            _ES256,
            False,
            None,
            _ECDH_ES_A256KW,
            32,
            BodyCipher.A256GCM,
        ),
        # Claim 2 to the letter: what the private key did is undone with the public key and compared; 128-bit KEK.
        Suite(
            3,
            SignatureScheme.RSA_PKCS1_SHA256,
            _RS256,
            True,
            RsaPadding.OAEP_SHA1,
            _OAEP_SHA1,
            16,
            BodyCipher.A128GCM,
        ),
        Suite(
            4,
            SignatureScheme.ECDSA_SHA256,
            _ES256,
            False,
            RsaPadding.OAEP_SHA256,
            _OAEP_SHA256,
            32,
            BodyCipher.A256CBC_HS512,
        ),
    )
}


def suite_of(number: object) -> Suite:
    """Return the suite with that number. Raises PacketError when there is none."""
    suite = SUITES.get(number) if isinstance(number, int) else None
    if suite is None:
        raise PacketError("unknown suite")
    return suite

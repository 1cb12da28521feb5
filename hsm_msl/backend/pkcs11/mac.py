"""Message authentication on a token (port ``MacKey``)."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from pkcs11 import Mechanism

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.errors import MechanismUnsupportedError
from hsm_msl.ports import MacAlgorithm

MECHANISMS = {
    MacAlgorithm.HMAC_SHA1: Mechanism.SHA_1_HMAC,
    MacAlgorithm.HMAC_SHA256: Mechanism.SHA256_HMAC,
    MacAlgorithm.HMAC_SHA384: Mechanism.SHA384_HMAC,
    MacAlgorithm.HMAC_SHA512: Mechanism.SHA512_HMAC,
    MacAlgorithm.HMAC_SHA3_256: Mechanism.SHA3_256_HMAC,
    MacAlgorithm.HMAC_SHA3_384: Mechanism.SHA3_384_HMAC,
    MacAlgorithm.HMAC_SHA3_512: Mechanism.SHA3_512_HMAC,
    MacAlgorithm.AES_CMAC: Mechanism.AES_CMAC,
}


class TokenMacKey:
    """A MAC key on a token or in a session.

    Args:
        target: the key.
        algorithm: the one algorithm it is used with.

    Raises:
        MechanismUnsupportedError: the token has no such algorithm.
    """

    __slots__ = ("_algorithm", "_mechanism", "_target")

    def __init__(self, target: TokenObject | SessionObject, algorithm: MacAlgorithm) -> None:
        self._target = target
        self._algorithm = algorithm
        self._mechanism = MECHANISMS[algorithm]
        if self._mechanism not in target.connection.mechanisms:
            raise MechanismUnsupportedError(f"{target.doing}: the token has no {algorithm.value}")

    @property
    def target(self) -> TokenObject | SessionObject:
        """What the operations are run on."""
        return self._target

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._algorithm

    def sign(self, data: bytes) -> bytes:
        """Return the full-length tag over ``data``.

        Args:
            data: any length.

        Raises:
            BackendError: see ``errors.translate``; MechanismUnsupportedError also for a key shorter than the token
                takes (SoftHSMv2: shorter than the digest) and for more data than it takes at once.
        """
        self._target.connection.check_fits(len(data), self._target.doing)
        return self._target.call(_sign, data, self._mechanism)

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell whether ``tag`` is the tag over ``data``, by making it again: tokens disagree about C_Verify.

        Args:
            data: any length; no tag fits to more than the token takes at once, since none can have been made here.
            tag: the full-length tag to check.

        Raises:
            BackendError: as ``sign``.
        """
        return self._target.connection.fits(len(data)) and hmac.compare_digest(self.sign(data), tag)

    def __repr__(self) -> str:
        return f"TokenMacKey({self._target!r}, {self._algorithm.value})"


def check_value(algorithm: MacAlgorithm) -> Callable[[Handle], bytes]:
    """Return what gives a key's check value: the first three bytes of a MAC over nothing.

    Args:
        algorithm: the key's algorithm.
    """
    mechanism = MECHANISMS[algorithm]
    return lambda handle: _sign(handle, b"", mechanism)[:3]


def _sign(handle: Handle, data: bytes, mechanism: Mechanism) -> bytes:
    result: bytes = handle.sign(data, mechanism=mechanism)
    return result

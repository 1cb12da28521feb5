"""A token as the rest of the service sees it: a place to get key handles and random bytes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import KeyType, MechanismFlag

from hsm_msl.backend.operations import OTHER, Operations
from hsm_msl.backend.pin import PinSource
from hsm_msl.backend.pkcs11 import aes, mac, policy, session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.agreement import TokenDhKey, TokenEcdhKey
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection, TokenSelector
from hsm_msl.backend.pkcs11.decryption import TokenDecryptionKey
from hsm_msl.backend.pkcs11.derivation import TokenDerivationKey
from hsm_msl.backend.pkcs11.exchange import TokenExchangeKeys, TokenUnwrappingKey
from hsm_msl.backend.pkcs11.login import PIN_FLAGS
from hsm_msl.backend.pkcs11.lookup import KeyName, TokenObject
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.backend.pkcs11.policy import Role
from hsm_msl.backend.pkcs11.public import public_half
from hsm_msl.backend.pkcs11.recovery import RecoveryObserver
from hsm_msl.backend.pkcs11.rsa_transport import wrap_for_peer
from hsm_msl.backend.pkcs11.rsa_wrapping import TokenRsaWrappingKey
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import DEFAULT_WAIT_SECONDS, Lease
from hsm_msl.backend.pkcs11.signing import TokenSigningKey
from hsm_msl.backend.pkcs11.targets import AnySession
from hsm_msl.backend.pkcs11.vendors import GENERIC, VendorProfile
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.errors import KeyPolicyError, UsageError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding

LARGEST_RANDOM = 1 << 16


def open_token(
    module: Module,
    selector: TokenSelector,
    pin: PinSource | None,
    profile: VendorProfile = GENERIC,
    *,
    sessions: int | None = None,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
    observer: RecoveryObserver | None = None,
    operations: Operations | None = None,
    renews_module: bool = True,
    pin_memory: Path | None = None,
) -> Token:
    """Log in to a token.

    Args:
        module: from ``module.load``.
        selector: which of its tokens.
        pin: where the PIN comes from; None for a token with its own pad.
        profile: what is known about the vendor.
        sessions: the most sessions for calls; None takes the profile's number.
        wait_seconds: how long a call waits for a free session.
        observer: hears of recoveries and outages.
        operations: counts the calls.
        renews_module: start the module anew when so many keys were made that what it keeps of each begins to count.
        pin_memory: directory in which a refused PIN is remembered for later processes; None for this one only.

    Returns:
        The token; one per process and token.

    Raises:
        BackendConfigurationError: no such token, or its PIN is missing, refused or not to be tried.
        BackendUnavailableError: the token gives no answer.
    """
    return Token(
        Connection(
            module,
            selector,
            pin,
            profile,
            sessions=sessions,
            wait_seconds=wait_seconds,
            observer=observer,
            operations=operations,
            renews_module=renews_module,
            pin_memory=pin_memory,
        )
    )


class Token:
    """A token this process is logged in to. Every key handle checks name, attributes and identity when it is made.

    The methods that return a handle for a key on the token take its label, its CKA_ID, or both, and raise

    * KeyNotFoundError: no such key, and the login was proved to hold;
    * BackendConfigurationError: several such keys;
    * KeyPolicyError: its attributes do not fit its role (``policy``);
    * MechanismUnsupportedError: the token cannot do what the key is for;
    * BackendUnavailableError: the token gives no answer.

    Args:
        connection: the connection, logged in.
    """

    __slots__ = ("_random", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._random = AnySession(
            connection,
            f"drawing random bytes from token {connection.name!r}",
            connection.operations.of_use(OTHER),
        )

    @property
    def name(self) -> str:
        """The token's label."""
        return self.connection.name

    def aes_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenAesKey:
        """Return an AES key for data. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
        """
        return TokenAesKey(self._find(label, id, policy.ENCRYPTION, aes.check_value))

    def mac_key(
        self, label: str | None = None, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256, *, id: bytes | None = None
    ) -> TokenMacKey:
        """Return a key for message authentication. Raises as the class says.

        Args:
            label: CKA_LABEL.
            algorithm: the one algorithm it is used with.
            id: CKA_ID.
        """
        role = policy.CMAC if algorithm is MacAlgorithm.AES_CMAC else policy.HMAC
        return TokenMacKey(self._find(label, id, role, mac.check_value(algorithm)), algorithm)

    def wrapping_key(
        self, label: str | None = None, *, id: bytes | None = None, by_blocks: bool = False
    ) -> TokenWrappingKey:
        """Return a key-encrypting key. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
            by_blocks: it is a key for encryption and decryption, on a token without AES key wrap.
        """
        role = policy.BLOCK_WRAPPING if by_blocks else policy.WRAPPING
        return TokenWrappingKey(self._find(label, id, role, aes.check_value), by_blocks=by_blocks)

    def signing_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenSigningKey:
        """Return an RSA or EC private key that signs. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
        """
        return TokenSigningKey(self._find(label, id, policy.SIGNING, public_half))

    def decryption_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenDecryptionKey:
        """Return an RSA private key that decrypts. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
        """
        return TokenDecryptionKey(self._find(label, id, policy.DECRYPTION, public_half))

    def unwrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenUnwrappingKey:
        """Return an RSA private key that opens key exchange keys. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
        """
        return TokenUnwrappingKey(self._find(label, id, policy.UNWRAPPING, public_half))

    def rsa_wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenRsaWrappingKey:
        """Return an RSA key pair that packs this service's own session keys, on a token without AES key wrap.

        Raises as the class says.

        Args:
            label: CKA_LABEL of the private key, which may unwrap and nothing else.
            id: CKA_ID.
        """
        return TokenRsaWrappingKey(self._find(label, id, policy.UNWRAPPING, public_half))

    def exchange_keys(self) -> TokenExchangeKeys:
        """Return the maker of the secure dialog's key exchange keys."""
        return TokenExchangeKeys(self.connection)

    def agreement_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenEcdhKey:
        """Return an EC private key on the token that agrees on keys. Raises as the class says.

        Args:
            label: CKA_LABEL.
            id: CKA_ID.
        """
        return TokenEcdhKey.on_token(self._find(label, id, policy.AGREEMENT, public_half))

    def derivation_key(self, label: str | None = None, *, id: bytes | None = None) -> TokenDerivationKey:
        """Return a master key from which others are derived. Raises as the class says.

        Args:
            label: CKA_LABEL of an AES key that may encrypt and derive, and nothing else.
            id: CKA_ID.
        """
        return TokenDerivationKey(self.connection, label, id=id)

    def ephemeral_dh(self, prime: int, generator: int) -> TokenDhKey:
        """Make a Diffie-Hellman key pair in a session. Raises MechanismUnsupportedError and BackendError.

        Args:
            prime: the modulus.
            generator: the base.
        """
        return TokenDhKey(self.connection, prime, generator)

    def ephemeral_ecdh(self, curve: ec.EllipticCurve) -> TokenEcdhKey:
        """Make an EC key pair in a session. Raises MechanismUnsupportedError and BackendError.

        Args:
            curve: P-256, P-384 or P-521.
        """
        return TokenEcdhKey.ephemeral(self.connection, curve)

    def generate_aes(self, size: int) -> TokenAesKey:
        """Make an AES session key that may leave the token wrapped (``WrappingKey.wrap_key``) and no other way.

        Args:
            size: 16, 24 or 32 bytes.

        Raises:
            KeyPolicyError: the token would not keep it to itself.
            BackendError: see ``errors.translate``.
        """
        return TokenAesKey(self._generate(KeyType.AES, size, session_keys.DATA_KEY))

    def generate_mac(self, size: int, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> TokenMacKey:
        """Make a MAC session key that may leave the token wrapped and no other way.

        Args:
            size: in bytes.
            algorithm: the one algorithm it is used with.

        Raises:
            KeyPolicyError, BackendError: as ``generate_aes``.
        """
        key_type = session_keys.mac_key_type(algorithm)
        return TokenMacKey(self._generate(key_type, size, session_keys.MAC_KEY), algorithm)

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key of this token to a peer's RSA key, inside the token (``token_vault.ResidentKeys``).

        Args:
            key: made by this object.
            public_key: SubjectPublicKeyInfo DER.
            padding: RSA encryption padding.

        Raises:
            DataRejectedError: it is no RSA key, or too small for the session key.
            KeyPolicyError: the session key lives elsewhere or may not leave.
            MechanismUnsupportedError: the token does not wrap with this padding.
            BackendError: see ``errors.translate``.
        """
        target = key.target if isinstance(key, TokenAesKey | TokenMacKey) else None
        if not isinstance(target, SessionObject) or target.connection is not self.connection:
            raise KeyPolicyError("only session keys of the token can be wrapped for a peer")
        return wrap_for_peer(target, public_key, padding)

    def random(self, count: int) -> bytes:
        """Return random bytes of the token's generator.

        Args:
            count: 1 to 65536 bytes.

        Raises:
            UsageError: another count.
            BackendError: see ``errors.translate``.
        """
        if not 0 < count <= LARGEST_RANDOM:
            raise UsageError(f"{count} random bytes asked of a token; 1 to {LARGEST_RANDOM} are possible")
        return self._random.call(_random, count * 8)

    def mechanisms(self) -> frozenset[str]:
        """Return the names of what the token does right, vendors' own as numbers."""
        return frozenset(getattr(item, "name", hex(item)) for item in self.connection.mechanisms)

    def status(self) -> TokenStatus:
        """Return how the token is, without asking it."""
        connection = self.connection
        recovery, pool = connection.recovery, connection.pool
        idle = pool.idle_sessions
        return TokenStatus(
            up=recovery.available,
            outages=recovery.outages,
            returns=recovery.returns,
            reconnects={stage.value: count for stage, count in recovery.counts.items()},
            sessions={"busy": pool.open_sessions - idle, "idle": idle, "waiting": pool.waiting},
            operations=connection.operations,
            reason=recovery.reason,
            identity=connection.identity,
        )

    def pin_flags(self) -> frozenset[str]:
        """Return the names of the token's flags about PINs that are set now.

        Raises:
            BackendUnavailableError: the token gives no answer.
        """
        flags = self._random.call(_token_flags)
        return frozenset(str(flag.name).lower() for flag in PIN_FLAGS if flags & flag)

    def close(self) -> None:
        """Log out. Every handle of this token, in the whole process, stops working."""
        self.connection.close()

    def _find(self, label: str | None, id: bytes | None, role: Role, check: Callable[[Handle], bytes]) -> TokenObject:
        if label is None and id is None:
            raise UsageError("a key is named by its label, its ID or both")
        name = KeyName(role.object_class, label, id)
        admit = policy.admission(role, self.connection.profile.forced_uses)
        return TokenObject(self.connection, name, check=check, admit=admit)

    def _generate(self, key_type: KeyType, size: int, uses: MechanismFlag) -> SessionObject:
        def make(lease: Lease) -> Handle:
            key = lease.session.generate_key(
                key_type,
                size * 8,
                store=False,
                capabilities=uses,
                template=session_keys.template(uses, extractable=True),
            )
            return session_keys.enforce(key, uses, extractable=True)

        doing = f"using a key made on token {self.name!r}"
        return SessionObject(self.connection, self.connection.homes.next(), make, doing, lasting=False)

    def __repr__(self) -> str:
        return f"Token({self.name!r})"


def _random(session: Handle, bits: int) -> bytes:
    result: bytes = session.generate_random(bits)
    return result


def _token_flags(session: Handle) -> int:
    return int(session.token.slot.get_token().flags)

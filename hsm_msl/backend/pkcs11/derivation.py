"""Deriving keys inside a token with the AES-CMAC KDF of SP 800-108, from mechanisms old tokens have.

CMAC is CBC-MAC whose last block is masked with a subkey. All but the last block are encrypted as data, which gives
nothing away; the masked last blocks are handed to CKM_AES_ECB_ENCRYPT_DATA, whose result is a key object and never
bytes of this process.
"""

from __future__ import annotations

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from hsm_msl.backend.inputs import BLOCK
from hsm_msl.backend.key_derivation import COUNTER_BYTES, fixed_data
from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey, check_value
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.lookup import KeyName, TokenObject, key_type_of, read
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.policy import exposure
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.errors import KeyPolicyError, MechanismUnsupportedError, UsageError
from hsm_msl.ports import MacAlgorithm

_ZERO = bytes(BLOCK)
_POLYNOMIAL = 0x87  # of GF(2^128), SP 800-38B section 5.3
_NEEDED = frozenset((Attribute.ENCRYPT, Attribute.DERIVE))
_FORBIDDEN = frozenset(
    (Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY, Attribute.WRAP, Attribute.UNWRAP),
)


class TokenDerivationKey:
    """A master key on a token (``derived.DerivationKey``).

    Args:
        connection: the token.
        label: CKA_LABEL of an AES key that may encrypt and derive, and nothing else; None with ``id``.
        id: CKA_ID.

    Raises:
        MechanismUnsupportedError: the token does not derive keys by encryption.
        KeyPolicyError: the key's attributes allow more or less than that.
        BackendError: as ``Token.aes_key``.
    """

    __slots__ = ("_connection", "_target")

    def __init__(self, connection: Connection, label: str | None, *, id: bytes | None = None) -> None:
        if label is None and id is None:
            raise UsageError("a key is named by its label, its ID or both")
        self._connection = connection
        if Mechanism.AES_ECB_ENCRYPT_DATA not in self._connection.mechanisms:
            raise MechanismUnsupportedError(f"token {connection.name!r} does not derive keys by encryption")
        name = KeyName(ObjectClass.SECRET_KEY, label, id)
        self._target = TokenObject(self._connection, name, check=check_value, admit=_admit)

    @property
    def target(self) -> TokenObject:
        """What the operations are run on."""
        return self._target

    def derive_aes(self, label: bytes, context: bytes, size: int) -> TokenAesKey:
        """Return a derived AES key of ``size`` bytes. Raises BackendError."""
        return TokenAesKey(self._derive(label, context, size, KeyType.AES, session_keys.DATA_KEY))

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> TokenMacKey:
        """Return a derived MAC key of ``size`` bytes. Raises BackendError."""
        key_type = session_keys.mac_key_type(algorithm)
        return TokenMacKey(self._derive(label, context, size, key_type, session_keys.MAC_KEY), algorithm)

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> TokenWrappingKey:
        """Return a derived key-encrypting key of ``size`` bytes. Raises BackendError."""
        return TokenWrappingKey(self._derive(label, context, size, KeyType.AES, session_keys.WRAPPING_KEY))

    def _derive(
        self, label: bytes, context: bytes, size: int, key_type: KeyType, uses: MechanismFlag
    ) -> SessionObject:
        if size % BLOCK:
            raise KeyPolicyError("derived keys are whole blocks long")
        fixed = fixed_data(label, context, size)
        parent = self._target

        def make(lease: Lease) -> Handle:
            master = parent.handle_on(lease)
            last = b"".join(
                masked_last_block(master, counter.to_bytes(COUNTER_BYTES) + fixed)
                for counter in range(1, size // BLOCK + 1)
            )
            key = master.derive_key(
                key_type,
                size * 8,
                mechanism=Mechanism.AES_ECB_ENCRYPT_DATA,
                mechanism_param=last,
                store=False,
                capabilities=uses,
                template=session_keys.template(uses, extractable=False),
            )
            return session_keys.enforce(key, uses, extractable=False)

        doing = f"using a key derived on token {self._connection.name!r}"
        return SessionObject(self._connection, self._connection.homes.next(), make, doing, lasting=True)


def masked_last_block(master: Handle, message: bytes) -> bytes:
    """Return the block whose encryption is the CMAC of ``message`` (SP 800-38B section 6.2).

    Args:
        master: the key; the binding's exceptions pass.
        message: what is authenticated.
    """
    subkey = _double(_encrypt(master, _ZERO))
    whole, rest = divmod(len(message), BLOCK)
    if rest:
        message = (message + b"\x80").ljust((whole + 1) * BLOCK, b"\x00")
        subkey = _double(subkey)
    chain = _ZERO
    if len(message) > BLOCK:
        chain = _encrypt(master, message[:-BLOCK], iv=_ZERO)[-BLOCK:]
    return _xor(_xor(message[-BLOCK:], chain), subkey)


def _double(block: bytes) -> bytes:
    value = int.from_bytes(block) << 1
    if value >> 128:
        value = value ^ (1 << 128) ^ _POLYNOMIAL
    return value.to_bytes(BLOCK)


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(BLOCK)


def _encrypt(handle: Handle, data: bytes, iv: bytes | None = None) -> bytes:
    mechanism = Mechanism.AES_ECB if iv is None else Mechanism.AES_CBC
    result: bytes = handle.encrypt(data, mechanism=mechanism, mechanism_param=iv)
    return result


def _admit(handle: Handle, name: KeyName) -> None:
    faults = exposure(handle)
    if key_type_of(handle) is not KeyType.AES:
        faults.append("it must be an AES key")
    faults += [f"it needs CKA_{use.name}" for use in sorted(_NEEDED) if not read(handle, use, False)]
    faults += [f"CKA_{use.name} must be false" for use in sorted(_FORBIDDEN) if read(handle, use, False)]
    if faults:
        raise KeyPolicyError(f"{name} may not serve for derivation: {'; '.join(faults)}")

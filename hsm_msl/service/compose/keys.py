"""Keys for a composition: token objects by purpose and version, and for clients the contents of files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.key_manifest import PurposeVersions
from hsm_msl.backend.keyring import KeyState, KeyVersion, PurposeView
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareAesKey, SoftwareSigningKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.backend.workers import WorkerToken
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import (
    ConfigurationError,
    DataRejectedError,
    KeyNotFoundError,
    KeyPolicyError,
    MechanismUnsupportedError,
)
from hsm_msl.ports import MacAlgorithm, SigningKey, SymmetricKeys, VerifyingKey, WrappingKey
from hsm_msl.service.compose.tokens import Tokens
from hsm_msl.service.documents import AnyConfiguration
from hsm_msl.service.key_drift import AnyKey, DriftRecord, Expected, drift
from hsm_msl.service.key_sections import (
    EccIdentity,
    KeyFiles,
    KeysSection,
    PrivateKeyIdentity,
    PskIdentity,
    PublicKeySection,
)
from hsm_msl.service.key_uses import uses_of
from hsm_msl.service.watch.transitions import Record, no_record

_NO_KEY = "make or import it with hsm-provision apply"
_MAX_KEY_FILE = 65536
_SHORTEST_KEY = 16

Place = tuple[str, str]
"""What keys are for, and where they live; for people."""


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """Pre-shared keys by identity (``PresharedKeys``)."""

    by_identity: Mapping[str, SymmetricKeys]

    def find(self, identity: str) -> SymmetricKeys | None:
        """Return the entity's handles, or None when the entity is not known."""
        return self.by_identity.get(identity)


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys by ID (``PublicKeys``)."""

    by_id: Mapping[str, VerifyingKey]

    def find(self, key_id: str) -> VerifyingKey | None:
        """Return the key, or None when no such key is trusted."""
        return self.by_id.get(key_id)


class KeySources:
    """Opens the tokens of a configuration when first used, and closes them together.

    Args:
        config: the configuration.
        expected: what each key must be; a key it does not know may be any.
        record: writes to the audit log.

    Attributes:
        places: what was asked for, and where it lives.
        lasting: by label, the token keys that no rotation exchanges while the process runs.
        drift: what comparisons with the manifest found.
    """

    def __init__(
        self, config: AnyConfiguration, expected: Expected | None = None, record: Record = no_record
    ) -> None:
        self._config = config
        self._expected = expected
        self.drift = DriftRecord(record)
        self.lasting: dict[str, AnyKey] = {}
        document = config.document
        self._tokens = Tokens(
            config.path,
            document.tokens,
            document.token_sets,
            config.source,
            uses_of(getattr(document, "keys", {})),
        )
        self.places: list[Place] = []

    def error(self, key: str, problem: str) -> ConfigurationError:
        """Return an error about a key of the configuration, for the caller to raise."""
        return self._config.error(key, problem)

    def close(self) -> None:
        """Log out of every token."""
        self._tokens.close()

    def opened(self) -> Mapping[str, Token | WorkerToken]:
        """Return the tokens that are open, by name."""
        return self._tokens.opened()

    def token(self, key: str, name: str | None) -> AnyToken:
        """Return a token or a set of tokens, logged in.

        Args:
            key: the configuration key that asks, for errors.
            name: its name in the configuration; None for the only one.

        Raises:
            ConfigurationError: no such token in the configuration.
            BackendConfigurationError: wrong PIN, missing token or module; names the table and says what to do.
            BackendUnavailableError: the token gives no answer.
        """
        return self._tokens.open(self._config.token(key, name))

    def ring(
        self, purpose: str, section: KeysSection, versions: PurposeVersions | None = None
    ) -> PurposeView[SymmetricKeys]:
        """Return every usable version of a purpose.

        Args:
            purpose: its name.
            section: where its keys are, and its versions.
            versions: versions to use instead of the section's.

        Raises:
            ConfigurationError: a key is missing; names the table.
            BackendError: as ``token``.
        """
        wanted = PurposeVersions(section.primary, section.active) if versions is None else versions
        token = self.token(f'keys."{purpose}".token', section.token)
        named = ", ".join(f"v{version}" for version in wanted.active)
        self.places.append(
            (
                f"keys {purpose} v{wanted.primary}" + (f" (and {named}, to open)" if named else ""),
                f"in token {token.name!r}, which they never leave",
            )
        )
        return PurposeView(purpose, self.versions(purpose, section, wanted))

    def versions(
        self, purpose: str, section: KeysSection, wanted: PurposeVersions
    ) -> tuple[KeyVersion[SymmetricKeys], ...]:
        """Return the handles of some versions of a purpose. Arguments and errors as ``ring``."""
        where = f'keys."{purpose}"'
        token = self.token(f"{where}.token", section.token)
        label = section.label.replace("{purpose}", purpose)
        states = [(wanted.primary, KeyState.PRIMARY), *((version, KeyState.ACTIVE) for version in wanted.active)]
        return tuple(
            KeyVersion(f"v{version}", state, self._symmetric(where, token, label, version))
            for version, state in states
        )

    def preshared(self, where: str, entity: PskIdentity) -> SymmetricKeys:
        """Return the keys shared with one entity. Raises as ``ring``; ConfigurationError for bad key files."""
        what = f"pre-shared keys of {entity.identity}"
        if entity.files is not None:
            self.places.append((what, "in files, and in this process while it runs"))
            return self.key_files(f"{where}.files", entity.files)
        token = self.token(f"{where}.token", entity.token)
        self.places.append((f"{what} v{entity.version}", f"in token {token.name!r}, which they never leave"))
        label = entity.label.replace("{identity}", entity.identity)
        return self._symmetric(where, token, label, entity.version, lasting=True)

    def key_files(self, where: str, files: KeyFiles) -> SymmetricKeys:
        """Return keys held in files. Raises ConfigurationError."""
        values = [
            None if name is None else read_secret(self._config.resolve(name))
            for name in (files.encryption, files.mac, files.wrap)
        ]
        return software_keys(f"{self._config.path}: {where}", values[0] or b"", values[1] or b"", values[2])

    def signing(self, entity: PrivateKeyIdentity) -> SigningKey:
        """Return the private key of this entity. Raises as ``preshared``."""
        label = signing_label(entity)
        what = f"private key of this entity ({entity.__struct_config__.tag})"
        if entity.file is not None:
            path = self._config.resolve(entity.file)
            self.places.append((what, "in a file, and in this process while it runs"))
            try:
                return SoftwareSigningKey(_private_bytes(path))
            except (DataRejectedError, ConfigurationError) as error:
                raise self._config.error("entity.file", f"{path}: {error}") from None
        token = self.token("entity.token", entity.token)
        self.places.append((what, f"in token {token.name!r}, which it never leaves"))
        try:
            key = token.signing_key(label)
        except (KeyNotFoundError, KeyPolicyError) as error:
            raise self._config.error("entity.label", f"{error}; {_NO_KEY}") from None
        self._compare("entity.label", label, key)
        self.lasting[label] = key
        return key

    def wrapping(self, where: str, name: str | None, labels: Iterable[str]) -> Mapping[str, WrappingKey]:
        """Return key-encrypting keys of a token by label. Raises as ``ring``."""
        token = self.token(f"{where}.token", name)
        try:
            found = {label: token.wrapping_key(label) for label in labels}
        except (KeyNotFoundError, KeyPolicyError) as error:
            raise self._config.error(f"{where}.wrapping_keys", f"{error}; {_NO_KEY}") from None
        for label, key in found.items():
            self._compare(f"{where}.wrapping_keys", label, key)
            self.lasting[label] = key
        self.places.append((f"keys {', '.join(found)}", f"in token {token.name!r}, which they never leave"))
        return found

    def derivation(self, where: str, name: str | None, label: str) -> DerivationKey:
        """Return a master key from which a token derives others. Raises as ``ring``."""
        token = self.token(f"{where}.token", name)
        try:
            key = token.derivation_key(label)
        except (KeyNotFoundError, KeyPolicyError, MechanismUnsupportedError) as error:
            raise self._config.error(f"{where}.label", f"{error}; {_NO_KEY}") from None
        self._compare(f"{where}.label", label, key)
        self.lasting[label] = key
        self.places.append((f"key {label}", f"in token {token.name!r}, which it never leaves"))
        return key

    def own(self, where: str, what: str, files: KeyFiles | None, name: str | None, label: str) -> SymmetricKeys:
        """Return keys that a client shares with nobody, or with its servers for service tokens.

        Args:
            where: the section, for errors.
            what: what the keys are, for people.
            files: where they are, if not in a token.
            name: name of the token.
            label: how the token objects are called.

        Raises:
            ConfigurationError, BackendError: as ``ring`` and ``key_files``.
        """
        if files is not None:
            self.places.append((what, "in files, and in this process while it runs"))
            return self.key_files(f"{where}.files", files)
        token = self.token(f"{where}.token", name)
        self.places.append((what, f"in token {token.name!r}, which they never leave"))
        return self._symmetric(where, token, label, 1)

    def public(self, where: str, section: PublicKeySection) -> PublicKey:
        """Return a trusted public key. Raises ConfigurationError."""
        path = self._config.resolve(section.public_key)
        try:
            return read_public_key(path)
        except ConfigurationError as error:
            raise self._config.error(f"{where}.public_key", str(error)) from None

    def _symmetric(
        self, where: str, token: AnyToken, label: str, version: int, *, lasting: bool = False
    ) -> SymmetricKeys:
        def named(role: str) -> str:
            return label.replace("{role}", role).replace("{version}", str(version))

        try:
            encryption = token.aes_key(named("encryption"))
            mac = token.mac_key(named("mac"), MacAlgorithm.HMAC_SHA256)
            wrapping = _wrapping(token, named("wrap"))
        except (KeyNotFoundError, KeyPolicyError) as error:
            raise self._config.error(where, f"{error}; {_NO_KEY}") from None
        for role, key in (("encryption", encryption), ("mac", mac), ("wrap", wrapping)):
            if key is not None:
                self._compare(where, named(role), key)
                if lasting:
                    self.lasting[named(role)] = key
        return SymmetricKeys(encryption, mac, wrapping, f"v{version}")

    def _compare(self, where: str, label: str, key: AnyKey) -> None:
        """Refuse a key that is not the one expected under its label. Raises ConfigurationError, BackendError."""
        check = None if self._expected is None else self._expected(label)
        if check is None:
            return
        try:
            problem = drift(label, key, check)
        except MechanismUnsupportedError:
            # Its attributes were checked all the same; what this token cannot compute, verify cannot either.
            return
        self.drift.found(label, problem)
        if problem is not None:
            raise self._config.error(where, f"{problem}; see hsm-provision verify")


def signing_label(entity: PrivateKeyIdentity) -> str:
    """Return the label of an entity's private key."""
    return entity.label or ("identity.ec.v1" if isinstance(entity, EccIdentity) else "identity.rsa.v1")


def _wrapping(token: AnyToken, label: str) -> WrappingKey | None:
    """Return a key-encrypting key: by AES key wrap; without that, one that works by blocks, or an RSA key pair.

    Only some key exchanges and the ``token`` residency need one; they refuse when it is missing.
    """
    ways: tuple[Callable[[], WrappingKey], ...] = (lambda: token.wrapping_key(label),)
    if "AES_KEY_WRAP" not in token.mechanisms():
        ways = (lambda: token.wrapping_key(label, by_blocks=True), lambda: token.rsa_wrapping_key(label))
    for way in ways:
        with contextlib.suppress(KeyNotFoundError, MechanismUnsupportedError):
            return way()
    return None


def software_keys(where: str, encryption: bytes, mac: bytes, wrap: bytes | None = None) -> SymmetricKeys:
    """Return handles of keys held in this process.

    Args:
        where: what the keys are called in errors.
        encryption: the AES key.
        mac: the HMAC-SHA256 key.
        wrap: the key-encrypting key, if there is one.

    Raises:
        ConfigurationError: a key has a size its algorithm does not have.
    """
    try:
        return SymmetricKeys(
            SoftwareAesKey(encryption),
            software_mac_key(mac, MacAlgorithm.HMAC_SHA256),
            None if wrap is None else SoftwareWrappingKey(wrap),
        )
    except (ValueError, DataRejectedError, ConfigurationError):
        raise ConfigurationError(f"{where}: an AES key has 16, 24 or 32 bytes, a MAC key at least 1") from None


def read_secret(path: Path) -> bytes:
    """Return the key a file holds as one line of hexadecimal.

    Raises:
        ConfigurationError: the file is missing, open to others, or holds something else or a key that can be guessed.
    """
    text = _private_bytes(path)
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ConfigurationError(f"{path}: not one line of hexadecimal") from None
    if len(key) < _SHORTEST_KEY:
        raise ConfigurationError(f"{path}: a key of {len(key)} bytes; it must have at least {_SHORTEST_KEY}")
    return key


def read_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM or DER file. Raises ConfigurationError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        key = (load_pem_public_key if b"-----BEGIN" in data else load_der_public_key)(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path}: no public key in PEM or DER (SubjectPublicKeyInfo)") from None
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _private_bytes(path: Path) -> bytes:
    """Return the content of a file that only its owner may read."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(f"{path}: is open to others; run: chmod 600 {path}")
            return file.read(_MAX_KEY_FILE)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None

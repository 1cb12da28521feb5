"""The ceremony file: the one document a reviewer reads to know what will happen to a token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hsm_msl.backend.pkcs11.vendors import PROFILES
from hsm_msl.errors import ConfigurationError
from hsm_msl.toml_document import parse_document, suggestion
from hsm_provision.templates import Traits

TOKEN_LABEL_BYTES = 32
"""Room for a label in CK_TOKEN_INFO."""

KeyState = Literal["pre-active", "primary", "active", "retired", "destroyed"]


class InitialiseSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Initialise the token when it does not exist yet."""

    so_pin: str
    create_missing_pin_files: bool = False


class TokenSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which token.

    Attributes:
        module: absolute path of the PKCS#11 module, or a known alias such as ``softhsm``.
        label: the token's label.
        user_pin: source of the user PIN.
        serial: the token's serial number, where labels are not unique.
        parameters: the string some modules take at their initialisation (NSS, YubiHSM).
        vendor: name of the vendor profile; chosen by what the token says of itself when absent.
        wrap: how wrapping keys wrap: by the token's AES key wrap or, on a token without it, by blocks over AES-ECB.
            Such keys are made for encrypting and decrypting, and what they unwrap passes through the host.
        unknown_attributes: attributes that this token does not know, left out of every template; what they would
            forbid is tried all the same.
        initialise: how a token that does not exist yet is made.
    """

    module: str
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=TOKEN_LABEL_BYTES)]
    user_pin: str
    serial: str | None = None
    parameters: str | None = None
    vendor: str | None = None
    wrap: Literal["token", "blocks"] = "token"
    unknown_attributes: tuple[Literal["COPYABLE", "SIGN_RECOVER", "VERIFY_RECOVER"], ...] = ()
    initialise: InitialiseSection | None = None

    @property
    def traits(self) -> Traits:
        """What is said about the attributes of this token."""
        return Traits(unknown=frozenset(self.unknown_attributes), by_blocks=self.wrap == "blocks")


class ImportSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An existing key: its file, and the form the file has."""

    file: str
    form: Literal["hex", "raw", "base64", "pkcs8", "jwk", "sealed"] = "hex"


class KeySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key version to exist on the token."""

    profile: str
    purpose: str | None = None
    version: Annotated[int, msgspec.Meta(ge=1)] = 1
    state: Literal["pre-active", "primary", "active"] = "primary"
    bits: int | None = None
    curve: Literal["P-256", "P-384"] | None = None
    import_: ImportSection | None = msgspec.field(name="import", default=None)
    backup: bool = False


class PresharedSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pre-shared keys of one entity, from hex files; the wrapping key is derived when no file is given."""

    identity: Annotated[str, msgspec.Meta(min_length=1)]
    encryption: str
    mac: str
    wrap: str | None = None
    version: Annotated[int, msgspec.Meta(ge=1)] = 1
    backup: bool = False
    create_missing_files: bool = False


class UserEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user: the password comes from a file and is stored as argon2id only."""

    email: Annotated[str, msgspec.Meta(min_length=3)]
    password: str
    identity: str | None = None
    create_missing_file: bool = False


class UsersSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Users to enter into the users database."""

    database: str
    user: tuple[UserEntry, ...] = ()


class AttestationSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The certificates (PEM file) of the token's vendor that evidence of kind ``x509-chain`` must lead to."""

    trust: str


class FleetSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The database (path or URL) that keeps the pre-shared keys of a large fleet, wrapped under ``fleet.storage``."""

    database: str


class RecordsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where manifest, plans and audit log are kept, and the label of the token key that signs them.

    ``token_copies`` says how many copies of a SoftHSMv2 token's files are kept there as well.
    """

    directory: str
    signing_key: str | None = None
    token_copies: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2


class ApproverSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person whose approval counts: a name and the public half of their Ed25519 key, Base64."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    public_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=$")]


class PolicySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many different approvers a step needs."""

    destroy_approvals: Annotated[int, msgspec.Meta(ge=2)] = 2
    apply_approvals: Annotated[int, msgspec.Meta(ge=0)] = 0


class Authority(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who approves, ordered by name, and how many must: what an ``apply`` records, so that nobody swaps it unseen."""

    approvers: tuple[ApproverSection, ...] = ()
    apply_approvals: int = 0
    destroy_approvals: int = 2


class BackupSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of the backup key (profile ``backup-wrap``) under which keys are backed up at their creation."""

    version: Annotated[int, msgspec.Meta(ge=1)] = 1


class Ceremony(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole ceremony."""

    ceremony: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    environment: Literal["development", "production"]
    token: TokenSection
    records: RecordsSection
    description: str = ""
    profiles: str = "../profiles"
    key: tuple[KeySection, ...] = ()
    preshared: tuple[PresharedSection, ...] = ()
    users: UsersSection | None = None
    approver: tuple[ApproverSection, ...] = ()
    policy: PolicySection = PolicySection()
    backup: BackupSection | None = None
    fleet: FleetSection | None = None
    attestation: AttestationSection | None = None

    @property
    def authority(self) -> Authority:
        """Who approves under this ceremony."""
        approvers = tuple(sorted(self.approver, key=lambda entry: entry.name))
        return Authority(approvers, self.policy.apply_approvals, self.policy.destroy_approvals)


@dataclass(frozen=True, slots=True)
class CeremonyFile:
    """A ceremony, the file it came from and the directory its working paths are relative to."""

    document: Ceremony
    path: Path
    directory: Path
    digest: str

    def working_path(self, text: str) -> Path:
        """Resolve a path of the ceremony (PINs, key files, records, databases) against the working directory."""
        return self.directory / text

    @property
    def profiles_directory(self) -> Path:
        """Where the profiles are: beside the ceremony, so that both are reviewed together."""
        return self.path.parent / self.document.profiles

    @property
    def records_directory(self) -> Path:
        """Where manifest, plans and audit log are kept."""
        return self.working_path(self.document.records.directory)


def read_ceremony(path: Path, directory: Path | None = None) -> CeremonyFile:
    """Read a ceremony file.

    Args:
        path: the TOML file.
        directory: what working paths in it are relative to; the file's own directory when None.

    Raises:
        ConfigurationError: the file cannot be read or does not fit; the text names the key and what is allowed.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text: {error.reason}") from error
    document = parse_document(text, Ceremony, origin=str(path))
    vendor = document.token.vendor
    if vendor is not None and vendor not in PROFILES:
        raise ConfigurationError(
            f"{path}: token.vendor: no vendor profile {vendor!r}; {suggestion(vendor, PROFILES)}"
        )
    if len(document.token.label.encode()) > TOKEN_LABEL_BYTES:
        raise ConfigurationError(f"{path}: token.label: more than {TOKEN_LABEL_BYTES} bytes; a token holds no more")
    for unique in ("name", "public_key"):
        values = [getattr(entry, unique) for entry in document.approver]
        if len(set(values)) != len(values):
            raise ConfigurationError(f"{path}: approver.{unique}: each approver needs one of their own")
    if document.environment == "production" and document.token.initialise is not None:
        initialise = document.token.initialise
        if initialise.create_missing_pin_files:
            raise ConfigurationError(
                f"{path}: token.initialise.create_missing_pin_files: only a development ceremony may invent PINs"
            )
    if document.environment == "production":
        for index, entry in enumerate(document.preshared):
            if entry.create_missing_files:
                raise ConfigurationError(
                    f"{path}: preshared[{index}].create_missing_files: only a development ceremony may invent keys"
                )
    return CeremonyFile(document, path, (directory or path.parent).absolute(), hashlib.sha256(raw).hexdigest())

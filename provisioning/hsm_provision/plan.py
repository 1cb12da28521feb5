"""The plan: exactly what ``apply`` would do to this token now, and the hash by which people agree to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from hsm_provision.ceremony import Authority, CeremonyFile
from hsm_provision.check_values import CheckValue, check_value_of_secret, public_check_value
from hsm_provision.desired_keys import DesiredKey, load_material, source_missing
from hsm_provision.errors import ConflictError
from hsm_provision.key_material import PrivateMaterial
from hsm_provision.labels import KeyName, make_name
from hsm_provision.manifest import ManifestBody
from hsm_provision.mechanisms import missing_mechanisms
from hsm_provision.templates import Provenance, Traits, creation_template, halves
from hsm_provision.token.facts import Listing
from hsm_provision.transport import SealedMaterial
from hsm_provision.user_import import PlannedUser
from hsm_provision.verification import read_problems

Action = Literal["generate", "import", "regenerate", "reimport", "adopt", "keep", "conflict"]
CREATING: tuple[Action, ...] = ("generate", "import", "regenerate", "reimport")
REMAKING: tuple[Action, ...] = ("regenerate", "reimport")
"""For a key an interrupted run left as half a pair: the half is removed and the key made again."""
FORMAT = "hsm-provision plan 1"


class PlannedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What will happen about one key version, with the exact templates of every object to be created."""

    label: str
    id: str
    profile: str
    type: str
    size: int | str
    state: str
    action: Action
    provenance: Provenance
    source: str | None = None
    validity_days: int = 0
    """Of its profile; what is agreed to must not depend on a file that can change afterwards."""
    backup: str | None = None
    """Label of the key under which it is backed up at its creation."""
    check: CheckValue | None = None
    templates: dict[str, dict[str, bool]] = {}
    problems: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole plan. Its hash covers every field."""

    format: str
    ceremony: str
    ceremony_sha256: str
    environment: str
    token_label: str
    token_serial: str | None
    initialise: bool
    manifest_sequence: int
    keys: tuple[PlannedKey, ...]
    users: tuple[PlannedUser, ...] = ()
    bystanders: tuple[str, ...] = ()
    """Labels of key objects on the token that the ceremony does not mention."""
    authority: Authority | msgspec.UnsetType = msgspec.UNSET
    """Who approves from then on, where that changes."""

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of the plan, hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    @property
    def conflicts(self) -> tuple[PlannedKey, ...]:
        """The keys that stop this plan from being applied."""
        return tuple(key for key in self.keys if key.action == "conflict")

    @property
    def changes(self) -> int:
        """How many things would be changed; 0 means there is nothing to do."""
        return (
            int(self.initialise)
            + sum(key.action not in ("keep", "conflict") for key in self.keys)
            + sum(user.action != "keep" for user in self.users)
            + isinstance(self.authority, Authority)
        )


def make_plan(
    file: CeremonyFile,
    wanted: Sequence[DesiredKey],
    *,
    listing: Listing | None,
    serial: str | None,
    mechanisms: frozenset[str],
    manifest: ManifestBody | None,
    users: Sequence[PlannedUser],
    interrupted: frozenset[str],
    token_check: Callable[[DesiredKey], CheckValue],
) -> Plan:
    """Compare a ceremony with a token. Changes nothing.

    Args:
        file: the ceremony.
        wanted: its keys.
        listing: what is on the token; None when the token does not exist yet and may be initialised.
        serial: the token's serial number, None with ``listing``.
        mechanisms: what the token can do; empty with no listing.
        manifest: what was recorded before.
        users: what will happen about users.
        interrupted: labels an interrupted run was to create.
        token_check: computes the check value of a key that is on the token.

    Returns:
        The plan.

    Raises:
        ConfigurationError: a key file cannot be read or does not fit.
        BackendUnavailableError: the token fails.
    """
    backup_label = backup_key_name(file).label
    traits = file.document.token.traits if listing is None else listing.traits
    planned = tuple(
        _plan_key(key, listing, mechanisms, traits, manifest, interrupted, backup_label, token_check)
        for key in wanted
    )
    labels = {key.name.label for key in wanted}
    found = {item.label for item in listing.objects} if listing is not None else set()
    authority = file.document.authority
    return Plan(
        format=FORMAT,
        ceremony=file.document.ceremony,
        ceremony_sha256=file.digest,
        environment=file.document.environment,
        token_label=file.document.token.label,
        token_serial=serial,
        initialise=listing is None,
        manifest_sequence=manifest.sequence if manifest else 0,
        keys=planned,
        users=tuple(users),
        bystanders=tuple(sorted(found - labels)),
        authority=msgspec.UNSET if authority == (manifest.approving if manifest else Authority()) else authority,
    )


def backup_key_name(file: CeremonyFile) -> KeyName:
    """Return the name of the ceremony's backup key."""
    return make_name("backup", "wrap", file.document.backup.version if file.document.backup else 1)


def demand_applicable(plan: Plan) -> None:
    """Refuse a plan with conflicts.

    Raises:
        ConflictError: with every conflict in words.
    """
    if plan.conflicts:
        lines = [f"{key.label}: {'; '.join(key.problems)}" for key in plan.conflicts]
        raise ConflictError("the token does not allow this ceremony; nothing was changed:\n  " + "\n  ".join(lines))


def _plan_key(
    key: DesiredKey,
    listing: Listing | None,
    mechanisms: frozenset[str],
    traits: Traits,
    manifest: ManifestBody | None,
    interrupted: frozenset[str],
    backup_label: str,
    token_check: Callable[[DesiredKey], CheckValue],
) -> PlannedKey:
    recorded = manifest.key(key.name.label) if manifest else None
    provenance: Provenance = "generated"
    if key.source is not None:
        provenance = "imported"
    elif key.backup:
        provenance = "escrowed"
    if recorded is not None:
        provenance = recorded.provenance
    check = _source_check(key)
    problems: list[str] = []
    present = listing is not None and bool(listing.of_label(key.name.label))
    action: Action
    if present and listing is not None and not recorded and key.name.label in interrupted and _half(listing, key):
        action = "reimport" if key.source is not None else "regenerate"
    elif present and listing is not None:
        action = "keep" if recorded else "adopt"
        problems.extend(read_problems(listing, key.profile, key.name, key.size, provenance))
        expected = recorded.check if recorded else check
        if not problems and expected is not None:
            actual = token_check(key)
            if actual != expected:
                problems.append(f"check value on the token is {actual.short}, expected {expected.short}: another key")
    else:
        action = "import" if key.source is not None else "generate"
        if recorded is not None and recorded.state == "destroyed":
            problems.append("this version was destroyed; ask for the next version")
        elif recorded is not None:
            problems.append("recorded in the manifest but missing on the token; restore it")
        if key.backup and (manifest is None or manifest.key(backup_label) is None):
            problems.append(
                f"is to be backed up under {backup_label}, which does not exist yet; run `backup-key` first"
            )
        if listing is not None:
            lacking = missing_mechanisms(key, mechanisms, by_blocks=traits.by_blocks)
            problems.extend(f"the token lacks {name}" for name in lacking)
            if lacking and key.profile.blocks and not traits.by_blocks:
                problems.append('with `wrap = "blocks"` in [token] it would wrap by blocks')
    if recorded is None and manifest is not None and key.state == "primary":
        primary = manifest.primary_of(key.name.family)
        if primary is not None:
            problems.append(f"{primary.label} is primary; use `rotate` to change that")
    templates: dict[str, dict[str, bool]] = {}
    if action in CREATING:
        templates = {half: creation_template(key.profile, half, traits) for half in halves(key.profile)}
    return PlannedKey(
        label=key.name.label,
        id=key.name.key_id.hex(),
        profile=key.profile.name,
        type=key.profile.type,
        size=key.size,
        state=recorded.state if recorded else key.state,
        action="conflict" if problems else action,
        provenance=provenance,
        source=key.source_text,
        validity_days=0 if recorded else key.profile.validity_days,
        backup=backup_label if key.backup else None,
        check=check,
        templates=templates,
        problems=tuple(problems),
    )


def _half(listing: Listing, key: DesiredKey) -> bool:
    """Tell whether only one object of a pair is there, as an interruption between the two leaves it."""
    return len(halves(key.profile)) == 2 and len(listing.of_label(key.name.label)) == 1


def _source_check(key: DesiredKey) -> CheckValue | None:
    if key.source is None or source_missing(key):
        return None
    material = load_material(key)
    if isinstance(material, SealedMaterial):
        return material.check
    if isinstance(material, PrivateMaterial):
        return public_check_value(material.spki)
    return check_value_of_secret(key.profile, material.value)


def plan_rows(plan: Plan) -> list[Mapping[str, str]]:
    """Return one row per key and user for a table."""
    rows: list[Mapping[str, str]] = [
        {
            "key": key.label,
            "action": key.action,
            "kind": f"{key.type} {key.size}",
            "profile": key.profile,
            "from": key.source or ("token" if key.action == "generate" else ""),
            "check": key.check.short if key.check else "",
        }
        for key in plan.keys
    ]
    rows.extend(
        {"key": user.email, "action": user.action, "kind": "user", "profile": "", "from": "", "check": ""}
        for user in plan.users
    )
    return rows

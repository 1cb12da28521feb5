"""What a ceremony report says: gathered from token, manifest and audit log, independent of how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from textwrap import wrap

from hsm_msl.audit.chain import CHECKPOINT, AuditRecord
from hsm_msl.audit.verification import AuditVerdict, read_records, verify_log
from hsm_msl.errors import ConfigurationError
from hsm_provision import __version__
from hsm_provision.ceremony import CeremonyFile
from hsm_provision.manifest import Manifest, ManifestKey
from hsm_provision.profiles import KeyProfile
from hsm_provision.record_signing import first_signer
from hsm_provision.records import WITNESSES, Records
from hsm_provision.spoken import spoken
from hsm_provision.token_verification import TokenVerdict
from hsm_provision.verification import KeyProof

_GROUP = 8
"""Digits of a fingerprint between two spaces, so that people can compare it and a line can break."""


@dataclass(frozen=True, slots=True)
class ReportedKey:
    """One key version: its record, its words, what it is for, and its proof."""

    entry: ManifestKey
    words: str
    purpose: str
    proof: KeyProof


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page."""

    ceremony: str
    description: str
    environment: str
    ceremony_sha256: str
    manifest_sha256: str
    made: str
    maker: str
    witnesses: tuple[str, ...]
    tool: str
    module: str
    manifest: Manifest
    keys: tuple[ReportedKey, ...]
    verdict: TokenVerdict
    audit: AuditVerdict | None
    timeline: tuple[AuditRecord, ...]

    @property
    def sound(self) -> bool:
        """Tell whether token, manifest and audit log are all as they should be."""
        return self.verdict.sound and (self.audit is None or self.audit.problem is None)

    @property
    def operators(self) -> tuple[str, ...]:
        """Whoever acted, in the order of the log; the maker of the report where the log names nobody."""
        acted = (record.actor for record in self.timeline if record.event != "step approved")
        return tuple(dict.fromkeys(acted)) or (self.maker,)

    @property
    def approvals(self) -> tuple[str, ...]:
        """Who approved what, and when."""
        return tuple(
            f"{record.details['approver']}: {record.details['step']} {record.details['hash'][:16]}, {record.time}; "
            f"key {_grouped(record.details.get('approver key', 'not recorded'))}, "
            f"ceremony file {_grouped(record.details.get('ceremony sha256', 'not recorded'))}"
            for record in self.timeline
            if record.event == "step approved" and {"approver", "step", "hash"} <= record.details.keys()
        )

    @property
    def plans(self) -> tuple[str, ...]:
        """The hashes of the plans that were carried out, oldest first."""
        found = [record.details["plan"] for record in self.timeline if "plan" in record.details]
        return tuple(dict.fromkeys(found))


def make_report(
    file: CeremonyFile,
    module: str,
    verdict: TokenVerdict,
    manifest: Manifest,
    profiles: Mapping[str, KeyProfile],
    records: Records,
    witnesses: Sequence[str],
) -> Report:
    """Gather what a reader of the report needs.

    Args:
        file: the ceremony.
        module: path of the token's module.
        verdict: the proof of the token, made just now.
        manifest: the reference.
        profiles: the key profiles.
        records: audit log, clock, and who makes the report.
        witnesses: names to be printed with a line to sign, besides those the log names.
    """
    timeline = _timeline(records)
    present = [name for record in timeline for name in record.details.get(WITNESSES, "").split("; ") if name]
    proofs = {proof.label: proof for proof in verdict.proofs}
    keys = tuple(
        ReportedKey(
            entry,
            spoken(entry.check),
            profiles[entry.profile].description if entry.profile in profiles else "",
            proofs[entry.label],
        )
        for entry in manifest.body.keys
    )
    return Report(
        ceremony=file.document.ceremony,
        description=file.document.description,
        environment=file.document.environment,
        ceremony_sha256=file.digest,
        manifest_sha256=sha256(records.manifest_path.read_bytes()).hexdigest(),
        made=records.now(),
        maker=records.actor,
        witnesses=tuple(dict.fromkeys((*present, *witnesses))),
        tool=__version__,
        module=module,
        manifest=manifest,
        keys=keys,
        verdict=verdict,
        audit=_audit(manifest, records),
        timeline=timeline,
    )


def _grouped(digest: str) -> str:
    return " ".join(wrap(digest, _GROUP))


def _audit(manifest: Manifest, records: Records) -> AuditVerdict | None:
    first = first_signer(manifest)
    if first is None:
        return None
    known = () if manifest.body.audit is None else (manifest.body.audit,)
    return verify_log([records.audit_path], first, known=known)


def _timeline(records: Records) -> tuple[AuditRecord, ...]:
    try:
        return tuple(record for record in read_records(records.audit_path) if record.event != CHECKPOINT)
    except ConfigurationError:
        # The verdict of the log says what is wrong with it; the page is still worth having.
        return ()

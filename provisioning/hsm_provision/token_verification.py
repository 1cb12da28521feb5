"""``verify``: the whole token against the whole manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_provision.labels import parse_label
from hsm_provision.manifest import Manifest, ManifestKey
from hsm_provision.profiles import KeyProfile
from hsm_provision.record_signing import signed_for, signed_here
from hsm_provision.records import Progress
from hsm_provision.token.facts import Listing, ObjectFacts
from hsm_provision.token.objects import TokenSession, list_keys, public_spki
from hsm_provision.verification import KeyProof, prove_key


@dataclass(frozen=True, slots=True)
class TokenVerdict:
    """Every key with its proof, and every problem that belongs to no recorded key."""

    proofs: tuple[KeyProof, ...]
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Tell whether nothing is wrong anywhere."""
        return not self.problems and all(proof.sound for proof in self.proofs)


KEYS_PER_REPORT = 20
"""How many proofs go by between two reports of progress."""


def verify_token(
    session: TokenSession,
    manifest: Manifest,
    profiles: Mapping[str, KeyProfile],
    trusted: bytes | None = None,
    progress: Progress | None = None,
    *,
    signing_key: str | None = None,
) -> TokenVerdict:
    """Prove every recorded key, and name every object nobody recorded.

    Args:
        session: the token.
        manifest: the reference; its own signature was checked when it was read.
        profiles: the key profiles by name.
        trusted: the public key that must have signed the manifest (SubjectPublicKeyInfo DER); None takes the signing
            key from the token itself.
        progress: told now and then how far it is.
        signing_key: label of the key that signs manifests, as the ceremony names it; a manifest without its
            signature is then no reference.

    Returns:
        The verdict.

    Raises:
        BackendUnavailableError: the token fails, so nothing is proved.
        KeyNotFoundError: the manifest's signing key is not on the token.
    """
    listing = list_keys(session)
    problems = _signature_problems(session, manifest, trusted, signing_key)
    if manifest.body.token.serial != session.identity.serial:
        problems.append(f"the manifest describes token {manifest.body.token.serial}, not {session.identity.serial}")
    if listing.unreadable:
        problems.append(f"{listing.unreadable} object(s) on the token cannot be read (damaged, or of another kind)")
    recorded = {entry.label for entry in manifest.body.keys}
    problems.extend(_unknown(found) for found in listing.objects if found.label not in recorded)
    proofs = []
    for entry in manifest.body.keys:
        proofs.append(_prove(session, entry, profiles, listing))
        if progress is not None and len(proofs) % KEYS_PER_REPORT == 0:
            progress(f"{len(proofs)} of {len(manifest.body.keys)} keys tried")
    return TokenVerdict(tuple(proofs), tuple(problems))


def weak_flags(found: ObjectFacts) -> tuple[str, ...]:
    """Return, in capitals, what is dangerous about an object whatever it is for."""
    if found.half == "public":
        return ()
    attributes = found.attributes
    rules = {
        "NOT SENSITIVE": attributes.get("SENSITIVE") is False,
        "EXTRACTABLE": attributes.get("EXTRACTABLE") is True,
        "MODIFIABLE": attributes.get("MODIFIABLE") is True,
        "NOT PRIVATE": attributes.get("PRIVATE") is False,
        "WRAPS AND DECRYPTS": bool(
            (attributes.get("WRAP") or attributes.get("UNWRAP"))
            and (attributes.get("DECRYPT") or attributes.get("ENCRYPT"))
        ),
        "SIGNS AND DECRYPTS": bool(
            found.half == "private"
            and attributes.get("SIGN")
            and (attributes.get("DECRYPT") or attributes.get("UNWRAP"))
        ),
    }
    return tuple(name for name, applies in rules.items() if applies)


def _prove(
    session: TokenSession, entry: ManifestKey, profiles: Mapping[str, KeyProfile], listing: Listing
) -> KeyProof:
    if entry.state == "destroyed":
        problem = ("it was destroyed, and is on the token again",) if listing.of_label(entry.label) else ()
        return KeyProof(entry.label, None, problem)
    profile = profiles.get(entry.profile)
    name = parse_label(entry.label)
    if profile is None or name is None:
        return KeyProof(entry.label, None, (f"its profile {entry.profile!r} is not known any more",))
    return prove_key(session, profile, name, entry.size, entry.provenance, entry.check)


def _signature_problems(
    session: TokenSession, manifest: Manifest, trusted: bytes | None, signing_key: str | None
) -> list[str]:
    if manifest.signature is None:
        return ["the manifest is not signed"] if trusted is not None or signing_key is not None else []
    if trusted is None and not signed_here(session, manifest, signing_key):
        return ["the manifest was signed by another key"]
    expected = trusted if trusted is not None else public_spki(session, manifest.signature.key)
    if not signed_for(manifest, expected):
        return ["the manifest was signed by another key"]
    return []


def _unknown(found: ObjectFacts) -> str:
    flags = weak_flags(found)
    danger = f" ({', '.join(flags)})" if flags else ""
    return f"unknown {found.half} object {found.label!r} ({found.kind} {found.size}){danger}"

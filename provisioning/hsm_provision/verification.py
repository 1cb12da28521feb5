"""Whether a key on a token is what its profile says: by reading, and by trying what it must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_provision.check_values import CheckValue
from hsm_provision.labels import KeyName
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import Provenance, Traits, expected_attributes, halves
from hsm_provision.token.facts import Listing, ObjectFacts
from hsm_provision.token.objects import TokenSession, find_object, list_keys, public_spki
from hsm_provision.token.possession import halves_match
from hsm_provision.token.probing import Refusal, token_check_value, try_refusals


@dataclass(frozen=True, slots=True)
class KeyProof:
    """The result of verifying one key: every problem in words, and the check value the token gave."""

    label: str
    check: CheckValue | None
    problems: tuple[str, ...]
    attributes: tuple[tuple[str, bool, bool], ...] = ()
    """Attribute name with its half, whether it must be true, whether it was as it must be."""
    tried: tuple[Refusal, ...] = ()
    """What the key was to refuse."""

    @property
    def sound(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems


def read_problems(
    listing: Listing, profile: KeyProfile, name: KeyName, size: int | str, provenance: Provenance
) -> tuple[str, ...]:
    """Compare what the token says of a key with what its profile demands; changes and tries nothing.

    Args:
        listing: what was read from the token.
        profile: the kind of key.
        name: the key.
        size: bits or curve name.
        provenance: where the key is said to come from.

    Returns:
        Every difference, in words; empty for a key that fits.
    """
    objects = listing.of_label(name.label)
    problems: list[str] = []
    expected = halves(profile)
    for half in expected:
        matching = [found for found in objects if found.half == half]
        if not matching:
            problems.append(f"its {half} object is missing")
        elif len(matching) > 1:
            problems.append(f"{len(matching)} {half} objects carry this label")
        else:
            problems.extend(_object_problems(matching[0], profile, name, size, provenance, listing.traits))
    problems.extend(
        f"an unexpected {found.half} object carries this label" for found in objects if found.half not in expected
    )
    others = [found.label for found in listing.of_id(name.key_id) if found.label != name.label]
    problems.extend(f"object {label!r} carries its ID" for label in others)
    return tuple(problems)


def attribute_checks(
    listing: Listing, profile: KeyProfile, name: KeyName, provenance: Provenance
) -> tuple[tuple[str, bool, bool], ...]:
    """Return every attribute demanded of a key: name with half, value demanded, and whether it is so."""
    rows: list[tuple[str, bool, bool]] = []
    for found in listing.of_label(name.label):
        for attribute, wanted in expected_attributes(profile, found.half, provenance, listing.traits).items():
            rows.append((f"{found.half} {attribute}", wanted, found.attributes.get(attribute) == wanted))
    return tuple(rows)


def prove_key(
    session: TokenSession,
    profile: KeyProfile,
    name: KeyName,
    size: int | str,
    provenance: Provenance,
    expected: CheckValue | None = None,
) -> KeyProof:
    """Verify a key by reading it back, by trying what it must refuse, and by its check value.

    Args:
        session: the token.
        profile: the kind of key.
        name: the key.
        size: bits or curve name.
        provenance: where the key comes from.
        expected: the check value it must have, when that is known.

    Returns:
        The proof; look at ``problems``.

    Raises:
        BackendUnavailableError: the token fails, so nothing is proved.
    """
    listing = list_keys(session)
    problems = list(read_problems(listing, profile, name, size, provenance))
    rows = attribute_checks(listing, profile, name, provenance)
    if any("object is missing" in problem or "carry this label" in problem for problem in problems):
        return KeyProof(name.label, None, tuple(problems), rows)
    tried = try_refusals(session, profile, name.label)
    problems.extend(refusal.danger for refusal in tried if not refusal.refused)
    if profile.type in ("rsa", "ec"):
        private = find_object(session, name.label, "private")
        if not halves_match(profile, private, public_spki(session, name.label)):
            problems.append("its private and public half do not belong together")
    check = token_check_value(session, profile, name.label)
    if expected is not None and check != expected:
        problems.append(f"its check value is {check.short}, not {expected.short}: this is another key")
    return KeyProof(name.label, check, tuple(problems), rows, tried)


def _object_problems(
    found: ObjectFacts, profile: KeyProfile, name: KeyName, size: int | str, provenance: Provenance, traits: Traits
) -> list[str]:
    problems = []
    if found.kind != profile.type:
        problems.append(f"its {found.half} object is a key of type {found.kind}, not {profile.type}")
    elif found.size not in (size, 0):
        problems.append(f"its {found.half} object has size {found.size}, not {size}")
    if found.key_id != name.key_id:
        problems.append(f"its {found.half} object has ID {found.key_id.hex() or '(none)'}, not {name.key_id.hex()}")
    problems.extend(_attribute_problems(found, expected_attributes(profile, found.half, provenance, traits)))
    return problems


def _attribute_problems(found: ObjectFacts, expected: Mapping[str, bool]) -> list[str]:
    problems = []
    for attribute, wanted in expected.items():
        actual = found.attributes.get(attribute)
        if actual is None:
            problems.append(f"{found.half} {attribute} cannot be read; it must be {_word(wanted)}")
        elif actual != wanted:
            problems.append(f"{found.half} {attribute} is {_word(actual)}; it must be {_word(wanted)}")
    return problems


def _word(value: bool) -> str:
    return "true" if value else "false"

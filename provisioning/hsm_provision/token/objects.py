"""Key objects of one token, read, listed, found and destroyed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asn1crypto.keys import PublicKeyInfo
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

from hsm_msl.backend.pin import PinSource
from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.backend.pkcs11.vendors import PROFILES, VendorProfile, recognise
from hsm_msl.errors import KeyNotFoundError, KeyPolicyError
from hsm_provision.profiles import KeyProfile
from hsm_provision.templates import PLAIN, Half, Traits, creation_template
from hsm_provision.token.access import logged_in, token_errors
from hsm_provision.token.facts import Listing, ObjectFacts, TokenIdentity
from hsm_provision.token.vocabulary import BOOLEAN_ATTRIBUTES, CLASSES, CURVE_NAMES, HALVES, KINDS


@dataclass(frozen=True, slots=True)
class TokenSession:
    """A logged-in read/write session on one token.

    Attributes:
        module: the loaded module.
        identity: what the token says of itself.
        binding: the binding's session.
        vendor: what is known of such tokens.
        traits: what is particular about the attributes of this one.
    """

    module: Module
    identity: TokenIdentity
    binding: Any
    vendor: VendorProfile
    traits: Traits

    def template(self, profile: KeyProfile, half: Half) -> dict[str, bool]:
        """Return the attributes of one object of a key on this token (``creation_template``)."""
        return creation_template(profile, half, self.traits)

    def mechanisms(self) -> frozenset[str]:
        """Return the names of the mechanisms the token lists and does right. Raises BackendUnavailableError."""
        with token_errors("listing mechanisms"):
            listed = self.binding.token.slot.get_mechanisms()
        return frozenset(
            item.name for item in listed if isinstance(item, Mechanism) and item not in self.vendor.broken
        )

    def random(self, size: int) -> bytes:
        """Return ``size`` bytes from the token's generator. Raises BackendUnavailableError."""
        with token_errors("drawing random bytes"):
            return bytes(self.binding.generate_random(size * 8))


@contextlib.contextmanager
def token_session(
    module: Module,
    label: str,
    serial: str | None,
    pin: PinSource,
    refused: Path | None = None,
    *,
    vendor: str | None = None,
    traits: Traits = PLAIN,
) -> Iterator[TokenSession]:
    """Open a session for the length of a ``with`` block. Arguments and errors as ``logged_in``.

    Args:
        module, label, serial, pin, refused: as there.
        vendor: name of the vendor profile; chosen by what the token says of itself when absent.
        traits: what is particular about its attributes beyond what is known of such tokens.
    """
    with logged_in(module, label, serial, pin, refused) as (identity, binding):
        found = PROFILES[vendor] if vendor else recognise(identity.manufacturer, identity.model)
        yield TokenSession(module, identity, binding, found, _joined(traits, found))


def _joined(traits: Traits, vendor: VendorProfile) -> Traits:
    unknown = {attribute.name for attribute in vendor.unknown_attributes}
    forced = {attribute.name for attribute in vendor.forced_uses}
    return Traits(traits.unknown | unknown, traits.forced | forced, traits.by_blocks)


def list_keys(session: TokenSession) -> Listing:
    """Read every key object of the token.

    Raises:
        BackendUnavailableError: the token fails. A single object that cannot be read is counted, not raised.
    """
    found: list[ObjectFacts] = []
    unreadable = 0
    with token_errors("listing keys"):
        # A search holds the session: it is drained before any object is looked at.
        handles = list(session.binding.get_objects({Attribute.TOKEN: True}))
    for handle in handles:
        try:
            if handle[Attribute.CLASS] not in HALVES:
                continue
            found.append(describe(handle))
        except PKCS11Error as error:
            if fault_of(error) is Fault.OUTAGE and not _half_written(error):
                with token_errors("reading a key"):
                    raise
            unreadable += 1
    return Listing(tuple(found), unreadable, session.traits)


def describe(handle: Any) -> ObjectFacts:
    """Read one key object. Raises the binding's errors."""
    half = HALVES[ObjectClass(handle[Attribute.CLASS])]
    key_type = handle[Attribute.KEY_TYPE]
    kind = KINDS.get(key_type, getattr(key_type, "name", str(key_type)).lower())
    attributes: dict[str, bool] = {}
    for attribute in BOOLEAN_ATTRIBUTES[half]:
        with contextlib.suppress(PKCS11Error, ValueError, NotImplementedError):
            attributes[attribute.name] = bool(handle[attribute])
    return ObjectFacts(
        label=handle[Attribute.LABEL],
        key_id=bytes(handle[Attribute.ID]),
        half=half,
        kind=kind,
        size=_size(handle, half, key_type),
        attributes=attributes,
        handle=handle.handle,
        spki=spki_of(handle) if half == "public" else None,
    )


def find_object(session: TokenSession, label: str, half: Half) -> Any:
    """Return the binding's one object with this label and class.

    Raises:
        KeyNotFoundError: there is none.
        KeyPolicyError: there are several.
        BackendUnavailableError: the token fails.
    """
    with token_errors(f"finding {label}"):
        found = list(
            session.binding.get_objects(
                {Attribute.LABEL: label, Attribute.CLASS: CLASSES[half], Attribute.TOKEN: True}
            )
        )
    if not found:
        raise KeyNotFoundError(f"no {half} key labelled {label!r} on token {session.identity.label!r}")
    if len(found) > 1:
        raise KeyPolicyError(f"{len(found)} {half} keys are labelled {label!r}; which one is meant cannot be known")
    return found[0]


def destroy_label(session: TokenSession, label: str) -> int:
    """Destroy every key object with this label, the protected ones first.

    Returns:
        How many objects were destroyed.

    Raises:
        KeyPolicyError: the token refuses.
        BackendUnavailableError: the token fails.
    """
    destroyed = 0
    for half in ("secret", "private", "public"):
        with token_errors(f"destroying {label}"):
            query = {Attribute.LABEL: label, Attribute.CLASS: CLASSES[half], Attribute.TOKEN: True}
            for handle in list(session.binding.get_objects(query)):
                handle.destroy()
                destroyed += 1
    return destroyed


def public_spki(session: TokenSession, label: str) -> bytes:
    """Return the public half of a pair, SubjectPublicKeyInfo DER. Raises as ``find_object``."""
    handle = find_object(session, label, "public")
    with token_errors(f"reading {label}"):
        return spki_of(handle)


def _half_written(error: PKCS11Error) -> bool:
    # An object cut short by a crash answers with a bad attribute value or a general error of its own, while the
    # listing that found it worked.
    return fault_of(error) in (Fault.OUTAGE, Fault.MECHANISM)


def _size(handle: Any, half: Half, key_type: KeyType) -> int | str:
    if half == "secret":
        try:
            return int(handle[Attribute.VALUE_LEN]) * 8
        except PKCS11Error:
            return 0
    if key_type == KeyType.RSA:
        return len(bytes(handle[Attribute.MODULUS])) * 8
    if key_type == KeyType.EC:
        parameters = bytes(handle[Attribute.EC_PARAMS])
        return CURVE_NAMES.get(parameters, parameters.hex())
    return 0


def spki_of(handle: Any) -> bytes:
    """Return a public key object as SubjectPublicKeyInfo DER. Raises the binding's errors."""
    key_type = handle[Attribute.KEY_TYPE]
    if key_type == KeyType.EC:
        return bytes(encode_ec_public_key(handle))
    if key_type == KeyType.RSA:
        return bytes(PublicKeyInfo.wrap(encode_rsa_public_key(handle), "rsa").dump())
    return b""

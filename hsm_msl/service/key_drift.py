"""Whether a key on the token is still the one the key manifest describes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from hsm_msl.backend.any_token import PackingKey
from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.key_manifest import KeyCheck
from hsm_msl.ports import AesKey, MacKey, SigningKey, WrappingKey

HMAC_TEXT = b"hsm-provision check value v1"
_ZERO = bytes(16)
_SYMMETRIC_BYTES = 8

AnyKey = AesKey | MacKey | WrappingKey | SigningKey | DerivationKey

Expected = Callable[[str], KeyCheck | None]
"""Returns what the manifest says of a key by its label, or None when it does not know the key."""


class DriftRecord:
    """Writes to the audit log when a key began to differ from the manifest and when it no longer does, once each.

    Args:
        record: writes an event and its details.
    """

    def __init__(self, record: Callable[[str, Mapping[str, str]], None]) -> None:
        self._record = record
        self._known: dict[str, str] = {}

    def found(self, label: str, problem: str | None) -> bool:
        """Take up what a comparison found, and tell whether it is another thing than the last time.

        Args:
            label: the key's label.
            problem: from ``drift``.
        """
        if self._known.get(label) == problem:
            return False
        if problem is None:
            del self._known[label]
            self._record("drift gone", {"key": label})
        else:
            self._known[label] = problem
            self._record("drift found", {"key": label, "problem": problem})
        return True


def drift(label: str, key: AnyKey, check: KeyCheck) -> str | None:
    """Return in what a key differs from the manifest's entry, for people; None when it does not.

    Its attributes were compared with its use when the handle was made; this compares the key itself.

    Args:
        label: the key's label.
        key: its handle.
        check: the entry's check value.

    Raises:
        MechanismUnsupportedError: the token cannot compute the check value.
        BackendError: it gave no answer.
    """
    found = _check_value(check.method, key)
    if found is None:
        return f"{label}: usage differs: by the manifest it is a key with check value {check.method}"
    if found != check.value:
        return f"{label}: check value ({check.method}) is {found}, by the manifest {check.value}: another key"
    return None


def _check_value(method: str, key: AnyKey) -> str | None:
    match method:
        case "ecb-zero" if isinstance(key, AesKey):
            # One zero block chained from zero is the same as ECB, which some tokens do not have.
            return key.encrypt_cbc(_ZERO, _ZERO)[:_SYMMETRIC_BYTES].hex()
        case "wrap-zero" if isinstance(key, WrappingKey):
            return key.wrap(_ZERO)[:_SYMMETRIC_BYTES].hex()
        case "hmac-label" if isinstance(key, MacKey):
            return key.sign(HMAC_TEXT)[:_SYMMETRIC_BYTES].hex()
        case "derive-zero" if isinstance(key, DerivationKey):
            return key.derive_aes(_ZERO, _ZERO, len(_ZERO)).encrypt_cbc(_ZERO, _ZERO)[:_SYMMETRIC_BYTES].hex()
        case "spki-sha256" if isinstance(key, SigningKey | PackingKey):
            return hashlib.sha256(key.public_key).hexdigest()
    return None

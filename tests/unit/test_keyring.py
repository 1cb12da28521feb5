"""The key ring: one primary, versions that still open, atomic rotation."""

from __future__ import annotations

import pytest

from hsm_msl.backend.keyring import KeyRing, KeyState, KeyVersion, PurposeView
from hsm_msl.backend.software import SoftwareAesKey
from hsm_msl.errors import ConfigurationError, KeyNotFoundError
from hsm_msl.ports import SymmetricKeys


def version(name: str, state: KeyState) -> KeyVersion[SymmetricKeys]:
    return KeyVersion(name, state, SymmetricKeys(SoftwareAesKey(bytes(16)), version=name))


def names(view: PurposeView[SymmetricKeys]) -> list[str]:
    return [keys.version for keys in view.candidates()]


def test_the_primary_comes_first_and_retired_versions_open_nothing() -> None:
    view = PurposeView(
        "msl.token",
        [version("1", KeyState.RETIRED), version("2", KeyState.ACTIVE), version("3", KeyState.PRIMARY)],
    )
    assert view.primary().version == "3"
    assert names(view) == ["3", "2"]
    assert [v.version for v in view.versions()] == ["1", "2", "3"]


def test_a_rotation_reaches_views_handed_out_before() -> None:
    ring = KeyRing(symmetric=[PurposeView("msl.token", [version("1", KeyState.PRIMARY)])])
    view = ring.symmetric("msl.token")
    ring.symmetric("msl.token").replace([version("1", KeyState.ACTIVE), version("2", KeyState.PRIMARY)])
    assert names(view) == ["2", "1"]


@pytest.mark.parametrize(
    "versions",
    [
        [],
        [version("1", KeyState.ACTIVE)],
        [version("1", KeyState.PRIMARY), version("2", KeyState.PRIMARY)],
        [version("1", KeyState.PRIMARY), version("1", KeyState.ACTIVE)],
    ],
)
def test_a_bad_set_of_versions_is_refused_and_changes_nothing(versions: list[KeyVersion[SymmetricKeys]]) -> None:
    view = PurposeView("msl.token", [version("0", KeyState.PRIMARY)])
    with pytest.raises(ConfigurationError, match=r"msl\.token"):
        view.replace(versions)
    assert names(view) == ["0"]


def test_an_unknown_purpose_is_named_with_the_known_ones() -> None:
    ring = KeyRing(symmetric=[PurposeView("msl.token", [version("1", KeyState.PRIMARY)])])
    with pytest.raises(KeyNotFoundError, match=r"'identity'.*none"):
        ring.signing("identity")
    with pytest.raises(KeyNotFoundError, match=r"configured: msl\.token"):
        ring.symmetric("service")
    assert ring.purposes() == ["msl.token"]


def test_a_purpose_given_twice_is_refused() -> None:
    views = [PurposeView("msl.token", [version("1", KeyState.PRIMARY)]) for _ in range(2)]
    with pytest.raises(ConfigurationError, match="twice"):
        KeyRing(symmetric=views)

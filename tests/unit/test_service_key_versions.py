"""Key versions in a running service: contexts over several of them, and what follows a manifest."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hsm_msl.backend.key_manifest import KeyManifest, PurposeVersions
from hsm_msl.backend.keyring import KeyState, KeyVersion, PurposeView
from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ConfigurationError, KeyNotFoundError
from hsm_msl.ports import MacAlgorithm, SymmetricKeys
from hsm_msl.service.ring_context import RingContext
from hsm_msl.service.rotation import KeyRotation


def version(number: int, state: KeyState) -> KeyVersion[SymmetricKeys]:
    seed = bytes([number])
    mac = software_mac_key(seed * 32, MacAlgorithm.HMAC_SHA256)
    return KeyVersion(f"v{number}", state, SymmetricKeys(SoftwareAesKey(seed * 16), mac))


def ring(*versions: KeyVersion[SymmetricKeys]) -> PurposeView[SymmetricKeys]:
    return PurposeView("service.x", versions)


def context(view: PurposeView[SymmetricKeys]) -> RingContext:
    return RingContext(TokenKeys(view, "service.x", os.urandom))


class TestRingContext:
    def test_old_version_opens_what_it_made(self) -> None:
        view = ring(version(1, KeyState.PRIMARY))
        both = context(view)
        made = both.encrypt(b"kept by a client")
        signature = both.sign(made)
        view.replace((version(2, KeyState.PRIMARY), version(1, KeyState.ACTIVE)))
        assert both.verify(made, signature)
        assert both.decrypt(made) == b"kept by a client"
        again = both.encrypt(b"new")
        assert both.verify(again, both.sign(again))
        assert both.decrypt(again) == b"new"
        assert not context(ring(version(1, KeyState.PRIMARY))).verify(again, both.sign(again))

    def test_retired_version_opens_nothing(self) -> None:
        view = ring(version(1, KeyState.PRIMARY))
        both = context(view)
        made = both.encrypt(b"x")
        signature = both.sign(made)
        view.replace((version(2, KeyState.PRIMARY),))
        assert not both.verify(made, signature)

    def test_threads_do_not_meet(self) -> None:
        """Two threads open tokens of two versions through one context, step by step in turn."""
        view = ring(version(2, KeyState.PRIMARY), version(1, KeyState.ACTIVE))
        both = context(view)
        made = {}
        for number in (1, 2):
            one = context(ring(version(number, KeyState.PRIMARY)))
            data = one.encrypt(b"from %d" % number)
            made[number] = data, one.sign(data)
        step = threading.Barrier(2)
        opened: dict[int, bytes] = {}

        def open_token(number: int) -> None:
            data, signature = made[number]
            assert both.verify(data, signature)
            step.wait(10)
            opened[number] = both.decrypt(data)

        threads = [threading.Thread(target=open_token, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert opened == {1: b"from 1", 2: b"from 2"}


class Announcements(KeyManifest):
    """A manifest whose readings are given; the file behind a real one is a case of its own tests."""

    def __init__(self, *readings: object) -> None:
        super().__init__(Path("/nowhere"), None)
        self.readings = list(readings)

    def poll(self):  # type: ignore[no-untyped-def]  # a test's stand-in
        reading = self.readings.pop(0) if self.readings else None
        if isinstance(reading, Exception):
            raise reading
        return reading


class TestKeyRotation:
    def rotation(self, manifest: KeyManifest, missing: set[int]) -> tuple[KeyRotation, list[object]]:
        happened: list[object] = []

        def replace(purpose: str, versions: PurposeVersions) -> None:
            if versions.primary in missing:
                raise KeyNotFoundError("not on this token yet")
            happened.append((purpose, versions.primary, versions.active))

        current = {"msl.token": PurposeVersions(1, ())}
        return KeyRotation(manifest, current, replace, lambda: happened.append("retired"), 1.0), happened

    def test_promotion_and_retirement(self) -> None:
        rotation, happened = self.rotation(
            Announcements(
                {"msl.token": PurposeVersions(1, (2,)), "unknown": PurposeVersions(1, ())},
                {"msl.token": PurposeVersions(2, (1,))},
                None,
                {"msl.token": PurposeVersions(2, ())},
            ),
            set(),
        )
        for _ in range(5):
            rotation.look()
        assert happened == [("msl.token", 1, (2,)), ("msl.token", 2, (1,)), ("msl.token", 2, ()), "retired"]

    def test_key_that_is_not_there_yet_is_tried_again(self) -> None:
        missing = {2}
        rotation, happened = self.rotation(Announcements({"msl.token": PurposeVersions(2, (1,))}), missing)
        rotation.look()
        assert happened == []
        missing.clear()
        rotation.look()
        assert happened == [("msl.token", 2, (1,))]

    def test_bad_manifest_changes_nothing(self) -> None:
        rotation, happened = self.rotation(Announcements(ConfigurationError("forged")), set())
        rotation.look()
        assert happened == []

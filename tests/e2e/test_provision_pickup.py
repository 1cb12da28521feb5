"""What a running server reads from the manifest the provisioning writes: live pick-up of rotations."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench
from hsm_msl.backend.key_manifest import KeyManifest, PurposeVersions
from hsm_msl.errors import ConfigurationError

KEYS = ('profile = "msl-token-encryption"', 'profile = "msl-token-mac"', 'profile = "msl-token-wrap"')


def opened(bench: CeremonyBench) -> tuple[Path, KeyManifest]:
    path = bench.work / "records/manifest.json"
    return path, KeyManifest(path, base64.b64decode(bench.entry("audit.signing.v1")["spki"]))


def test_a_rotation_is_seen_in_two_steps_and_only_when_it_happens(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    _, manifest = opened(bench)
    assert (manifest.poll() or {})["msl.token"] == PurposeVersions(1, ())
    assert manifest.poll() is None
    assert bench.run("rotate", ceremony, "msl.token", "--stage", "--yes").code == 0
    assert (manifest.poll() or {})["msl.token"] == PurposeVersions(1, (2,))
    assert bench.run("promote", ceremony, "msl.token", "--yes").code == 0
    assert (manifest.poll() or {})["msl.token"] == PurposeVersions(2, (1,))
    for role in ("encryption", "mac", "wrap"):
        assert bench.run("retire", ceremony, f"msl.token.{role}.v1", "--without-evidence", "--yes").code == 0
    assert (manifest.poll() or {})["msl.token"] == PurposeVersions(2, ())


def test_a_forged_or_older_manifest_is_refused_and_the_next_good_one_taken(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    path, manifest = opened(bench)
    first = path.read_bytes()
    assert manifest.poll() is not None
    assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
    second = path.read_bytes()
    assert manifest.poll() is not None
    path.write_bytes(first)
    with pytest.raises(ConfigurationError, match="older"):
        manifest.poll()
    path.write_bytes(second.replace(b'"pre-active"', b'"primary"').replace(b'"active"', b'"retired"'))
    with pytest.raises(ConfigurationError, match="not signed by the trusted key"):
        manifest.poll()
    unsigned = json.loads(second)
    unsigned["signature"] = None
    path.write_text(json.dumps(unsigned))
    with pytest.raises(ConfigurationError, match="not signed by the trusted key"):
        manifest.poll()
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="not a key manifest"):
        manifest.poll()
    path.write_bytes(second)
    assert (manifest.poll() or {})["msl.token"] == PurposeVersions(2, (1,))

"""A deployed service is installed without the code that makes, exports or destroys keys."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROVISIONING = tomllib.loads((ROOT / "provisioning/pyproject.toml").read_text())


def test_the_service_is_a_distribution_without_the_provisioning() -> None:
    assert SERVICE["project"]["scripts"] == {"hsm-msl": "hsm_msl.cli.main:main"}
    assert SERVICE["tool"]["setuptools"]["packages"]["find"] == {"include": ["hsm_msl*"]}
    assert not [name for name in SERVICE["project"]["dependencies"] if "shamir" in name]


def test_the_provisioning_goes_with_the_library_of_its_version_and_its_profiles() -> None:
    project = PROVISIONING["project"]
    assert f"hsm-msl=={SERVICE['project']['version']}" in project["dependencies"]
    assert project["version"] == SERVICE["project"]["version"]
    shipped = PROVISIONING["tool"]["setuptools"]["data-files"]
    for directory in ("ceremonies", "profiles", "schema"):
        assert any((ROOT / "provisioning").glob(shipped[f"share/hsm-provision/{directory}"][0]))

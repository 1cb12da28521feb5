"""A ceremony directory with a SoftHSMv2 token store of its own, and the real command run on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROVISIONING = Path(__file__).parents[1] / "provisioning"
SECONDS = 120

_ORACLE = """
import json, sys, pkcs11
from pkcs11 import Attribute as A, Mechanism as M, KeyType as T, ObjectClass as C
lib = pkcs11.lib(sys.argv[1])
token = lib.get_token(token_label=sys.argv[2])
session = token.open(rw=True, user_pin=sys.argv[3])
def key(label, kind=C.SECRET_KEY):
    return session.get_key(label=label, object_class=kind)
result = None
"""


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class CeremonyBench:
    """One private token store with a working directory beside it.

    ``python`` runs lines on the token through the plain binding, as a witness independent of the code under test.
    """

    directory: Path
    module: str
    label: str = "ceremony test"
    environment: dict[str, str] = field(default_factory=dict)
    cache: Path | None = None

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def pin(self) -> str:
        return (self.work / "pins/user.pin").read_text().strip()

    def write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def ceremony(
        self,
        *keys: str,
        extra: str = "",
        environment: str = "development",
        signing: bool = True,
        name: str = "test.toml",
        initialise: bool = True,
    ) -> Path:
        """Write a ceremony whose ``[[key]]`` sections are given as their TOML bodies."""
        sections = "".join(f"\n[[key]]\n{body}\n" for body in keys)
        signer = 'signing_key = "audit.signing.v1"\n' if signing else ""
        audit = '\n[[key]]\nprofile = "audit-signing"\n' if signing else ""
        init = '[token.initialise]\nso_pin = "file:pins/so.pin"\n'
        if environment == "development":
            init += "create_missing_pin_files = true\n"
        return self.write(
            name,
            f'ceremony = "{Path(name).stem}"\nenvironment = "{environment}"\n'
            f'profiles = "{PROVISIONING / "profiles"}"\n'
            f'[token]\nmodule = "{self.module}"\nlabel = "{self.label}"\nuser_pin = "file:pins/user.pin"\n'
            f'{init if initialise else ""}[records]\ndirectory = "records"\n{signer}{audit}{sections}{extra}',
        )

    def run(self, *arguments: str | Path, stdin: str = "", **variables: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "hsm_provision", *map(str, arguments)],
            env={**self.environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.work,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def script(self, lines: str, *arguments: str | Path) -> Outcome:
        """Run Python lines that use the package itself, as ``sys.argv[1:]`` sees the arguments."""
        done = subprocess.run(
            [sys.executable, "-c", lines, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.work,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def apply(self, ceremony: Path, *arguments: str) -> Outcome:
        """Apply a ceremony; on an untouched bench, equal inputs are applied once per test process and then copied."""
        fresh = self.cache is not None and not arguments and not any((self.directory / "tokens").iterdir())
        if not fresh or self.cache is None:
            return self._applied(ceremony, *arguments)
        inputs = sorted(path for path in self.work.rglob("*") if path.is_file())
        digest = hashlib.sha256(self.label.encode())
        for path in inputs:
            digest.update(repr((str(path.relative_to(self.work)), path.read_bytes())).encode())
        kept = self.cache / digest.hexdigest()
        if kept.exists():
            for part in ("tokens", "work"):
                shutil.copytree(kept / part, self.directory / part, dirs_exist_ok=True)
            return Outcome(0, (kept / "out").read_text(), (kept / "err").read_text())
        outcome = self._applied(ceremony)
        for part in ("tokens", "work"):
            shutil.copytree(self.directory / part, kept / part)
        (kept / "out").write_text(outcome.out)
        (kept / "err").write_text(outcome.err)
        return outcome

    def _applied(self, ceremony: Path, *arguments: str) -> Outcome:
        outcome = self.run("apply", ceremony, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def python(self, lines: str, pin: str | None = None) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{_ORACLE}{lines}\nprint(json.dumps(result))",
                self.module,
                self.label,
                pin or self.pin,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def manifest(self) -> Mapping[str, Any]:
        return json.loads((self.work / "records/manifest.json").read_text())["body"]

    def entry(self, label: str) -> Mapping[str, Any]:
        return next(key for key in self.manifest()["keys"] if key["label"] == label)


def make_bench(directory: Path) -> CeremonyBench:
    """Return a bench on an empty token store. A missing SoftHSMv2 is a failure, not a skip."""
    module = os.environ.get("SOFTHSM2_MODULE") or next(
        (str(path) for path in Path("/usr").glob("lib*/**/libsofthsm2.so")), ""
    )
    if not module or not shutil.which("softhsm2-util"):
        pytest.fail("SoftHSMv2 is missing; install it with: apt-get install softhsm2")
    (directory / "tokens").mkdir(parents=True)
    (directory / "work").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START")
    }
    environment = {**kept, "SOFTHSM2_CONF": str(configuration), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    return CeremonyBench(directory, str(Path(module).resolve()), environment=environment)


@pytest.fixture(scope="session")
def applied_ceremonies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where this test process keeps what equal ceremonies made."""
    return tmp_path_factory.mktemp("ceremonies")


@pytest.fixture
def bench(tmp_path: Path, applied_ceremonies: Path) -> CeremonyBench:
    """Return a private token store and working directory."""
    made = make_bench(tmp_path / "bench")
    made.cache = applied_ceremonies
    return made


@pytest.fixture
def new_bench(tmp_path: Path) -> Callable[[str], CeremonyBench]:
    """Return a maker of further benches, for tests with several tokens."""
    return lambda name: make_bench(tmp_path / name)

"""A SoftHSMv2 token store of this test process's own, with initialised tokens ready to be filled.

SoftHSMv2 looks for tokens once, when its module starts, so every token that tests of this process may need is
made before. Objects that other processes put into them are seen at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TOKENS = 12
INSTALL = "SoftHSMv2 is missing; install it with: apt-get install softhsm2"


@dataclass
class SoftHsmStore:
    """The token store.

    Attributes:
        directory: where it is.
        module: absolute path of the PKCS#11 library.
        pin: the user PIN of every token.
        so_pin: the security officer's PIN of every token.
    """

    directory: Path
    module: str
    pin: str
    so_pin: str
    _free: list[str] = field(default_factory=list)

    def take(self) -> str:
        """Return the label of a token nobody else uses."""
        if not self._free:
            pytest.fail(f"the tests of this process use more than {TOKENS} tokens; raise softhsm_fixture.TOKENS")
        return self._free.pop(0)

    @property
    def pin_file(self) -> Path:
        """The user PIN as a file only the owner can read."""
        return self.directory / "user.pin"


def softhsm_module() -> str:
    """Return the path of the SoftHSMv2 library. A missing one is a failure, not a skip."""
    found = os.environ.get("SOFTHSM2_MODULE") or next(
        (str(path) for path in sorted(Path("/usr").glob("lib*/**/libsofthsm2.so"))), ""
    )
    if not found or not shutil.which("softhsm2-util"):
        pytest.fail(INSTALL)
    return str(Path(found).resolve())


@pytest.fixture(scope="session")
def softhsm_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsmStore]:
    """Return this process's token store; ``SOFTHSM2_CONF`` points to it from then on."""
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    store = SoftHsmStore(directory, softhsm_module(), secrets.token_hex(8), secrets.token_hex(8))
    store.pin_file.touch(mode=0o600)
    store.pin_file.write_text(store.pin)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    for number in range(TOKENS):
        label = f"worker-{number}"
        subprocess.run(
            [
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                label,
                "--pin",
                store.pin,
                "--so-pin",
                store.so_pin,
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        store._free.append(label)
    yield store
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before

"""What importing a fleet costs with the real command: every key of every entity wrapped by a SoftHSMv2 token.

    python benchmarks/bench_fleet_import.py [--entities N] [--directory D]

A ceremony makes a token; ``hsm-provision import-fleet`` runs on 1,000 entities and then on all of them, in a process
of its own whose time and peak memory are taken. After each, look-ups are measured: store alone, store and token,
cached. Runs itself under ``softhsm/with-softhsm.sh`` and touches no other token.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hsm_msl.backend.fleet import FleetKeys
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.stores.fleet_keys import FleetKeyStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database

ROOT = Path(__file__).resolve().parents[1]
LABEL, KEK = "bench-fleet-import", "fleet.storage.v1"
SMALL = 1000
LOOK_UPS = 2000
REJECTED_EVERY = 10_000
"""One line in so many is bad, so that the report of rejected lines is part of what is measured."""


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entities", type=int, default=1_000_000)
    options.add_argument("--directory", type=Path, help="where files go; by default a temporary one")
    chosen = options.parse_args()
    if "SOFTHSM2_CONF" not in os.environ:
        wrapper = ROOT / "softhsm/with-softhsm.sh"
        return subprocess.run([wrapper, sys.executable, __file__, *sys.argv[1:]], check=False).returncode
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        for line in measure(Path(directory), chosen.entities):
            print(line, flush=True)
    return 0


def measure(work: Path, entities: int) -> Iterator[str]:
    """Make a token, import a small and the whole fleet, and look up after each."""
    ceremony = write_ceremony(work)
    provision(work, "apply", str(ceremony))
    for count in sorted({SMALL, entities}):
        source = work / f"fleet-{count}.csv"
        write_fleet(source, count)
        database = work / f"fleet-{count}.sqlite"
        ceremony.write_text(ceremony_text(database.name))
        start = time.perf_counter()
        memory = provision(work, "import-fleet", str(ceremony), str(source))
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in work.glob(f"{database.name}*"))
        yield f"import of {count:,} lines: {seconds:.1f} s, {count / seconds:,.0f} lines/s"
        yield f"  peak memory of the command: {memory / 1024:.1f} MiB"
        yield f"  database: {size / 2**20:.1f} MiB, {size / count:.0f} bytes/entity"
        yield from look_ups(work, database, count)


def ceremony_text(database: str) -> str:
    """Return a ceremony with a fleet storage key and the database's name."""
    return (
        f'ceremony = "bench"\nenvironment = "development"\nprofiles = "{ROOT / "provisioning/profiles"}"\n'
        f'[token]\nmodule = "softhsm"\nlabel = "{LABEL}"\nuser_pin = "file:pins/user.pin"\n'
        '[token.initialise]\nso_pin = "file:pins/so.pin"\ncreate_missing_pin_files = true\n'
        '[records]\ndirectory = "records"\nsigning_key = "audit.signing.v1"\n'
        f'[[key]]\nprofile = "audit-signing"\n[[key]]\nprofile = "fleet-storage"\n[fleet]\ndatabase = "{database}"\n'
    )


def write_ceremony(work: Path) -> Path:
    """Write the ceremony file."""
    path = work / "bench.toml"
    path.write_text(ceremony_text("fleet.sqlite"))
    return path


def write_fleet(path: Path, count: int) -> None:
    """Write a fleet in no order of identities, as exports come, a few lines bad."""
    path.touch(mode=0o600)
    with path.open("w") as file:
        file.write("identity,encryption,mac\n")
        for number in range(count):
            if number % REJECTED_EVERY == REJECTED_EVERY - 1:
                file.write(f"{name(number)},nothing\n")
            else:
                keys = hashlib.sha512(b"%d" % number).hexdigest()
                file.write(f"{name(number)},{keys[:32]},{keys[32:96]}\n")


def name(number: int) -> str:
    """Return the identity of an entity."""
    return "ENTITY-" + hashlib.sha256(b"name %d" % number).hexdigest()[:16].upper()


def provision(work: Path, *arguments: str) -> int:
    """Run the command; return its peak memory in KiB."""
    process = subprocess.Popen([sys.executable, "-m", "hsm_provision", *arguments, "-C", str(work)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 11):
        raise SystemExit(f"hsm-provision {arguments[0]} ended with {process.returncode}")
    return usage.ru_maxrss


def look_ups(work: Path, path: Path, entities: int) -> Iterator[str]:
    """Look up at random: mean and 99th percentile."""
    token = open_token(module.load("softhsm"), TokenSelector(label=LABEL), FilePin(work / "pins/user.pin"), SOFTHSM)
    database = Database(f"sqlite:///{path}")
    prepare(database)
    store = FleetKeyStore(database)
    source = random.Random(2)
    good = [
        n for n in (source.randrange(entities) for _ in range(LOOK_UPS)) if n % REJECTED_EVERY != REJECTED_EVERY - 1
    ]
    names = [name(number) for number in good]
    yield timed(f"  look-up among {entities:,}: store", names, store.get)
    cold = FleetKeys(store, {KEK: token.wrapping_key(KEK)}, capacity=1)
    before = memory_now()
    yield timed(f"  look-up among {entities:,}: store and token", names, cold.find)
    yield f"    memory the token module keeps per look-up: {(memory_now() - before) * 1024 / len(names):.0f} bytes"
    warm = FleetKeys(store, {KEK: token.wrapping_key(KEK)}, capacity=100)
    some = names[:50] * (len(names) // 50)
    yield timed(f"  look-up among {entities:,}: cached", some, warm.find)
    check(cold, good[0])
    database.close()
    token.close()


def check(fleet: FleetKeys, number: int) -> None:
    """Make sure that what was imported are the entity's keys."""
    found = fleet.find(name(number))
    key = bytes.fromhex(hashlib.sha512(b"%d" % number).hexdigest()[32:96])
    if found is None or found.mac is None or found.mac.sign(b"x") != hmac.digest(key, b"x", "sha256"):
        raise SystemExit("the keys found are not the keys imported")


def memory_now() -> int:
    """Return the memory this process holds now, KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def timed(what: str, names: list[str], work: Callable[[str], object]) -> str:
    """Time one call per name, after fifty that are not counted."""
    for one in names[:50]:
        work(one)
    taken = []
    for one in names:
        start = time.perf_counter()
        work(one)
        taken.append((time.perf_counter() - start) * 1e6)
    taken.sort()
    mean, median, late = sum(taken) / len(taken), taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    return f"{what}: mean {mean:.1f} us, median {median:.1f} us, 99 % below {late:.1f} us"


if __name__ == "__main__":
    sys.exit(main())

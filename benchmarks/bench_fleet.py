"""What a fleet costs: keys wrapped by a SoftHSMv2 token into SQLite, and look-ups that unwrap into it.

    python benchmarks/bench_fleet.py [--entities N] [--wrapped N] [--directory D] [--json]

Runs itself under ``softhsm/with-softhsm.sh`` and touches no other token. Look-ups are measured with 1,000 entities
stored and with all of them, cold (store, token) and warm (cache).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm_msl.backend.derived import ENCRYPTION_LABEL, DerivedKeys
from hsm_msl.backend.fleet import FleetKeys
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.derivation import TokenDerivationKey
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.ports.schemes import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database

HERE = Path(__file__).parent
LABEL = "bench-fleet"
SMALL = 1000
LOOK_UPS = 2000
KEK, MASTER = "fleet.wrap.v1", "fleet.master.v1"


class Row(NamedTuple):
    """One measured line."""

    what: str
    value: float
    unit: str


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--entities", type=int, default=1_000_000)
    options.add_argument("--wrapped", type=int, default=20_000, help="of them, wrapped one by one by the token")
    options.add_argument("--directory", type=Path, help="where the database goes; by default a temporary one")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    if "SOFTHSM2_CONF" not in os.environ:
        wrapper = HERE.parent / "softhsm/with-softhsm.sh"
        return subprocess.run([wrapper, sys.executable, __file__, *sys.argv[1:]], check=False).returncode
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        token = prepared_token(Path(directory))
        rows = list(measure(token, Path(directory), chosen.wrapped, chosen.entities))
        token.close()
    if chosen.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        for row in rows:
            print(f"{row.what:58} {row.value:12,.1f} {row.unit}")
    return 0


def prepared_token(directory: Path) -> Token:
    """Make a token with a key-encrypting key and a master key, and open it."""
    pin_file = directory / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(secrets.token_hex(8))
    pin = pin_file.read_text()
    subprocess.run(  # a token that lives as long as this run
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", pin, "--so-pin", pin],
        check=True,
        capture_output=True,
    )
    token = open_token(module.load("softhsm"), TokenSelector(label=LABEL), FilePin(pin_file), SOFTHSM)
    session = token.connection.token.open(rw=True)
    make_key(session, KEK, (Attribute.WRAP, Attribute.UNWRAP))
    make_key(session, MASTER, (Attribute.ENCRYPT, Attribute.DERIVE))
    session.close()
    return token


def make_key(session: pkcs11.Session, label: str, uses: tuple[Attribute, ...]) -> None:
    """Put a random AES key on the token."""
    every = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: secrets.token_bytes(32),
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.LABEL: label,
            **{Attribute[name]: Attribute[name] in uses for name in every},
        }
    )


def entries(token: Token, wrapped: int, count: int) -> Iterator[FleetEntry]:
    """Wrap the keys of so many entities, one at a time, and let the others share them."""
    source = random.Random(1)
    kek = token.wrapping_key(KEK)
    known: list[WrappedKeys] = []
    for number in range(count):
        if number < wrapped:
            known.append(WrappedKeys(*(kek.wrap(source.randbytes(size)) for size in (16, 32, 16)), KEK))
        yield FleetEntry(f"entity-{number:08}", known[number % wrapped])


def measure(token: Token, directory: Path, wrapped: int, count: int) -> Iterator[Row]:
    """Import a small fleet, look up, import a larger one and fill up to the whole one, and look up again."""
    database = Database(f"sqlite:///{directory / 'fleet.db'}")
    prepare(database)
    store = FleetKeyStore(database)
    store.put_many(entries(token, SMALL, SMALL))
    yield from look_ups(store, token, SMALL)
    before = peak_memory()
    start = time.perf_counter()
    store.put_many(entries(token, wrapped, wrapped))
    elapsed = time.perf_counter() - start
    yield Row(f"import of {wrapped:,} entities, each wrapped by the token", wrapped / elapsed, "entities/s")
    yield Row("  growth of memory", (peak_memory() - before) / 1024, "MiB")
    before = peak_memory()
    start = time.perf_counter()
    store.put_many(entries(token, SMALL, count))
    elapsed = time.perf_counter() - start
    yield Row(f"filling up to {count:,} entities, wrapped before", count / elapsed, "entities/s")
    yield Row("  growth of memory", (peak_memory() - before) / 1024, "MiB")
    size = sum(path.stat().st_size for path in directory.glob("fleet.db*"))
    yield Row("  size of the database", size / count, "bytes/entity")
    yield from look_ups(store, token, count)
    kek = token.wrapping_key(KEK)
    yield Row("wrapping one key in the token", timed(lambda _: kek.wrap(bytes(32))), "us")
    derived = DerivedKeys(TokenDerivationKey(token.connection, MASTER), lambda identity: True, capacity=1)
    yield Row("deriving the three keys of an entity", timed(lambda n: derived.find(f"entity-{n}")), "us")
    master = TokenDerivationKey(token.connection, MASTER)
    yield Row("  deriving one key", timed(lambda n: master.derive_aes(ENCRYPTION_LABEL, b"%d" % n, 16)), "us")
    database.close()


def look_ups(store: FleetKeyStore, token: Token, entities: int) -> Iterator[Row]:
    """Look up at random, without and with the cache."""
    source = random.Random(2)
    names = [f"entity-{source.randrange(entities):08}" for _ in range(LOOK_UPS)]
    keys = {KEK: token.wrapping_key(KEK)}
    cold = FleetKeys(store, keys, capacity=1)
    yield Row(f"look-up among {entities:,}: store", timed(lambda n: store.get(names[n])), "us")
    yield Row(f"look-up among {entities:,}: store and token", timed(lambda n: cold.find(names[n])), "us")
    warm = FleetKeys(store, keys, capacity=100)
    yield Row(f"look-up among {entities:,}: cached", timed(lambda n: warm.find(names[n % 50])), "us")


def peak_memory() -> int:
    """Return the most memory this process ever held, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(work: Callable[[int], object]) -> float:
    """Return the mean time of one call in microseconds."""
    work(0)
    start = time.perf_counter()
    for number in range(1, LOOK_UPS):
        work(number)
    return (time.perf_counter() - start) / (LOOK_UPS - 1) * 1e6


if __name__ == "__main__":
    sys.exit(main())

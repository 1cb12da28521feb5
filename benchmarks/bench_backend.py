"""What the PKCS#11 backend costs: a C loop, the bare binding and our key handles on one SoftHSMv2 token, in one run.

    python benchmarks/bench_backend.py [--seconds S] [--json]

Runs itself under ``softhsm/with-softhsm.sh``, so it needs SoftHSMv2 and a C compiler and touches no other token.

Shared machines are noisy, so calls are counted per second of CPU time, the contenders take turns in short slices, and
the median counts: of the ratios of neighbouring slices, and of the rates. Two processes that cost no more CPU each
than one alone, and never wait for one another (voluntary context switches), do twice the work where two cores are
free; the gain in elapsed time is printed beside, with the load of the machine that limits it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.ports import SignatureScheme

HERE = Path(__file__).parent
LABEL = "bench"
IV = bytes(16)
ROUNDS = 5
TURNS = 8
"""Slices of each contender in a round."""
USES = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)


class Case(NamedTuple):
    """One row of the table: what is measured, on which key, and the target our share must reach."""

    name: str
    key: str
    operation: str
    size: int
    of_binding: float | None
    of_c: float | None


CASES = (
    Case("HMAC-SHA256 1 KiB", "mac", "hmac", 1024, 0.85, None),
    Case("HMAC-SHA256 64 KiB", "mac", "hmac", 65536, 0.85, None),
    Case("AES-CBC 1 KiB", "aes", "cbc", 1024, 0.85, None),
    Case("AES-CBC 64 KiB", "aes", "cbc", 65536, 0.85, None),
    Case("RSA-2048 sign", "rsa", "rsa", 256, None, 0.95),
)


def main() -> int:
    """Measure and print. Returns 1 when a target is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=0.4, help="of one slice")
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = options.parse_args()
    if "SOFTHSM2_CONF" not in os.environ:
        wrapper = HERE.parent / "softhsm/with-softhsm.sh"
        return subprocess.run([wrapper, sys.executable, __file__, *sys.argv[1:]], check=False).returncode
    with tempfile.TemporaryDirectory() as directory:
        pin_file = prepare(Path(directory))
        loop = compile_loop(Path(directory))
        rows = [measure(case, pin_file, loop, chosen.seconds) for case in CASES]
        rows.append(scale(pin_file, max(1.0, chosen.seconds)))
    if chosen.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)
    return 0 if all(row["met"] for row in rows) else 1


def prepare(directory: Path) -> Path:
    """Make the token with its three keys and return the PIN file; in a child, so that this process stays clean."""
    pin_file = directory / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(secrets.token_hex(8))
    pin = pin_file.read_text()
    subprocess.run(  # a token that lives as long as this run
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", pin, "--so-pin", pin],
        check=True,
        capture_output=True,
    )
    worker = multiprocessing.get_context("spawn").Process(target=make_keys, args=(pin_file,))
    worker.start()
    worker.join()
    return pin_file


def opened(pin_file: Path) -> Token:
    """Return the token, opened in this process."""
    return open_token(module.load("softhsm"), TokenSelector(label=LABEL), FilePin(pin_file), SOFTHSM)


def make_keys(pin_file: Path) -> None:
    """Create the keys through the bare binding."""
    session = opened(pin_file).connection.token.open(rw=True)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    numbers = {
        Attribute.MODULUS: private.public_numbers.n,
        Attribute.PUBLIC_EXPONENT: private.public_numbers.e,
        Attribute.PRIVATE_EXPONENT: private.d,
        Attribute.PRIME_1: private.p,
        Attribute.PRIME_2: private.q,
        Attribute.EXPONENT_1: private.dmp1,
        Attribute.EXPONENT_2: private.dmq1,
        Attribute.COEFFICIENT: private.iqmp,
    }
    values = {name: value.to_bytes((value.bit_length() + 7) // 8, "big") for name, value in numbers.items()}
    secret = {Attribute.CLASS: ObjectClass.SECRET_KEY}
    aes = {Attribute.KEY_TYPE: KeyType.AES, Attribute.VALUE: secrets.token_bytes(16)}
    mac = {Attribute.KEY_TYPE: KeyType.GENERIC_SECRET, Attribute.VALUE: secrets.token_bytes(32)}
    pair = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA, Attribute.SIGN: True, **values}
    unused = dict.fromkeys(USES, False)
    for label, template in (
        ("aes", {**unused, **secret, **aes, Attribute.ENCRYPT: True, Attribute.DECRYPT: True}),
        ("mac", {**unused, **secret, **mac, Attribute.SIGN: True, Attribute.VERIFY: True}),
        ("rsa", {Attribute.DECRYPT: False, Attribute.UNWRAP: False, **pair}),
    ):
        common = {
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.LABEL: label,
            Attribute.ID: label.encode(),
        }
        session.create_object({**template, **common})


def compile_loop(directory: Path) -> Path:
    """Compile the C loop."""
    program = directory / "c_loop"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-w", "-o", program, HERE / "c_loop.c", "-ldl"], check=True)
    return program


def measure(case: Case, pin_file: Path, loop: Path, seconds: float) -> dict[str, object]:
    """Measure one case: the median of each contender, in operations per second of CPU time, and of the ratios."""
    token = opened(pin_file)
    bare, own = binding_call(token, case), our_call(token, case)
    bare(), own()
    rates: dict[str, list[float]] = {"c": [], "binding": [], "ours": []}
    of_binding, of_c = [], []
    rates["c"].append(run_loop(loop, pin_file, case, seconds))
    for _ in range(ROUNDS):
        own_rates = []
        for turn in range(TURNS):
            order = ("binding", "ours") if turn % 2 else ("ours", "binding")
            slices = {name: rate(bare if name == "binding" else own, seconds / TURNS) for name in order}
            for name, value in slices.items():
                rates[name].append(value)
            of_binding.append(slices["ours"] / slices["binding"])
            own_rates.append(slices["ours"])
        rates["c"].append(run_loop(loop, pin_file, case, seconds))
        of_c.append(statistics.median(own_rates) / statistics.mean(rates["c"][-2:]))  # it ran before and after
    ratio, share = statistics.median(of_binding), statistics.median(of_c)
    met = (case.of_binding is None or ratio >= case.of_binding) and (case.of_c is None or share >= case.of_c)
    return {"case": case.name, **{name: round(statistics.median(found)) for name, found in rates.items()}} | {
        "of_binding": round(ratio, 3),
        "of_c": round(share, 3),
        "target": f">= {case.of_binding} of the binding" if case.of_binding else f">= {case.of_c} of C",
        "met": met,
    }


def binding_call(token: Token, case: Case) -> Callable[[], object]:
    """Return the operation on the bare binding: one session, one handle, nothing around it."""
    session = token.connection.token.open()
    kind = ObjectClass.PRIVATE_KEY if case.operation == "rsa" else ObjectClass.SECRET_KEY
    key: Handle = session.get_key(label=case.key, object_class=kind)
    data = bytes(case.size)
    if case.operation == "cbc":
        return lambda: key.encrypt(data, mechanism=Mechanism.AES_CBC, mechanism_param=IV)
    mechanism = Mechanism.SHA256_HMAC if case.operation == "hmac" else Mechanism.SHA256_RSA_PKCS
    return lambda: key.sign(data, mechanism=mechanism)


def our_call(token: Token, case: Case) -> Callable[[], object]:
    """Return the operation on our handle."""
    data = bytes(case.size)
    if case.operation == "cbc":
        aes = token.aes_key(case.key)
        return lambda: aes.encrypt_cbc(IV, data)
    if case.operation == "hmac":
        mac = token.mac_key(case.key)
        return lambda: mac.sign(data)
    signer = token.signing_key(case.key)
    return lambda: signer.sign(data, SignatureScheme.RSA_PKCS1_SHA256)


def run_loop(loop: Path, pin_file: Path, case: Case, seconds: float) -> float:
    """Run the C loop on the same token and key."""
    library = os.environ["SOFTHSM2_MODULE"]
    arguments = [library, LABEL, str(pin_file), case.key, case.operation, str(case.size), str(seconds)]
    done = subprocess.run([str(loop), *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def rate(call: Callable[[], object], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Return calls per second of a clock, by default of CPU time."""
    count, start = 0, clock()
    while (elapsed := clock() - start) < seconds:
        for _ in range(16):
            call()
        count += 16
    return count / elapsed


def work(pin_file: Path, seconds: float, barrier: object, found: object) -> None:
    """Measure our 1 KiB HMAC in a process of its own, starting with the others."""
    call = our_call(opened(pin_file), CASES[0])
    call()
    barrier.wait()  # type: ignore[attr-defined]  # the contexts of multiprocessing have no common type
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    per_cpu_second = rate(call, seconds)
    after, elapsed = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
    calls = per_cpu_second * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    waits = (after.ru_nvcsw - before.ru_nvcsw) / calls * 1000
    found.put((per_cpu_second, calls / elapsed, waits))  # type: ignore[attr-defined]  # as above


def scale(pin_file: Path, seconds: float) -> dict[str, object]:
    """Compare two processes with one."""
    context = multiprocessing.get_context("spawn")
    cpu: dict[int, list[float]] = {1: [], 2: []}
    elapsed: dict[int, list[float]] = {1: [], 2: []}
    waits = []
    for _ in range(ROUNDS):
        for count in cpu:
            barrier, found = context.Barrier(count), context.Queue()
            workers = [context.Process(target=work, args=(pin_file, seconds, barrier, found)) for _ in range(count)]
            for worker in workers:
                worker.start()
            results = [found.get() for _ in workers]
            for worker in workers:
                worker.join()
            cpu[count].append(sum(result[0] for result in results))
            elapsed[count].append(sum(result[1] for result in results))
            waits.extend(result[2] for result in results if count == 2)

    def gain(rates: dict[int, list[float]]) -> float:
        return round(statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True)), 3)

    times, waited = gain(cpu), statistics.median(waits)
    return {
        "case": "two processes, HMAC 1 KiB",
        "one process": round(statistics.median(cpu[1])),
        "ours": round(statistics.median(cpu[2])),
        "times one": times,
        "waits per 1000 calls": round(waited, 2),
        "times one in elapsed time": gain(elapsed),
        "load": round(os.getloadavg()[0], 1),
        "target": ">= 1.8 times one, no waiting",
        "met": times >= 1.8 and waited < 1,
    }


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    print(f"{'operations per CPU second':28}{'C':>10}{'binding':>10}{'ours':>10}{'/binding':>10}{'/C':>8}  target")
    for row in rows:
        cells = "".join(f"{row.get(name, '')!s:>10}" for name in ("c", "binding", "ours", "of_binding"))
        mark = "met" if row["met"] else "MISSED"
        print(f"{row['case']!s:28}{cells}{row.get('of_c', row.get('times one'))!s:>8}  {row['target']}: {mark}")
        if "load" in row:
            waited, gained = row["waits per 1000 calls"], row["times one in elapsed time"]
            print(f"  waits per 1000 calls: {waited}; elapsed: {gained} times one, at a load of {row['load']}")


if __name__ == "__main__":
    sys.exit(main())

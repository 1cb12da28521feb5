"""What the PKCS#11 backend costs: a C loop, the bare binding and our key handles on one SoftHSMv2 token, in one run.

    python benchmarks/bench_backend.py [--seconds S] [--json]

Runs itself under ``softhsm/with-softhsm.sh``, so it needs SoftHSMv2 and a C compiler and touches no other token. The
three contenders take turns in short slices and the best slice of each counts, because shared machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
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
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.ports import SignatureScheme

HERE = Path(__file__).parent
LABEL = "bench"
IV = bytes(16)
ROUNDS = 5
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
    """Measure one case: best slice of each contender, in operations per second."""
    token = opened(pin_file)
    best = {"c": 0.0, "binding": 0.0, "ours": 0.0}
    contenders = {"binding": binding_call(token, case), "ours": our_call(token, case)}
    for _ in range(ROUNDS):
        best["c"] = max(best["c"], run_loop(loop, pin_file, case, seconds))
        for name, call in contenders.items():
            best[name] = max(best[name], rate(call, seconds))
    of_binding, of_c = best["ours"] / best["binding"], best["ours"] / best["c"]
    met = (case.of_binding is None or of_binding >= case.of_binding) and (case.of_c is None or of_c >= case.of_c)
    return {"case": case.name, **{name: round(value) for name, value in best.items()}} | {
        "of_binding": round(of_binding, 3),
        "of_c": round(of_c, 3),
        "target": f">= {case.of_binding} of the binding" if case.of_binding else f">= {case.of_c} of C",
        "met": met,
    }


def binding_call(token: Token, case: Case) -> Callable[[], object]:
    """Return the operation on the bare binding: one session, one handle, nothing around it."""
    session = token.connection.token.open()
    kind = ObjectClass.PRIVATE_KEY if case.operation == "rsa" else ObjectClass.SECRET_KEY
    key, data = session.get_key(label=case.key, object_class=kind), bytes(case.size)
    if case.operation == "cbc":
        return lambda: key.encrypt(data, mechanism=Mechanism.AES_CBC, mechanism_param=IV)  # type: ignore[attr-defined]
    mechanism = Mechanism.SHA256_HMAC if case.operation == "hmac" else Mechanism.SHA256_RSA_PKCS
    return lambda: key.sign(data, mechanism=mechanism)  # type: ignore[attr-defined]


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


def rate(call: Callable[[], object], seconds: float) -> float:
    """Return calls per second."""
    call()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(16):
            call()
        count += 16
    return count / elapsed


def work(pin_file: Path, seconds: float, barrier: object, rates: object) -> None:
    """Measure our 1 KiB HMAC in a process of its own, starting with the others."""
    call = our_call(opened(pin_file), CASES[0])
    call()
    barrier.wait()  # type: ignore[attr-defined]
    rates.put(rate(call, seconds))  # type: ignore[attr-defined]


def scale(pin_file: Path, seconds: float) -> dict[str, object]:
    """Compare two processes with one."""
    context = multiprocessing.get_context("spawn")
    best = {1: 0.0, 2: 0.0}
    for _ in range(3):
        for count in best:
            barrier, rates = context.Barrier(count), context.Queue()
            workers = [context.Process(target=work, args=(pin_file, seconds, barrier, rates)) for _ in range(count)]
            for worker in workers:
                worker.start()
            best[count] = max(best[count], sum(rates.get() for _ in workers))
            for worker in workers:
                worker.join()
    times = best[2] / best[1]
    return {
        "case": "two processes, HMAC 1 KiB",
        "one process": round(best[1]),
        "ours": round(best[2]),
        "times one": round(times, 3),
        "target": ">= 1.8 times one",
        "met": times >= 1.8,
    }


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    print(f"{'operations per second':26}{'C':>10}{'binding':>10}{'ours':>10}{'/binding':>10}{'/C':>8}  target")
    for row in rows:
        cells = "".join(f"{row.get(name, '')!s:>10}" for name in ("c", "binding", "ours", "of_binding"))
        mark = "met" if row["met"] else "MISSED"
        print(f"{row['case']!s:26}{cells}{row.get('of_c', row.get('times one'))!s:>8}  {row['target']}: {mark}")


if __name__ == "__main__":
    sys.exit(main())

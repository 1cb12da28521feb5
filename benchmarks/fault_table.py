"""What each fault of a token costs: a table of real faults, injected into a SoftHSMv2 token that is being used.

    python benchmarks/fault_table.py [--repeat N] [--json]

For every fault: how long until every key answered again, counted from the moment the fault was over, how long the
slowest call took, and what callers were told meanwhile. Anything but the transient outage is a failure of this run.
Runs itself under ``softhsm/with-softhsm.sh`` and touches no other token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pkcs11
from bench_backend import HERE, LABEL, opened, prepare

from hsm_msl.backend.pkcs11.binding import handle_of
from hsm_msl.backend.pkcs11.recovery import CALM_SECONDS
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.workers import WorkerSpec, WorkerToken, open_worker_token
from hsm_msl.errors import BackendUnavailableError, HsmMslError
from hsm_msl.ports import SignatureScheme

LONGEST = 30.0
Inject = Callable[[Token], Callable[[], None]]
"""Does the damage and returns what ends it."""


class Outcome(NamedTuple):
    """What one fault did."""

    recovery: float
    slowest: float
    told: Counter[str]


def main() -> int:
    """Inject every fault and print. Returns 1 when callers were told anything but an outage."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeat", type=int, default=3, help="times per fault; the slowest counts")
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = options.parse_args()
    if "SOFTHSM2_CONF" not in os.environ:
        wrapper = HERE.parent / "softhsm/with-softhsm.sh"
        return subprocess.run([wrapper, sys.executable, __file__, *sys.argv[1:]], check=False).returncode
    with tempfile.TemporaryDirectory() as directory:
        pin_file = prepare(Path(directory))
        token = opened(pin_file)
        rows = [row(name, [run(token, inject) for _ in range(chosen.repeat)]) for name, inject in FAULTS.items()]
        workers = open_worker_token(
            WorkerSpec("softhsm", label=LABEL, pin=f"file:{pin_file}", profile="softhsm"), deadline_seconds=1.0
        )
        rows += [
            row(name, [run(workers, inject) for _ in range(chosen.repeat)]) for name, inject in WORKER_FAULTS.items()
        ]
        workers.close()
    print(json.dumps(rows, indent=1) if chosen.json else table(rows))
    return 0 if all(found["only transient"] for found in rows) else 1


def log_out(token: Token) -> Callable[[], None]:
    """Lose the login, as another part of the process would."""
    session = token.connection.token.open()
    token.connection.module.cryptoki.logout(handle_of(session))
    return nothing


def close_sessions(token: Token) -> Callable[[], None]:
    """Close every session behind the binding."""
    token.connection.module.cryptoki.close_all_sessions(token.connection.token.slot.slot_id)
    return nothing


def finalise(token: Token) -> Callable[[], None]:
    """Finalise the module behind the binding."""
    token.connection.module.cryptoki.finalize()
    return nothing


def directory_away(token: Token) -> Callable[[], None]:
    """Take the token's directory away for a second, as a device that is unplugged."""
    store = Path(os.environ["SOFTHSM2_CONF"]).parent / "tokens"
    directory = next(path for path in store.iterdir() if LABEL.encode() in (path / "token.object").read_bytes())
    away = store.parent / "away"
    directory.rename(away)

    def back() -> None:
        away.rename(directory)

    return back


def device_errors(token: Token) -> Callable[[], None]:
    """Let the next two calls fail with what a broken device answers; no software token does."""
    failures = iter((pkcs11.DeviceError(), pkcs11.DeviceError()))

    def flaky(handle: object) -> None:
        for failure in failures:
            raise failure

    with contextlib.suppress(BackendUnavailableError):  # when the stages were all used a moment ago
        token.mac_key("mac").target.call(flaky)
    return nothing


def object_replaced(token: Token) -> Callable[[], None]:
    """Put a copy of the AES key in its place, as a restore from a backup does: another handle for the same key."""
    session = token.connection.token.open(rw=True)
    (key,) = session.get_objects({pkcs11.Attribute.LABEL: "aes"})
    key.copy({pkcs11.Attribute.LABEL: "aes", pkcs11.Attribute.TOKEN: True})
    key.destroy()
    return nothing


def kill_worker(token: WorkerToken) -> Callable[[], None]:
    """Kill one worker."""
    os.kill(next(iter(token.pool.workers())), signal.SIGKILL)
    return nothing


def hang_worker(token: WorkerToken) -> Callable[[], None]:
    """Stop every worker in its tracks, as a module that hangs."""
    for pid in token.pool.workers():
        os.kill(pid, signal.SIGSTOP)
    return nothing


def nothing() -> None:
    """End a fault that is over at once."""


FAULTS: dict[str, Inject] = {
    "login lost": log_out,
    "all sessions closed": close_sessions,
    "module finalised": finalise,
    "token directory gone for a second": directory_away,
    "device error, twice": device_errors,
    "key object replaced by its copy": object_replaced,
}
WORKER_FAULTS: dict[str, Callable[[WorkerToken], Callable[[], None]]] = {
    "worker process killed": kill_worker,
    "worker processes hang (deadline 1 s)": hang_worker,
}


def run(token: Token | WorkerToken, inject: Callable[..., Callable[[], None]]) -> Outcome:
    """Inject one fault on a calm token and use every key until all answer again."""
    time.sleep(CALM_SECONDS + 0.1)  # after less, the breaker begins with a longer pause: the token flaps
    calls = uses(token)
    for call in calls:
        call()
    told: Counter[str] = Counter()
    slowest = 0.0
    end = inject(token)
    over = time.monotonic() + (1.0 if inject is directory_away else 0.0)
    while time.monotonic() < over:
        for call in calls:
            slowest = max(slowest, once(call, told)[0])
    end()
    over, waiting = time.monotonic(), list(calls)
    while waiting:
        elapsed, answered = once(waiting[0], told)
        slowest = max(slowest, elapsed)
        if answered:
            waiting.pop(0)
        elif time.monotonic() - over > LONGEST:
            told["never recovered"] += 1
            break
    return Outcome(time.monotonic() - over, slowest, told)


def uses(token: Token | WorkerToken) -> list[Callable[[], object]]:
    """Return one call per key."""
    aes, mac, rsa = token.aes_key("aes"), token.mac_key("mac"), token.signing_key("rsa")
    return [
        lambda: aes.encrypt_ecb(bytes(16)),
        lambda: mac.sign(b"data"),
        lambda: rsa.sign(b"data", SignatureScheme.RSA_PKCS1_SHA256),
        lambda: token.random(8),
    ]


def once(call: Callable[[], object], told: Counter[str]) -> tuple[float, bool]:
    """Call once; note what the caller is told."""
    started = time.monotonic()
    try:
        call()
    except HsmMslError as error:
        told[type(error).__name__] += 1
        time.sleep(0.002)
        return time.monotonic() - started, False
    return time.monotonic() - started, True


def row(name: str, outcomes: list[Outcome]) -> dict[str, object]:
    """Sum up the runs of one fault."""
    told = sum((outcome.told for outcome in outcomes), Counter[str]())
    return {
        "fault": name,
        "recovered after ms": round(max(outcome.recovery for outcome in outcomes) * 1000, 1),
        "slowest call ms": round(max(outcome.slowest for outcome in outcomes) * 1000, 1),
        "transient answers": told[BackendUnavailableError.__name__],
        "other answers": {kind: count for kind, count in told.items() if kind != BackendUnavailableError.__name__},
        "only transient": set(told) <= {BackendUnavailableError.__name__},
    }


def table(rows: list[dict[str, object]]) -> str:
    """Return the table people read."""
    lines = [f"{'fault':38}{'recovered':>12}{'slowest call':>14}{'transient':>11}  other answers"]
    for found in rows:
        lines.append(
            f"{found['fault']!s:38}{found['recovered after ms']!s:>9} ms{found['slowest call ms']!s:>11} ms"
            f"{found['transient answers']!s:>11}  {found['other answers'] or 'none'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

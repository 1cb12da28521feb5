"""Worker processes full of threads that use one token as hard as they can and check every answer.

    python tests/key_hammer.py TOKEN-LABEL PIN-FILE AES-LABEL MAC-LABEL KEK-LABEL RSA-LABEL SECONDS THREADS FAULTS

One process; ``hammer`` starts several. With FAULTS the process also loses its login, its sessions and its module now
and then, as a broken device would make it. Prints a JSON report; the exit code is 1 for a wrong answer or an error
that is not the transient one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import BackendUnavailableError, DataRejectedError
from hsm_msl.ports import MacAlgorithm, SignatureScheme

AES_VALUE, MAC_VALUE, KEK_VALUE = bytes(range(16)), bytes(range(32)), bytes(range(32, 48))
SCHEME = SignatureScheme.RSA_PKCS1_SHA256
FAULT_SECONDS = 0.25


@dataclass(frozen=True)
class HammerKeys:
    """Labels of keys with the values above, and of one RSA key that signs."""

    aes: str
    mac: str
    kek: str
    rsa: str


def hammer(
    label: str, pin_file: Path, keys: HammerKeys, *, seconds: float, processes: int, threads: int, faults: bool
) -> list[dict[str, Any]]:
    """Run the workers and return their reports. A worker that crashed or hung fails here."""
    command = [sys.executable, __file__, label, str(pin_file), keys.aes, keys.mac, keys.kek, keys.rsa]
    command += [str(seconds), str(threads), str(int(faults))]
    root = str(Path(__file__).parents[1])
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    reports = []
    for worker in workers:
        out, err = worker.communicate(timeout=seconds + 120)
        assert worker.returncode == 0, f"exit code {worker.returncode}\n{out}\n{err}"
        assert not err, err
        reports.append(json.loads(out))
    return reports


class Worker:
    """The keys of one process and what its threads do with them."""

    def __init__(self, token: Token, keys: HammerKeys) -> None:
        self.token = token
        self.aes = token.aes_key(keys.aes)
        self.mac = token.mac_key(keys.mac)
        self.kek = token.wrapping_key(keys.kek)
        self.rsa = token.signing_key(keys.rsa)
        self.unwrapped = self.kek.unwrap_aes(self.kek.wrap(AES_VALUE))
        self.verifier = PublicKey(self.rsa.public_key)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def operations(self) -> Sequence[tuple[str, Callable[[bytes], bool]]]:
        """Name and check of each operation; a check is true for a right answer."""
        mac = software_mac_key(MAC_VALUE, MacAlgorithm.HMAC_SHA256)
        aes = SoftwareAesKey(AES_VALUE)
        return [
            ("mac", lambda data: self.mac.sign(data) == mac.sign(data)),
            ("verify", lambda data: self.mac.verify(data, mac.sign(data)) and not self.mac.verify(data, bytes(32))),
            ("encrypt", lambda data: self.aes.encrypt_cbc(data[:16], data) == aes.encrypt_cbc(data[:16], data)),
            ("session key", lambda data: self.unwrapped.decrypt_ecb(aes.encrypt_ecb(data)) == data),
            ("wrap", lambda data: self.kek.unwrap(self.kek.wrap(data)) == data),
            ("unwrap", lambda data: self._unwrap(data)),
            ("refuse", lambda data: self._refused(data)),
            ("random", lambda data: len(self.token.random(16)) == 16),
            ("sign", lambda data: self.verifier.verify(data, self.rsa.sign(data, SCHEME), SCHEME)),
        ]

    def run(self, until: float, seed: int) -> None:
        """Do random operations until the time is over."""
        dice = random.Random(seed)
        operations = self.operations()
        while time.monotonic() < until:
            name, check = dice.choice(operations)
            data = dice.randbytes(16 * dice.randint(1, 64))
            started = time.monotonic()
            try:
                if not check(data):
                    self.failures.append(f"{name}: a wrong answer")
                self.counts[name] += 1
            except BackendUnavailableError:
                self.counts["unavailable"] += 1
            except Exception as error:
                self.failures.append(f"{name}: {type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - started)

    def break_now_and_then(self, until: float) -> None:
        """Lose the login or every session, again and again.

        Between calls: SoftHSMv2 itself crashes when a session is closed under a call in flight, which our code never
        does and a device cannot do.
        """
        dice, connection = random.Random(os.getpid()), self.token.connection
        cryptoki = connection.module.cryptoki
        while time.monotonic() < until:
            time.sleep(FAULT_SECONDS * (0.5 + dice.random()))
            participants = (connection.pool, connection.homes)
            still = [participant.pause(time.monotonic() + 5) for participant in participants]
            if all(still):
                if dice.random() < 0.5:
                    cryptoki.close_all_sessions(connection.token.slot.slot_id)
                else:
                    session = connection.token.open()
                    cryptoki.logout(session.handle)  # type: ignore[attr-defined]
                    cryptoki.close_session(session.handle)  # type: ignore[attr-defined]
                self.counts["fault"] += 1
            for participant in participants:
                participant.resume()

    def _unwrap(self, data: bytes) -> bool:
        key = self.kek.unwrap_aes(self.kek.wrap(data[:16]))
        return key.encrypt_ecb(data[:16]) == SoftwareAesKey(data[:16]).encrypt_ecb(data[:16])

    def _refused(self, data: bytes) -> bool:
        try:
            self.kek.unwrap(data + bytes(16))
        except DataRejectedError:
            return True
        return False


def main(arguments: Sequence[str]) -> int:
    label, pin_file, *names, seconds, threads, faults = arguments
    token = open_token(module.load("softhsm"), TokenSelector(label=label), FilePin(Path(pin_file)), SOFTHSM)
    worker = Worker(token, HammerKeys(*names))
    until = time.monotonic() + float(seconds)
    bodies = [lambda seed=seed: worker.run(until, seed) for seed in range(int(threads))]
    if int(faults):
        bodies.append(lambda: worker.break_now_and_then(until))
    running = [threading.Thread(target=body) for body in bodies]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    report = {
        "counts": dict(worker.counts),
        "failures": worker.failures[:20],
        "slowest seconds": round(worker.slowest, 3),
        "stages": {stage.name: count for stage, count in token.connection.recovery.counts.items()},
    }
    token.close()
    print(json.dumps(report))
    return 1 if worker.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

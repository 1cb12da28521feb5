"""One side of a dialog as a process that may be killed at any moment: its database and a spool directory remain.

Usage: dialog_process.py ROLE URL SPOOL COUNT ACK_MODE. The role ``a`` sends COUNT numbered messages, each in one
transaction with a row of its own table; the role ``b`` takes messages, each batch in one transaction with its own
table. Packets pass through files in the spool directory, named by whom they are for.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

from sqlalchemy import text

from dialog_world import Clock, Service
from hsm_msl.dialog.clock import SteadyClock
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.names import Kind
from hsm_msl.dialog.policy import Policy
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

POLICY = Policy(on_peer_shift=True, max_messages=7, max_peer_shifts=None)


class Process:
    def __init__(self, role: str, url: str, spool: Path, count: int, ack_mode: str) -> None:
        self.role, self.spool, self.count = role, spool, count
        self.database = Database(url)
        self.store = SqlDialogStore(self.database)
        self.other = "b" if role == "a" else "a"
        clock = Clock()
        self.me = Service(f"urn:test:{role}", 2, clock, store=self.store)
        self.peer = Service(f"urn:test:{self.other}", 2, clock)
        self.me.bind(self.me.binding(self.peer, POLICY, ack_mode=ack_mode))
        # Retransmission delays of seconds would make the test long; this clock runs fifty times as fast.
        started = clock.now - 60
        fast = lambda: started + (time.time() % 1e6) * 50  # noqa: E731  # one expression, used twice
        self.engine = DialogEngine(self.me.local, self.store, SteadyClock(fast, fast), secrets.token_bytes)
        with self.database.transaction() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS work (n INTEGER PRIMARY KEY, dialog TEXT)"))

    def put(self, packets: list[bytes]) -> None:
        for packet in packets:
            name = f"{time.time_ns()}-{secrets.token_hex(4)}"
            (self.spool / f"{name}.part").write_bytes(packet)
            os.rename(self.spool / f"{name}.part", self.spool / f"{name}.for-{self.other}")

    def get(self) -> None:
        files = sorted(self.spool.glob(f"*.for-{self.role}"))[:32]
        packets = [file.read_bytes() for file in files]
        if packets:
            outcome = self.engine.receive(packets)
            self.put(outcome.replies + [out.packet for out in outcome.outgoing])
        for file in files:
            file.unlink()

    def produce(self) -> bool:
        with self.database.transaction() as connection:
            row = connection.execute(text("SELECT max(n), max(dialog) FROM work")).one()
            tx = self.store.join(connection)
            number, dialog = (row[0] or 0) + 1, bytes.fromhex(row[1] or "")
            if not dialog:
                dialog = self.engine.begin(tx, self.peer.name).dialog
            if number > self.count:
                return False
            connection.execute(text("INSERT INTO work VALUES (:n, :d)"), {"n": number, "d": dialog.hex()})
            self.engine.send(tx, dialog, 0, [("n", b"%d" % number)])
            return True

    def consume(self) -> None:
        with self.database.transaction() as connection:
            tx = self.store.join(connection)
            for dialog, side in tx.waiting(self.me.name, 8):
                for message in self.engine.take(tx, dialog, side, 5):
                    if message.kind is Kind.APP:
                        values = {"n": int(message.body), "d": dialog.hex()}
                        connection.execute(text("INSERT INTO work VALUES (:n, :d)"), values)

    def run(self) -> None:
        while True:
            self.step()
            time.sleep(0.002)  # a spool directory can only be polled

    def step(self) -> None:
        self.get()
        if self.role == "a":
            self.produce()
        else:
            self.consume()
        outcome = self.engine.tick()
        self.put([out.packet for out in outcome.outgoing])
        self.put([out.packet for out in self.engine.transmit()])


if __name__ == "__main__":
    Process(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]).run()

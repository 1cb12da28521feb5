"""What an operator does with the dialogs of a service: open, send, take, show, shift, end (no command line here)."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hsm_msl.dialog.binding import read_binding
from hsm_msl.dialog.names import ID_SIZE, Kind
from hsm_msl.dialog.session import Message, Outcome
from hsm_msl.errors import UsageError
from hsm_msl.ports.dialog_records import BindingRow, DialogTransaction, EndpointRecord
from hsm_msl.printable import printable
from hsm_msl.service.dialog.compose import ComposedDialogs
from hsm_msl.service.dialog.view import Lines, show_endpoint, state_text

_LISTED = 1000
_PAUSE = 0.2


class DialogConsole:
    """Works on the dialogs of one service in its database; the serving process notices within a second.

    Args:
        composed: the service.
    """

    def __init__(self, composed: ComposedDialogs) -> None:
        self._engine = composed.engine
        self._store = composed.store
        self._name = composed.engine.context.local.name
        self._engine.learn_doubts()

    def find(self, tx: DialogTransaction, prefix: str) -> EndpointRecord:
        """Return the dialog whose id starts with hexadecimal digits. Raises UsageError unless there is one."""
        found = list(self._beginning(tx, prefix.lower()))
        if len(found) != 1:
            problem = "several dialogs" if found else "no dialog"
            advice = "give more digits" if found else "hsm-msl dialog show CONFIG lists those there are"
            raise UsageError(f"{problem} of {self._name} with an id that begins with {prefix!r}; {advice}")
        return found[0]

    def begin(self, remote: str, lifetime: int, contract: str) -> tuple[str, bool]:
        """Begin a dialog; return its id in hexadecimal and whether a binding for the remote service is in force.

        Raises UsageError, StoreError.
        """
        with self._store.transaction() as tx:
            state = self._engine.begin(tx, remote, lifetime, contract)
            return state.dialog.hex(), self._engine.context.binding(tx, remote, state.created_at) is not None

    def send(self, prefix: str, message_type: str, body: bytes) -> int:
        """Send a message and return its number. Raises as ``DialogEngine.send`` and ``find``."""
        with self._store.transaction() as tx:
            state = self.find(tx, prefix)
            return self._engine.send(tx, state.dialog, state.side, [(message_type, body)])

    def end(self, prefix: str, error: tuple[int, str] | None) -> None:
        """End this side's part of a dialog. Raises as ``DialogEngine.end`` and ``find``."""
        with self._store.transaction() as tx:
            state = self.find(tx, prefix)
            self._engine.end(tx, state.dialog, state.side, error)

    def fail(self, prefix: str) -> None:
        """Fail a dialog; the peer hears of it with its next packet. Raises as ``DialogEngine.fail`` and ``find``."""
        with self._store.transaction() as tx:
            state = self.find(tx, prefix)
            self._engine.fail(tx, state.dialog, state.side, Outcome())

    def shift(self, prefix: str) -> int:
        """Shift the own session key and return its generation. Raises as ``DialogEngine.shift`` and ``find``."""
        with self._store.transaction() as tx:
            state = self.find(tx, prefix)
            self._engine.shift(tx, state.dialog, state.side, Outcome())
            return self.find(tx, prefix).out_generation

    def receive(self, prefix: str, count: int, wait: float) -> Iterator[Message]:
        """Take messages, of one dialog or (empty prefix) of all, until there were enough or time is over.

        Those of one dialog end with its last word.

        Args:
            prefix: first digits of the dialog's id.
            count: most messages.
            wait: seconds to wait for them.

        Raises as ``DialogEngine.take`` and ``find``.
        """
        deadline = time.monotonic() + wait
        while count > 0:
            taken = self._take(prefix, 1)  # one at a time: whoever stops reading loses no other
            yield from taken
            if prefix and taken and taken[-1].kind is not Kind.APP:
                return  # the last word of the dialog
            count -= len(taken)
            if not taken:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(_PAUSE, left))  # another process receives; its database is all there is to watch

    def show(self, prefix: str) -> Lines:
        """Yield where dialogs stand: all of them briefly, or one in full. Raises UsageError, StoreError."""
        with self._store.reading() as tx:
            if prefix:
                yield from show_endpoint(tx, self.find(tx, prefix))
                return
            for state in self._all(tx):
                where = "to" if state.side == 0 else "from"
                waiting = state.next_in - 1 - state.taken
                line = f"{state_text(state):24} {where} {printable(state.remote)}"
                yield state.dialog.hex(), line + (f", {waiting} to take" if waiting else "")

    def bindings(self) -> list[BindingRow]:
        """Return the bindings in force. Raises StoreError."""
        with self._store.reading() as tx:
            return list(tx.bindings(self._name))

    def check_policies(self) -> list[str]:
        """Return one line per binding whose rules hold together. Raises ConfigurationError for one that does not."""
        checked = []
        for row in self.bindings():
            binding = read_binding(row.document)
            binding.validate()
            checked.append(f"{binding.remote}: suites {', '.join(map(str, binding.suites))}: good")
        return checked

    def rotate(self, remote: str) -> None:
        """Let new session keys for a service use a new key exchange key. Raises StoreError."""
        with self._store.transaction() as tx:
            self._engine.rotate_kek(tx, remote)

    def _beginning(self, tx: DialogTransaction, digits: str) -> Iterator[EndpointRecord]:
        """Yield the dialogs whose id begins with digits; no others lie between the first and the last of them."""
        try:
            least = bytes.fromhex(digits.ljust(2 * ID_SIZE, "0"))
        except ValueError:
            return
        if len(least) != ID_SIZE:
            return
        number = int.from_bytes(least)
        after = b"" if number == 0 else (number - 1).to_bytes(ID_SIZE)
        for state in tx.endpoints(self._name, limit=2, after=after):
            if state.dialog.hex().startswith(digits):
                yield state

    def _all(self, tx: DialogTransaction) -> list[EndpointRecord]:
        found: list[EndpointRecord] = []
        while True:
            part = tx.endpoints(self._name, limit=_LISTED, after=found[-1].dialog if found else b"")
            found += part
            if len(part) < _LISTED:
                return found

    def _take(self, prefix: str, count: int) -> list[Message]:
        with self._store.transaction() as tx:
            if prefix:
                state = self.find(tx, prefix)
                return self._engine.take(tx, state.dialog, state.side, count)
            for dialog, side in tx.waiting(self._name, 1):
                return self._engine.take(tx, dialog, side, count)
            return []

"""Faults of a token, injected into a process of a served server by a signal; only tests put this on a process's path.

The module is held still for the moment of the fault: a module that is finalised inside a call may crash the process,
and that is another fault (a killed process) than this one.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_msl.backend.pkcs11.module import Module


def _modules() -> Iterator[Module]:
    loaded = sys.modules.get("hsm_msl.backend.pkcs11.module")
    if loaded is not None:
        yield from getattr(loaded, "_LOADED", {}).values()  # none while a worker is still importing it


def _log_out(module: Module) -> None:
    for token in module.tokens():
        with contextlib.suppress(Exception):
            session = token.open()
            module.cryptoki.logout(session.handle)  # type: ignore[attr-defined]  # set by the extension class
            session.close()


def _close_sessions(module: Module) -> None:
    for token in module.tokens():
        module.cryptoki.close_all_sessions(token.slot.slot_id)


def _finalise(module: Module) -> None:
    module.cryptoki.finalize()


def _hang(module: Module) -> None:
    """Let no MAC come to an end from now on."""
    del module

    def sign(*arguments: object) -> bytes:
        print("a call hangs", file=sys.stderr, flush=True)
        time.sleep(3600)
        raise AssertionError

    sys.modules["hsm_msl.backend.pkcs11.mac"]._sign = sign  # type: ignore[attr-defined]


def _handler(fault: Callable[[Module], None]) -> Callable[[int, object], None]:
    def handle(number: int, frame: object) -> None:  # the signature of a handler
        for module in _modules():
            with module._paused():
                fault(module)

    return handle


for _signal, _fault in (
    (signal.SIGUSR1, _log_out),
    (signal.SIGUSR2, _close_sessions),
    (signal.SIGRTMIN, _finalise),
    (signal.SIGRTMIN + 1, _hang),
):
    signal.signal(_signal, _handler(_fault))

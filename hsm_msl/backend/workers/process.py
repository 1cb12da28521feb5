"""One worker: its process and its socket, as the service sees them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import msgspec

from hsm_msl.backend.workers.protocol import Answer, Hello, receive, result_of, send
from hsm_msl.errors import BackendError, BackendUnavailableError

START_SECONDS = 15.0
"""How long a worker may take to start; one that hangs meanwhile keeps its successor waiting this long."""

_ISOLATED = ("-P",)
"""``-m`` would put the working directory before everything else that modules are looked for in."""

_ANSWERS = msgspec.msgpack.Decoder(Answer)


class Worker:
    """One process and its socket.

    Args:
        hello: its number, which tells its session keys from those of others, and what it opens.

    Attributes:
        label: the token's label.
        identity: label and serial number.

    Raises:
        BackendConfigurationError: it says that a person must act.
        BackendUnavailableError: it does not start.
    """

    def __init__(self, hello: Hello) -> None:
        self.number = hello.number
        self.worn = False
        self.down: str | None = None
        self.made: set[int] = set()
        self.leaves_at: float | None = None
        ours, theirs = socket.socketpair()
        try:
            # Without -c or a script of ours on the path; the PIN goes neither into arguments nor environment.
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter, a module of this package
                [sys.executable, *_ISOLATED, "-m", "hsm_msl.backend.workers", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise BackendUnavailableError(f"a token worker does not start: {error.strerror}") from None
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._channel = ours
        ours.settimeout(START_SECONDS)
        try:
            send(ours, hello)
            opened = result_of(_ANSWERS.decode(receive(ours)))
        except (EOFError, OSError):
            self.kill()
            raise BackendUnavailableError("a token worker ended while it started") from None
        except BackendError:
            self.kill()
            raise
        if not isinstance(opened, list):
            self.kill()
            raise BackendUnavailableError("a token worker does not say what it opened")
        self.label, self.identity = map(str, opened)

    @property
    def alive(self) -> bool:
        """Whether the process had not ended when asked."""
        return self._process.poll() is None

    def call(self, call: bytes, deadline: float) -> Answer:
        """Send a call and wait for its answer.

        Args:
            call: what to do, from ``protocol.frame``.
            deadline: monotonic time.

        Raises:
            TimeoutError: the deadline is over; the worker is of no use any more.
            EOFError, OSError: the worker is gone.
        """
        self._channel.settimeout(max(0.001, deadline - time.monotonic()))
        self._channel.sendall(call)
        return _ANSWERS.decode(receive(self._channel))

    def kill(self) -> None:
        """End the process at once and wait for it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        """In a forked child: let go of the parent's worker without a word to it, and without waiting for it."""
        self._channel.close()
        self._process.returncode = 0  # it is no child of ours: nothing to wait for or to complain about

    def stop(self) -> None:
        """Close the socket, which ends an idle worker; kill it when it does not end."""
        self._channel.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

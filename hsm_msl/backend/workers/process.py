"""One worker: its process and its socket, as the service sees them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import msgspec

from hsm_msl.backend.workers.protocol import Answer, Call, Hello, receive, result_of, send
from hsm_msl.errors import BackendError, BackendUnavailableError

START_SECONDS = 15.0
"""How long a worker may take to start; one that hangs meanwhile keeps its successor waiting this long."""

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
        self.made: set[int] = set()
        self.leaves_at: float | None = None
        ours, theirs = socket.socketpair()
        try:
            # Without -c or a script of ours on the path; the PIN goes neither into arguments nor environment.
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter, a module of this package
                [sys.executable, "-m", "hsm_msl.backend.workers", str(theirs.fileno())],
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

    def call(self, call: Call, deadline: float) -> Answer:
        """Send a call and wait for its answer.

        Args:
            call: what to do.
            deadline: monotonic time.

        Raises:
            TimeoutError: the deadline is over; the worker is of no use any more.
            EOFError, OSError: the worker is gone.
        """
        self._channel.settimeout(max(0.001, deadline - time.monotonic()))
        send(self._channel, call)
        return _ANSWERS.decode(receive(self._channel))

    def kill(self) -> None:
        """End the process at once and wait for it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Close the socket, which ends an idle worker; kill it when it does not end."""
        self._channel.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

"""Entry point of a worker process: its only argument is the number of the inherited socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time

from hsm_msl.backend.workers.server import serve

LAST_SECONDS = 10.0
"""How long the call in work may go on when the service is gone; in a module that hangs it would go on for ever."""


def _end_with(channel: socket.socket) -> None:
    hung_up = select.poll()
    hung_up.register(channel, select.POLLRDHUP)
    hung_up.poll()
    time.sleep(LAST_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    # A terminal and systemd signal the whole group. The service still has requests to finish with this process, and
    # ends it by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        threading.Thread(target=_end_with, args=(channel,), name="service-watch", daemon=True).start()
        serve(channel)

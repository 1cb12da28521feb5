"""Entry point of a worker process: its only argument is the number of the inherited socket."""

from __future__ import annotations

import signal
import socket
import sys

from hsm_msl.backend.workers.server import serve

if __name__ == "__main__":
    # A terminal and systemd signal the whole group. The service still has requests to finish with this process, and
    # ends it by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)

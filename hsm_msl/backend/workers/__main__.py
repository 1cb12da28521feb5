"""Entry point of a worker process: its only argument is the number of the inherited socket."""

from __future__ import annotations

import socket
import sys

from hsm_msl.backend.workers.server import serve

if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)

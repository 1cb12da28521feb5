"""Tokens held by processes of their own: a stuck call is given up in time, a crash costs one call, no key is here.

``WorkerToken`` has the methods of ``pkcs11.token.Token`` and gives handles of the same ports.
"""

from __future__ import annotations

from hsm_msl.backend.workers.pool import WorkerPool
from hsm_msl.backend.workers.protocol import WorkerSpec
from hsm_msl.backend.workers.token import WorkerToken, open_worker_token

__all__ = ["WorkerPool", "WorkerSpec", "WorkerToken", "open_worker_token"]

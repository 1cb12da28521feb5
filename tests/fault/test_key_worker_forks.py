"""A forked child of a service whose token is in workers starts its own; neither reads the other's answers."""

from __future__ import annotations

import hashlib
import hmac
import os

from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.workers import WorkerToken, open_worker_token
from token_fixture import Forge, KeyMaker, TestToken

VALUE = bytes(range(32))


def hammered(token: WorkerToken, label: str, who: bytes) -> int:
    key = token.mac_key(label)
    texts = [b"%s %d" % (who, number) for number in range(300)]
    return sum(key.sign(text) == hmac.digest(VALUE, text, hashlib.sha256) for text in texts)


def test_parent_and_child_get_their_own_answers(forge: Forge, fresh_token: TestToken) -> None:
    here = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    label = KeyMaker(here).hmac(VALUE)
    here.close()
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=10)
    key = token.mac_key(label)
    pids = token.pool.workers()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            right = 0
            try:
                right = hammered(token, label, b"child")
                token.close()
            finally:
                os._exit(0 if right == 300 else 1)
        assert hammered(token, label, b"parent") == 300
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert key.sign(b"") == hmac.digest(VALUE, b"", hashlib.sha256)
    assert token.pool.workers() == pids
    token.close()

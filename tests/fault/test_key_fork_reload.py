"""A fork while another thread starts the module again: whoever held still goes on afterwards."""

from __future__ import annotations

import os
import threading
import time

import pytest

from hsm_msl.backend.pkcs11 import module as modules
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from token_fixture import WRAP, Forge, KeyMaker, TestToken


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_fork_in_the_middle_of_a_reload(
    forge: Forge, fresh_token: TestToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    key = token.wrapping_key(KeyMaker(token).aes(bytes(range(16)), WRAP))
    made = key.unwrap_aes(key.wrap(bytes(16)))
    expected = made.encrypt_ecb(bytes(16))
    monkeypatch.setattr(modules, "PAUSE_SECONDS", 0.2)
    initialize = forge.module.cryptoki.initialize

    def slowly(reserved: str | None = None) -> bool:
        time.sleep(1)
        return initialize(reserved)

    monkeypatch.setattr(forge.module.cryptoki, "initialize", slowly)
    reload = threading.Thread(target=token.connection.reload)
    reload.start()
    time.sleep(0.3)
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reload.join()
    found: list[bytes] = []
    user = threading.Thread(target=lambda: found.append(made.encrypt_ecb(bytes(16))), daemon=True)
    user.start()
    user.join(10)
    assert found == [expected]
    assert key.unwrap(key.wrap(bytes(16))) == bytes(16)
    token.close()

"""A refused PIN is not tried again by the processes that come after: a crash loop costs one try (field notes F7)."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest
from pkcs11 import TokenFlag

from hsm_msl.backend.pin import Pin
from hsm_msl.backend.pin_memory import FilePinMemory, PinMemory
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.errors import BackendConfigurationError
from served_tokens import ServedTokens, served_tokens
from token_fixture import Forge

WRONG = Pin(b"not the PIN")


@pytest.fixture
def world(forge: Forge, tmp_path: Path) -> ServedTokens:
    return served_tokens(forge, tmp_path, 1)


def low(forge: Forge, world: ServedTokens) -> bool:
    """Whether the token counted a wrong PIN since the last right one."""
    return bool(forge.module.token(label=world.tokens[0].label).flags & TokenFlag.USER_PIN_COUNT_LOW)


def log_in(forge: Forge, world: ServedTokens) -> None:
    """Log in with the right PIN, which clears the token's flag."""
    made = world.tokens[0]
    open_token(forge.module, made.selector, made.pin, SOFTHSM).close()


def remembered(world: ServedTokens) -> Path:
    (path,) = world.directory.glob("refused-pin.*.json")
    return path


@pytest.mark.parametrize("workers", ["", "workers = 2"])
def test_a_crash_loop_with_a_wrong_pin_costs_one_try(forge: Forge, world: ServedTokens, workers: str) -> None:
    pin_file = world.tokens[0].pin_file
    right = pin_file.read_text()
    config = world.config(f"[tokens.a]\nTOKEN-0\nPIN-0\n{workers}\n")
    pin_file.write_text("wrong-" + right)
    first = world.run("serve", config)
    assert first.returncode == 78
    assert b"refuses the PIN" in first.stderr
    assert low(forge, world)
    pin_file.write_text(right)
    log_in(forge, world)
    pin_file.write_text("wrong-" + right)
    assert not low(forge, world)
    for verb in (("serve",), ("serve", "--check"), ("doctor",)):
        again = world.run(*verb, config)
        assert again.returncode == 78
        told = " ".join(again.stderr.decode().split())
        assert "refused this PIN before, and it is not tried again" in told
        assert str(remembered(world)) in told
        assert f"change what file {pin_file} gives" in told
    assert not low(forge, world)
    record = remembered(world)
    assert record.stat().st_mode & 0o077 == 0
    assert right.strip() not in record.read_text()
    pin_file.write_text(right)
    assert world.run("serve", "--check", config).returncode == 0
    assert not record.exists()


def test_an_operator_may_clear_it_and_a_damaged_record_stops_every_try(forge: Forge, world: ServedTokens) -> None:
    pin_file = world.tokens[0].pin_file
    right = pin_file.read_text()
    config = world.config('[tokens.a]\nTOKEN-0\nPIN-0\npin_memory = "state"\n')
    pin_file.write_text("wrong\n")
    world.run("serve", config)
    (record,) = (world.directory / "state").glob("refused-pin.*.json")
    record.unlink()
    assert b"refuses the PIN" in world.run("serve", config).stderr  # tried again, as was asked
    pin_file.write_text(right)
    log_in(forge, world)
    pin_file.write_text("wrong\n")
    record.write_text("{}")
    done = world.run("serve", config)
    assert done.returncode == 78
    assert "cannot be read; it says which PIN the token refused" in " ".join(done.stderr.decode().split())
    assert not low(forge, world)


def test_what_is_remembered_is_this_pin_on_this_token(tmp_path: Path) -> None:
    memory = FilePinMemory(tmp_path, "label-1234", lambda: 1000.4)
    assert memory.refusal(WRONG) is None
    memory.remember(WRONG, "file /pin")
    record = json.loads(memory.path.read_text())
    assert {name: record[name] for name in ("token", "source", "time")} == {
        "token": "label-1234",
        "source": "file /pin",
        "time": 1000,
    }
    assert str(memory.path) in str(FilePinMemory(tmp_path, "label-1234").refusal(WRONG))
    assert memory.refusal(Pin(b"another PIN")) is None
    other = FilePinMemory(tmp_path, "label-5678")
    other.path.write_bytes(memory.path.read_bytes())  # the hash is bound to the serial number
    assert other.refusal(WRONG) is None
    memory.forget()
    assert not memory.path.exists()
    assert memory.refusal(WRONG) is None


def test_processes_that_start_together_make_one_try_between_them(tmp_path: Path) -> None:
    tries: list[int] = []

    def start() -> None:
        memory = FilePinMemory(tmp_path, "label-1234")
        with memory.turn():
            if memory.refusal(WRONG) is None:
                tries.append(1)
                time.sleep(0.05)
                memory.remember(WRONG, "file /pin")

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 1


def test_without_a_place_it_is_remembered_in_this_process_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hsm_msl.backend")
    place = tmp_path / "a file"
    place.touch()
    memory = FilePinMemory(place, "label-1234")
    with memory.turn():
        memory.remember(WRONG, "file /pin")
    assert "will try the refused PIN again" in caplog.text
    damaged = FilePinMemory(tmp_path, "label-1234")
    damaged.path.write_text("[]")
    with pytest.raises(BackendConfigurationError, match="Remove it to try a PIN again"):
        damaged.refusal(WRONG)
    plain = PinMemory("label-1234")
    plain.remember(WRONG, "file /pin")
    assert plain.refusal(WRONG) == "or start the service again"

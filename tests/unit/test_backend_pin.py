"""PIN sources: each gives the PIN, says what to do when it cannot, and none of them shows it."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import traceback
from pathlib import Path

import pytest

from hsm_msl.backend import pin as pins
from hsm_msl.backend.pin import (
    CredentialPin,
    DescriptorPin,
    EnvironmentPin,
    ExecPin,
    FilePin,
    Pin,
    PinSource,
    PromptPin,
    pin_source,
)
from hsm_msl.errors import BackendConfigurationError

SECRET = "s3cret-PIN"


def pin_file(directory: Path, content: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = directory / "pin"
    path.write_text(content)
    path.chmod(mode)
    return path


def pipe(content: str) -> int:
    reader, writer = os.pipe()
    os.write(writer, content.encode())
    os.close(writer)
    return reader


def sources(directory: Path) -> list[PinSource]:
    script = directory / "opener"
    script.write_text(f"#!/bin/sh\necho '{SECRET}'\n")
    script.chmod(0o700)
    path = pin_file(directory)
    return [
        FilePin(path),
        DescriptorPin(pipe(SECRET + "\n")),
        CredentialPin("pin", environment={"CREDENTIALS_DIRECTORY": str(directory)}.get),
        ExecPin((str(script),)),
        PromptPin(ask=lambda prompt: SECRET),
        EnvironmentPin("PIN", environment={"PIN": SECRET}.get, warn=lambda text: None),
    ]


def test_every_source_gives_the_first_line_again_and_again(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        assert [source.read().reveal() for _ in range(3)] == [SECRET.encode()] * 3


def test_no_source_shows_the_pin(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        read = source.read()
        assert SECRET not in repr(source) + str(source) + repr(read) + str(read) + f"{read}"


def test_a_pin_is_neither_pickled_nor_copied_nor_a_dictionary_key() -> None:
    secret = Pin(SECRET.encode())
    for use in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            use(secret)
    assert secret == Pin(SECRET.encode())
    assert secret != Pin(b"other")
    assert secret != SECRET.encode()


def test_a_traceback_does_not_show_the_pin() -> None:
    def login(value: Pin) -> None:
        raise RuntimeError(f"failed with {value}")

    try:
        login(Pin(SECRET.encode()))
    except RuntimeError:
        shown = "".join(traceback.TracebackException(*sys.exc_info(), capture_locals=True).format())  # type: ignore[arg-type]
    assert SECRET not in shown


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_file_that_others_may_touch_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = pin_file(tmp_path, mode=mode)
    with pytest.raises(BackendConfigurationError, match=f"chmod 600 {path}"):
        FilePin(path).read()


@pytest.mark.parametrize("content", ["", "\n", "\r\n", "\nsecond line"])
def test_an_empty_first_line_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BackendConfigurationError, match="empty"):
        FilePin(pin_file(tmp_path, content)).read()


def test_line_ends_do_not_belong_to_the_pin(tmp_path: Path) -> None:
    for content in (SECRET, f"{SECRET}\n", f"{SECRET}\r\n", f"{SECRET}\nmore"):
        assert FilePin(pin_file(tmp_path, content)).read() == Pin(SECRET.encode())


def test_a_file_far_too_long_for_a_pin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendConfigurationError, match="no PIN"):
        FilePin(pin_file(tmp_path, "x" * 5000)).read()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendConfigurationError, match="No such file"):
        FilePin(tmp_path / "missing").read()
    with pytest.raises(BackendConfigurationError, match="not a regular file"):
        FilePin(tmp_path).read()


def test_a_descriptor_may_deliver_in_pieces_or_be_closed() -> None:
    reader, writer = os.pipe()
    for part in ("s3cret", "-PIN\n"):
        os.write(writer, part.encode())
    source = DescriptorPin(reader)
    assert source.read() == Pin(SECRET.encode())
    os.close(writer)
    closed = pipe("")
    os.close(closed)
    with pytest.raises(BackendConfigurationError, match="descriptor"):
        DescriptorPin(closed).read()
    with pytest.raises(BackendConfigurationError, match="empty"):
        DescriptorPin(pipe("")).read()


def test_a_credential_needs_its_directory_and_file(tmp_path: Path) -> None:
    with pytest.raises(BackendConfigurationError, match="LoadCredential"):
        CredentialPin("pin", environment={}.get).read()
    with pytest.raises(BackendConfigurationError, match="No such file"):
        CredentialPin("pin", environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}.get).read()


def test_a_program_that_fails_or_hangs_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "opener"
    script.write_text(f"#!/bin/sh\necho '{SECRET}'\nexit 3\n")
    script.chmod(0o700)
    with pytest.raises(BackendConfigurationError, match="exit code 3") as failure:
        ExecPin((str(script),)).read()
    assert SECRET not in str(failure.value)
    monkeypatch.setattr(pins, "EXEC_SECONDS", 0.05)
    with pytest.raises(BackendConfigurationError, match="no answer"):
        ExecPin(("/bin/sleep", "10")).read()
    with pytest.raises(BackendConfigurationError, match="No such file"):
        ExecPin((str(tmp_path / "missing"),)).read()


def test_a_prompt_asks_once_and_needs_a_terminal() -> None:
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return SECRET

    source = PromptPin("PIN? ", ask)
    source.read()
    source.read()
    assert asked == ["PIN? "]

    def nobody(prompt: str) -> str:
        raise OSError

    with pytest.raises(BackendConfigurationError, match="no terminal"):
        PromptPin(ask=nobody).read()

    def silent(prompt: str) -> str:
        raise EOFError

    with pytest.raises(BackendConfigurationError, match="nothing was typed"):
        PromptPin(ask=silent).read()


def test_the_environment_is_warned_about_each_time() -> None:
    warned: list[str] = []
    source = EnvironmentPin("TOKEN_PIN", environment={"TOKEN_PIN": SECRET}.get, warn=warned.append)
    source.read()
    source.read()
    assert len(warned) == 2
    assert "TOKEN_PIN" in warned[0]
    assert SECRET not in warned[0]
    with pytest.raises(BackendConfigurationError, match="TOKEN_PIN is not set"):
        EnvironmentPin("TOKEN_PIN", environment={}.get).read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:/run/pin", FilePin),
        ("fd:3", DescriptorPin),
        ("cred:token.pin", CredentialPin),
        ("exec:/bin/opener --slot 'a b'", ExecPin),
        ("prompt", PromptPin),
        ("env:TOKEN_PIN", EnvironmentPin),
    ],
)
def test_the_grammar(text: str, expected: type) -> None:
    assert isinstance(pin_source(text), expected)


def test_the_program_of_the_grammar_runs_without_a_shell() -> None:
    assert pin_source("exec:/bin/opener --slot 'a b'; rm x") == ExecPin(("/bin/opener", "--slot", "a b;", "rm", "x"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        "1234",
        "file:relative",
        "file:",
        "fd:",
        "fd:x",
        "cred:../pin",
        "cred:..",
        "exec:opener",
        "env:A-B",
        "prompt:x",
        "value:1",
    ],
)
def test_what_is_not_in_the_grammar_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(BackendConfigurationError, match="PIN source not understood") as refusal:
        pin_source(text)
    assert len(text) < 3 or text not in str(refusal.value).replace(pins.GRAMMAR, "")

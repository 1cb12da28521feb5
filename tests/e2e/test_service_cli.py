"""The command line: its verbs on a real token and server, and one clear line for everything that can be wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service_world import SECONDS, USER_EMAIL, RunningServer, ServiceWorld

USAGE, UNAVAILABLE, PROTOCOL, CONFIGURATION = 2, 69, 76, 78


def one_line(done: subprocess.CompletedProcess[bytes], code: int, *parts: str) -> str:
    """Check that a command ended with one line on standard error that holds the parts, and return it."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("hsm-msl: ")
    for part in parts:
        assert part in lines[0]
    return lines[0]


def test_no_command(service_world: ServiceWorld) -> None:
    done = service_world.run()
    one_line(done, USAGE, "no command given", "hsm-msl serve CONFIG", "hsm-msl send CONFIG URL DATA")
    assert b"Usage: hsm-msl" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("fly",), "No such command 'fly'"),
        (("serve",), "Missing argument 'CONFIG'"),
        (("serve", "--fast", "x"), "No such option: --fast"),
        (("send", "client.toml"), "Missing argument 'URL'"),
        (("send", "client.toml", "http://127.0.0.1:1/", "x", "--repeat", "0"), "--repeat"),
        (("send", "client.toml", "http://127.0.0.1:1/", "x", "--file", "client.toml"), "not both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_command_line(service_world: ServiceWorld, arguments: tuple[str, ...], part: str) -> None:
    one_line(service_world.run(*arguments), USAGE, part)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("renewal_window", "renewal_windo", ("token_policy.renewal_windo", "did you mean 'renewal_window'?")),
        ("lifetime = 86400", "lifetime = 60", ("token_policy.lifetime", "at least token_policy.renewal_window")),
        ("pins/user.pin", "pins/so.pin", ("tokens.development", "refuses the PIN")),
        ("pins/user.pin", "pins/none.pin", ("tokens.development", "none.pin: No such file")),
        ('label = "hsm-msl-development"', 'label = "unplugged"', ("tokens.development", "present: label")),
        ('module = "softhsm"', 'module = "/no/module.so"', ("tokens.development", "/no/module.so: No such file")),
        ('[keys."msl.token"]\nprimary = 1', '[keys."msl.token"]\nprimary = 7', ("keys", "msl.token.encryption.v7")),
        ("identity.rsa.v1", "identity.rsa.v9", ("entity.label", "identity.rsa.v9", "hsm-provision apply")),
        ('user = ["EMAIL_PASSWORD"]', 'user = ["EMAIL"]', ("schemes.rule[0].user", "EMAIL_PASSWORD")),
        ("sqlite:///users.sqlite", "oracle://x", ("users.database", "use sqlite or postgresql")),
        ("sqlite:///state.sqlite", "sqlite:///server.pem", ("store.database", "is not an SQLite database")),
        ("[users]", "[users", ("not valid TOML", "line")),
        ('identity = "development-client"', 'identity = "other"', ("entities[0]", "psk.other.encryption.v1")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_server_configuration(service_world: ServiceWorld, old: str, new: str, parts: tuple[str, ...]) -> None:
    config = service_world.server_config("broken.toml", (old, new))
    one_line(service_world.run("serve", config), CONFIGURATION, str(config), *parts)


def test_no_configuration(service_world: ServiceWorld) -> None:
    one_line(service_world.run("serve", "none.toml"), CONFIGURATION, "none.toml: cannot be read: No such file")


def test_unplugged_token(service_world: ServiceWorld, tmp_path: Path) -> None:
    """A module whose tokens are gone: SoftHSMv2 cannot even start without its directory."""
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'gone'}\nobjectstore.backend = file\n")
    done = service_world.run("serve", "server.toml", SOFTHSM2_CONF=str(conf))
    one_line(done, UNAVAILABLE, "tokens.development", "is the token plugged in")


def test_another_token_plugged_in(service_world: ServiceWorld, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    done = service_world.run("serve", "server.toml", SOFTHSM2_CONF=str(conf))
    one_line(done, CONFIGURATION, "tokens.development", "no token", "hsm-msl-development")


def test_port_in_use(service_world: ServiceWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = service_world.server_config("busy.toml", ("port = 0", f"port = {port}"))
        one_line(service_world.run("serve", config), CONFIGURATION, "server.port", f"127.0.0.1:{port} is in use")


def test_address_of_another_machine(service_world: ServiceWorld) -> None:
    config = service_world.server_config("elsewhere.toml", ("port = 0", 'port = 0\nhost = "192.0.2.1"'))
    one_line(service_world.run("serve", config), CONFIGURATION, "server.host", "no address of this machine")


def test_check_only(service_world: ServiceWorld) -> None:
    done = service_world.run("serve", "--check", "server.toml")
    assert done.returncode == 0, done.stderr
    assert b"is good to serve" in done.stdout
    assert b"keys msl.token v1: in token 'hsm-msl-development'" in done.stdout


@pytest.mark.parametrize("how", ["argument", "file", "standard input"])
def test_send(service_world: ServiceWorld, service: RunningServer, tmp_path: Path, how: str) -> None:
    """Data comes from an argument, a file or standard input and goes to standard output or a file."""
    data = "na\u00efve\n".encode() if how == "argument" else bytes(range(256)) * 200
    source, target = tmp_path / "data", tmp_path / "reply"
    source.write_bytes(data)
    arguments: dict[str, Callable[[], subprocess.CompletedProcess[bytes]]] = {
        "argument": lambda: service_world.run("send", "client.toml", service.url, data.decode()),
        "file": lambda: service_world.run("send", "client.toml", service.url, "-f", source, "-o", target),
        "standard input": lambda: service_world.run("send", "client.toml", service.url, stdin=data),
    }
    done = arguments[how]()
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert (target.read_bytes() if how == "file" else done.stdout) == data


def test_send_explains(service_world: ServiceWorld, service: RunningServer) -> None:
    done = service_world.run("send", "--explain", "--repeat", "2", "client.toml", service.url, "x")
    assert done.stdout == b"x"
    text = done.stderr.decode()
    assert text.count("1 request/response pair\n") == 2
    assert "under entity authentication PSK" in text
    assert "key exchange DIFFIE_HELLMAN" in text
    assert "under master token" in text
    assert "pre-shared keys of development-client: in files" in text


def test_send_without_a_server(service_world: ServiceWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = service_world.run("send", "client.toml", f"http://127.0.0.1:{port}/", "x")
    one_line(done, UNAVAILABLE, f"http://127.0.0.1:{port}/", "is the server running there?")


@pytest.mark.parametrize("url", ["", "127.0.0.1", "ftp://127.0.0.1/", "http://"])
def test_send_to_no_url(service_world: ServiceWorld, url: str) -> None:
    one_line(service_world.run("send", "client.toml", url, "x"), USAGE, "is no URL of a server")


def test_send_to_something_else(service_world: ServiceWorld, service: RunningServer) -> None:
    limits = "[limits]\nrequest = 1024\nstreamed = 1024\n\n[users]"
    config = service_world.server_config("small.toml", ("[users]", limits))
    with service_world.serve(config) as server:
        done = service_world.run("send", "client.toml", server.url, "x" * 5000)
    one_line(done, UNAVAILABLE, "HTTP 413", "the request is larger than 1024 bytes")


def test_send_with_a_wrong_password(service_world: ServiceWorld, service: RunningServer) -> None:
    wrong = service_world.directory / "users/wrong.password"
    wrong.touch(mode=0o600)
    wrong.write_text("not the password")
    config = service_world.client_config("wrong.toml", ("user.password", "wrong.password"))
    done = service_world.run("send", config, service.url, "x")
    line = one_line(done, PROTOCOL, "EMAILPASSWORD_INCORRECT")
    assert "not the password" not in line
    assert line.count("EMAILPASSWORD_INCORRECT") == 1


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            '[server]\nidentity = "development-server"',
            '[server]\nidentity = "another-server"',
            ("MESSAGE_SENDER_MISMATCH", "from 'development-server', expected 'another-server'", "server.identity"),
        ),
        (
            'key_id = "development-server-1"',
            'key_id = "development-server-0"',
            ("RSA_PUBLICKEY_NOT_FOUND", "key ID 'development-server-1'", "entities[].key_id"),
        ),
    ],
    ids=["identity", "key ID"],
)
def test_send_says_what_does_not_fit_the_server(
    service_world: ServiceWorld, service: RunningServer, old: str, new: str, parts: tuple[str, ...]
) -> None:
    config = service_world.client_config("unfit.toml", (old, new))
    one_line(service_world.run("send", config, service.url, "x"), PROTOCOL, "unfit.toml", *parts)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('schemes = ["DIFFIE_HELLMAN"]', 'schemes = ["DIFFIE"]', ("key_exchange.schemes", "did you mean")),
        ('dh_group = "1"', 'dh_group = "2"', ("key_exchange.dh_group", "allowed here: 1")),
        ("users/user.password", "users/none", ("user.password", "password file", "No such file")),
        ("keys/development-client.mac.hex", "keys/none.hex", ("keys/none.hex", "No such file")),
        ('public_key = "server.pem"', 'public_key = "client.toml"', ("entities[0].public_key", "no public key")),
        ('public_key = "server.pem"', 'public_key = "none.pem"', ("entities[0].public_key", "no file")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_client_configuration(
    service_world: ServiceWorld, service: RunningServer, old: str, new: str, parts: tuple[str, ...]
) -> None:
    config = service_world.client_config("broken-client.toml", (old, new))
    one_line(service_world.run("send", config, service.url, "x"), CONFIGURATION, *parts)


def test_key_files_open_to_others(service_world: ServiceWorld) -> None:
    readable = service_world.directory / "keys/readable.hex"
    readable.write_text("00" * 32)
    readable.chmod(0o644)
    config = service_world.client_config("leaky.toml", ("keys/development-client.mac.hex", "keys/readable.hex"))
    one_line(service_world.run("send", config, "http://127.0.0.1:1/", "x"), CONFIGURATION, "chmod 600")


def test_a_mac_key_in_a_file_is_no_single_byte(service_world: ServiceWorld) -> None:
    short = service_world.directory / "keys/short.hex"
    short.touch(mode=0o600)
    short.write_text("00")
    config = service_world.client_config("short.toml", ("keys/development-client.mac.hex", "keys/short.hex"))
    done = service_world.run("send", config, "http://127.0.0.1:1/", "x")
    one_line(done, CONFIGURATION, "short.hex: a key of 1 bytes; it must have at least 16")


def test_public_key_of_a_server_without_one(service_world: ServiceWorld) -> None:
    config = service_world.server_config(
        "psk.toml",
        (
            'scheme = "RSA"\nidentity = "development-server"\nkey_id = "development-server-1"\n'
            'label = "identity.rsa.v1"',
            'scheme = "PSK"\nidentity = "development-client"',
        ),
    )
    one_line(service_world.run("public-key", config), CONFIGURATION, "entity.scheme", "no key pair")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping(service_world: ServiceWorld, how: signal.Signals) -> None:
    with service_world.serve(service_world.directory / "server.toml") as server:
        status = server.stop(how)
        assert status in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_two_workers(service_world: ServiceWorld) -> None:
    """Every worker process logs in on its own; all end with the first one."""
    config = service_world.server_config("workers.toml", ("port = 0", "port = 0\nworkers = 2"))
    with service_world.serve(config) as server:
        for number in range(6):
            done = service_world.run("send", "client.toml", server.url, str(number))
            assert done.stdout == str(number).encode(), done.stderr + server.log.read_bytes()
        assert server.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log.read_text()


def test_credentials_are_nowhere_to_be_seen(service_world: ServiceWorld, service: RunningServer) -> None:
    """Neither the output of a client nor the log of the server shows a password, a PIN or a key."""
    directory = service_world.directory
    secrets = [
        path.read_text().strip()
        for path in (
            *directory.glob("pins/*.pin"),
            *directory.glob("keys/development*"),
            directory / "users/user.password",
        )
    ]
    assert len(secrets) >= 5
    done = service_world.run("send", "--explain", "client.toml", service.url, "x")
    text = done.stdout.decode() + done.stderr.decode() + service.log.read_text() + "\n".join(service.lines)
    assert not [secret for secret in secrets if secret in text]


def test_version(service_world: ServiceWorld) -> None:
    assert service_world.run("version").stdout == service_world.run("--version").stdout
    assert service_world.run("version").stdout.startswith(b"hsm-msl ")


def test_inspect_a_request_of_our_own(service_world: ServiceWorld, tmp_path: Path) -> None:
    from contextlib import closing

    from hsm_msl.msl.conversation import Send

    with closing(service_world.client()) as client:
        step = next(client.msl.request(client.message(b"what is in here?")))
    assert isinstance(step, Send)
    recording, keys = tmp_path / "request", tmp_path / "keys.toml"
    recording.write_bytes(step.body)
    directory = service_world.directory
    keys.write_text(
        '[[psk]]\nidentity = "development-client"\n'
        + "".join(
            f'{role} = "{(directory / f"keys/development-client.{role}.hex").read_text().strip()}"\n'
            for role in ("encryption", "mac")
        )
    )
    closed = json.loads(service_world.run("inspect", "--json", recording).stdout)["messages"][0]
    assert closed["signature"] == "not checked: no key given"
    assert closed["header"]["encrypted"]["keyid"] == "development-client"
    done = service_world.run("inspect", "--json", "--keys", keys, recording)
    opened = json.loads(done.stdout)["messages"][0]
    assert opened["signature"] == "verified"
    assert opened["header"]["userauthdata"]["authdata"] == {"email": USER_EMAIL, "password": "(hidden)"}
    assert opened["payload"]["data"]["text"] == "what is in here?"
    tree = service_world.run("inspect", "--keys", keys, recording).stdout.decode()
    assert "text: what is in here?" in tree
    assert (directory / "users/user.password").read_text().strip() not in tree + done.stdout.decode()


def test_inspect_garbage(service_world: ServiceWorld) -> None:
    one_line(service_world.run("inspect", "-", stdin=b"garbage"), PROTOCOL, "MSL_PARSE_ERROR")
    one_line(service_world.run("inspect", "none"), 1, "none: cannot be read")


def test_reader_that_has_enough(service_world: ServiceWorld) -> None:
    """A closed pipe ends a command without complaint."""
    with subprocess.Popen(
        [sys.executable, "-m", "hsm_msl.cli", "inspect", "-"],
        env=service_world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        process.stdout.close()
        process.stdin.write(b"{}" * 1000)
        process.stdin.close()
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == b""

"""MSL and the dialog on one port of one process, with one login to the token that holds the keys of both."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service_world import CEREMONY, DEMO, SECONDS, ServiceWorld, make_world

KEYS = "".join(
    f'\n[[key]]\nprofile = "{profile}"\npurpose = "{name}"\n'
    for name in ("orders", "stock")
    for profile in ("dialog-signing-ec", "dialog-kek-ec", "dialog-storage")
)
TOKENS = '[tokens.development]\nmodule = "softhsm"\nlabel = "hsm-msl-development"\npin = "file:pins/user.pin"\n'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ServiceWorld:
    """A token with the keys of an MSL server and of two services that hold dialogs."""
    world = make_world(tmp_path_factory.mktemp("beside"))
    ceremony = world.directory / "both.toml"
    profiles = CEREMONY.parent.parent / "profiles"
    ceremony.write_text(CEREMONY.read_text().replace('"../profiles"', f'"{profiles}"') + KEYS)
    world.provision("apply", ceremony)
    for name in ("orders", "stock"):
        for use in ("signing", "kek"):
            world.provision(
                "certificate", ceremony, f"{name}.{use}.v1", "--subject", f"CN={name} {use}",
                "--issuer", f"{name}.signing.v1", "--out", str(world.directory / f"{name}.{use}.pem"),
            )  # fmt: skip
    return world


def dialog_config(world: ServiceWorld, name: str, other: str, *, tokens: str = "", url: str = "") -> Path:
    text = (DEMO.parent / "demo-dialog/service.toml").read_text()
    before, _, rest = text.partition("[tokens.demo]")
    text = before + tokens + "\n[store]" + rest.partition("[store]")[2]
    for old, new in {"@SELF@": name, "@OTHER@": other, "@PORT@": "0", "@URL@": url}.items():
        text = text.replace(old, new)
    path = world.directory / f"{name}.toml"
    path.write_text(text)
    return path


def run(world: ServiceWorld, *arguments: object) -> str:
    done = world.run("dialog", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_one_port_for_both_protocols(world: ServiceWorld) -> None:
    dialog_config(world, "orders", "stock")
    stock = dialog_config(world, "stock", "orders", tokens=TOKENS)
    config = world.server_config(
        "both-server.toml", ("[dh_groups]", '[dialog]\nconfiguration = "orders.toml"\n\n[dh_groups]')
    )
    peer = subprocess.Popen(
        [sys.executable, "-m", "hsm_msl.cli", "dialog", "serve", str(stock)],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert peer.stdout is not None
    try:
        stock_url = peer.stdout.readline().split("listening on ")[1].strip()
        dialog_config(world, "orders", "stock", url=stock_url)
        with world.serve(config) as server:
            orders_url = server.url.rstrip("/") + "/dialog"
            dialog_config(world, "stock", "orders", tokens=TOKENS, url=orders_url)
            run(world, "bindings", stock)
            answer = world.run("send", "client.toml", server.url, "hello")
            assert b"hello" in answer.stdout, answer.stderr
            dialog = run(world, "open", stock, "urn:demo:orders").strip()
            run(world, "send", stock, dialog, "order", "three chairs")
            assert "order: three chairs" in run(world, "receive", config, "--wait", 30)
            run(world, "send", config, dialog, "answer", "reserved")
            assert "answer: reserved" in run(world, "receive", stock, dialog, "--wait", 30)
            assert httpx.get(server.url + "health/ready").status_code == 200
            assert httpx.get(server.url + "dialog").status_code == 405
            again = world.run("send", "client.toml", server.url, "still here")
            assert b"still here" in again.stdout, again.stderr
            server.stop()
            assert "Traceback" not in server.log.read_text()
    finally:
        peer.terminate()
        peer.wait(SECONDS)
        peer.stdout.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('configuration = "orders.toml"', 'configuration = "none.toml"'), "none.toml: cannot be read"),
        (("port = 0", "port = 0\nworkers = 2"), "dialog: needs server.workers = 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_listens(
    world: ServiceWorld, change: tuple[str, str], words: str
) -> None:
    dialog_config(world, "orders", "stock")
    config = world.server_config(
        "broken.toml", ("[dh_groups]", '[dialog]\nconfiguration = "orders.toml"\n\n[dh_groups]'), change
    )
    started = time.monotonic()
    done = world.run("serve", config)
    assert done.returncode == 78, done.stderr
    assert words in done.stderr.decode()
    assert b"listening" not in done.stdout
    assert time.monotonic() - started < SECONDS


def test_a_check_opens_the_dialogs_too(service_world: ServiceWorld) -> None:
    config = service_world.server_config(
        "unbesided.toml", ("[entity]", '[dialog]\nconfiguration = "nowhere.toml"\n\n[entity]')
    )
    outcome = service_world.run("serve", "--check", str(config))
    assert outcome.returncode == 78
    assert "nowhere.toml: cannot be read" in outcome.stderr.decode()

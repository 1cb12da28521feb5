"""A database that comes back from a backup: the file beside it tells, and no nonce is used twice (section 8, T15)."""

from __future__ import annotations

import asyncio
import copy as copying
import sqlite3
from pathlib import Path

import pytest

from dialog_world import Clock, Service, World
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.packet import parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.dialog.compose import FileMirror
from hsm_msl.service.dialog.http import HttpTransport
from hsm_msl.service.dialog.node import DialogNode
from hsm_msl.stores.dialog_memory import MemoryDialogStore
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

INIT, TARGET = Side.INITIATOR, Side.TARGET


def copy(source: Path, target: Path) -> None:
    """Take a consistent backup of a database in use."""
    with sqlite3.connect(source) as used, sqlite3.connect(target) as backup:
        used.backup(backup)
    used.close()
    backup.close()


def test_restore_of_a_sqlite_file(tmp_path: Path) -> None:
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    mirror = FileMirror(tmp_path / "incarnation")
    database = Database(f"sqlite:///{live}")
    world = World(initiator_store=SqlDialogStore(database), policy=Policy(on_peer_shift=False))
    assert world.a.engine.check_incarnation("node", mirror) is False
    dialog = world.open()
    copy(live, backup)
    assert world.a.engine.check_incarnation("node", mirror) is False
    world.a.send(dialog, INIT, b"after the backup")
    world.settle()
    database.close()
    live.unlink()
    for left in ("-wal", "-shm"):
        live.with_name(live.name + left).unlink(missing_ok=True)
    copy(backup, live)
    database = Database(f"sqlite:///{live}")
    world.a.store = SqlDialogStore(database)
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror) is True
    world.a.send(dialog, INIT, b"after the restore")
    for _ in range(3):
        world.clock.advance(5)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"after the backup", b"after the restore"]
    sealed: dict[tuple[int, int, int, int], bytes] = {}
    for name, data in world.log:
        core = parse(data).core
        if name == world.b.name and core.seq:
            nonce = (core.direction, core.generation, core.seq, core.frag)
            assert sealed.setdefault(nonce, parse(data).body) == parse(data).body
    assert world.a.engine.check_incarnation("node", mirror) is False
    database.close()


QUIET = Policy(on_peer_shift=False)


def opened(tmp_path: Path) -> tuple[World, MemoryDialogStore, FileMirror, bytes]:
    """A dialog of a process that has started and renewed its incarnation."""
    store, mirror = MemoryDialogStore(), FileMirror(tmp_path / "incarnation")
    world = World(initiator_store=store, policy=QUIET)
    assert world.a.engine.check_incarnation("node", mirror, starting=True) is False
    return world, store, mirror, world.open()


def settled(world: World) -> None:
    for _ in range(4):
        world.clock.advance(5)
        world.settle()


def test_a_backup_younger_than_the_last_renewal_repeats_no_nonce(tmp_path: Path) -> None:
    world, store, mirror, dialog = opened(tmp_path)
    backup = copying.deepcopy(store._tables)
    world.a.send(dialog, INIT, b"to pay 100")
    (lost,) = world.outgoing(world.a)
    store._tables = backup
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror, starting=True) is False, (
        "nothing tells that it is a backup"
    )
    assert world.a.send(dialog, INIT, b"to pay 200") == 0
    settled(world)
    assert world.b.bodies(dialog, TARGET) == [b"to pay 200"]
    for name, data in world.log:
        core = parse(data).core
        if name == world.b.name and core.seq:
            assert (core.dsk_id, core.seq) != (parse(lost).core.dsk_id, parse(lost).core.seq)


def test_what_waited_for_a_binding_is_not_sealed_under_a_doubtful_key_either(tmp_path: Path) -> None:
    world, _store, mirror, dialog = opened(tmp_path)
    world.a.bind(world.a.binding(world.b, QUIET, enabled=False))
    world.a.send(dialog, INIT, b"waits")
    world.a.restart()
    world.a.engine.check_incarnation("node", mirror, starting=True)
    world.a.bind(world.a.binding(world.b, QUIET))
    settled(world)
    assert world.b.bodies(dialog, TARGET) == [b"waits"]
    assert world.a.state(dialog, INIT).out_generation > 1000


def test_a_process_that_came_to_rest_goes_on_under_its_keys(tmp_path: Path) -> None:
    world, _store, mirror, dialog = opened(tmp_path)
    world.a.engine.check_incarnation("node", mirror, resting=True)
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror, starting=True) is False
    assert world.a.send(dialog, INIT, b"on") == 2
    world.settle()
    assert world.a.state(dialog, INIT).out_generation == 1


def test_what_an_abrupt_end_left_in_doubt_outlives_an_orderly_one(tmp_path: Path) -> None:
    world, _store, mirror, dialog = opened(tmp_path)
    for resting in (False, True):
        world.a.restart()
        world.a.engine.check_incarnation("node", mirror, starting=True)
        world.a.engine.check_incarnation("node", mirror, resting=resting)
    world.a.restart()
    world.a.engine.learn_doubts()  # as a command does
    assert world.a.send(dialog, INIT, b"x") == 0
    settled(world)
    assert world.a.send(dialog, INIT, b"y") == 3
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"x", b"y"]


def test_a_backup_from_before_the_rest_is_noticed(tmp_path: Path) -> None:
    world, store, mirror, _dialog = opened(tmp_path)
    backup = copying.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror, resting=True)
    store._tables = backup
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror, starting=True) is True


def test_a_process_that_is_killed_again_and_again_fails_no_dialog(tmp_path: Path) -> None:
    world, _store, mirror, dialog = opened(tmp_path)
    world.b.bind(world.b.binding(world.a, Policy(on_peer_shift=False)))  # as it comes: 10 shifts in 60 seconds
    sent = [b"%d" % number for number in range(30)]
    for body in sent:
        world.a.restart()
        world.a.engine.check_incarnation("node", mirror, starting=True)
        world.a.send(dialog, INIT, body)
        world.clock.advance(1)
        world.settle()
    settled(world)
    assert world.b.bodies(dialog, TARGET) == sent


def test_a_node_comes_to_rest_when_it_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror, database = FileMirror(tmp_path / "incarnation"), Database(f"sqlite:///{tmp_path / 'a.db'}")
    store = SqlDialogStore(database)

    async def run(node: str) -> None:
        service = Service("urn:test:a", 2, Clock(), store=store)
        async with DialogNode(service.engine, store, HttpTransport(), node=node, mirror=mirror):
            assert (mirror.read() or b"")[16:] == b""

    asyncio.run(run("east"))
    assert (mirror.read() or b"")[16:] == b"at rest"
    assert not caplog.messages
    asyncio.run(run("west"))
    assert "another process runs as node 'west'" in caplog.text
    database.close()


def test_the_mirror_file(tmp_path: Path) -> None:
    mirror = FileMirror(tmp_path / "incarnation")
    assert mirror.read() is None
    mirror.write(b"\1" * 16)
    mirror.write(b"\2" * 16)
    assert mirror.read() == b"\2" * 16
    assert [path.name for path in tmp_path.iterdir()] == ["incarnation"]
    (tmp_path / "incarnation").write_text("not hexadecimal")
    with pytest.raises(ConfigurationError):
        mirror.read()
    with pytest.raises(ConfigurationError):
        FileMirror(tmp_path / "missing" / "incarnation").write(b"x")

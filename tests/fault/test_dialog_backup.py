"""A database that comes back from a backup: the file beside it tells, and no nonce is used twice (section 8, T15)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dialog_world import World
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.packet import parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.dialog.compose import FileMirror
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

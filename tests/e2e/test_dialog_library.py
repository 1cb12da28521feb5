"""The examples of DIALOGS.md, run as they stand there, on SQLite and on PostgreSQL."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from dialog_place import ROOT, SECONDS, Place
from hsm_msl.stores.sql import Database

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "hsm_msl/dialog/DIALOGS.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("library"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def start(place: Place, source: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source],
        env=place.environment,
        cwd=place.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_orders_and_stock(kind: str, place: Place, request: pytest.FixtureRequest) -> None:
    ports, pages = {"orders": free_port(), "stock": free_port()}, free_port()
    databases: dict[str, Database] = {}
    for name, other in (("orders", "stock"), ("stock", "orders")):
        path = place.configure(name, other, ports[name], f"http://127.0.0.1:{ports[other]}/dialog")
        url = f"sqlite:///{place.directory / name}.sqlite"
        if kind == "postgresql":
            url = request.getfixturevalue("postgres_cluster").create_database().replace("+psycopg", "")
            path.write_text(path.read_text().replace(f"sqlite:///{name}.sqlite", url))
        databases[name] = Database(url)
    path.write_text(path.read_text().replace("[store]", f"[management]\nport = {pages}\n\n[store]"))
    orders_source, stock_source = EXAMPLES
    stock = start(place, stock_source)
    orders = start(place, orders_source)
    try:
        try:
            out, errors = orders.communicate(timeout=2 * SECONDS)
        except subprocess.TimeoutExpired:
            stock.kill()
            pytest.fail(f"no answer: {stock.communicate()[1]}")
        assert out == "answer reserved: three chairs\nEND \n", errors
        assert orders.returncode == 0, errors
        rows: dict[str, list[str]] = {}
        for name, table in (("orders", "orders"), ("stock", "reserved")):
            with databases[name].statements() as connection:
                rows[name] = list(connection.execute(text(f"SELECT what FROM {table}")).scalars())
        assert rows == {"orders": ["three chairs"], "stock": ["three chairs"]}
        time.sleep(0.1)
        assert stock.poll() is None, stock.communicate()[1]
        assert httpx.get(f"http://127.0.0.1:{pages}/health/live", timeout=SECONDS).json() == {"status": "live"}
    finally:
        for process in (orders, stock):
            process.kill()
            process.communicate()
        for database in databases.values():
            database.close()


def test_the_port_that_is_taken_is_named(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place.configure("orders", "stock", taken.getsockname()[1])
        orders = start(place, EXAMPLES[0])
        _, errors = orders.communicate(timeout=SECONDS)
    assert "is in use; stop the other program" in errors


def test_the_examples_are_read(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 2
    for number, source in enumerate(EXAMPLES):
        compile(source, str(tmp_path / f"{number}.py"), "exec")

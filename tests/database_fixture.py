"""An empty database of each kind the project runs on: tests that ask for ``database_url`` run once per kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_msl.stores.sql import Database

KINDS = ("sqlite", "postgresql")


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a fresh database; PostgreSQL is started only when a test comes here for it."""
    if kind == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    directory: Path = request.getfixturevalue("tmp_path")
    return f"sqlite:///{directory / 'state.db'}"


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty SQLite file or PostgreSQL database of this test's own."""
    return url_of(request.param, request)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Yield an open database without tables."""
    opened = Database(database_url)
    yield opened
    opened.close()

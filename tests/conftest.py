"""What every test may ask for; fixtures live in their own files and are only named here."""

from __future__ import annotations

pytest_plugins = ["ceremony_fixture", "database_fixture", "postgres_fixture"]

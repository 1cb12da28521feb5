"""Limits of what is stored, apart from the tables so that a command need not load a database to know them."""

from __future__ import annotations

MAX_KEY_BYTES = 1024
"""UTF-8 bytes of a name that are stored as they are; PostgreSQL refuses index rows above 2704 bytes."""

"""Reads the recorded vectors that lie under tests/vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent / "vectors"


def load(name: str) -> Any:
    """Return the content of one vector file, named by its path below tests/vectors."""
    return json.loads((_ROOT / name).read_text(encoding="utf-8"))

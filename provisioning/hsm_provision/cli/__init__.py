"""The ``hsm-provision`` command."""

from __future__ import annotations

from hsm_provision.cli.main import main

__all__ = ["main"]

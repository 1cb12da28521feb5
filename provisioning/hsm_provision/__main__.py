"""Run the command as ``python -m hsm_provision``."""

from __future__ import annotations

from hsm_provision.cli.main import main

main()

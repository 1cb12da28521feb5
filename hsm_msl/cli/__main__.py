"""Run the command line as ``python -m hsm_msl.cli``."""

from __future__ import annotations

from hsm_msl.cli.main import main

if __name__ == "__main__":
    main()

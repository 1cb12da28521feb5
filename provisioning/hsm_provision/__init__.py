"""Key ceremonies for hsm-msl: the only code of the project that creates, imports, exports or destroys keys."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("hsm-msl")

"""What every test may ask for; fixtures live in their own files and are only named here.

A file comes before the files that import it.
"""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = [
    "ceremony_fixture",
    "database_fixture",
    "postgres_fixture",
    "softhsm_fixture",
    "recorded_token",
    "token_fixture",
    "key_backends",
    "vendor_tokens",
    "service_world",
    "scheme_places",
]

# Machines are shared and slow at times; how long an example takes says nothing about whether it is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# A shell starts its background jobs with SIGINT ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

"""The built-in application: every message is answered with its own payload."""

from __future__ import annotations

from hsm_msl.msl.server import Reply, Request


def echo(request: Request) -> Reply:
    """Return the payload unchanged."""
    return Reply(request.payload, text=_is_text(request.payload))


def _is_text(payload: bytes) -> bool:
    # Clients that decode each chunk on its own need whole characters in it (deployed ones do).
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

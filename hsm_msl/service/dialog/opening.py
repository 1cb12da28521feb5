"""Opens a service's dialogs for one command: only to look and to leave work, not to serve."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path

from hsm_msl.service.compose.keys import KeySources
from hsm_msl.service.config import read_server_config
from hsm_msl.service.dialog.compose import ComposedDialogs, compose_dialogs
from hsm_msl.service.dialog.config import read_dialog_config
from hsm_msl.service.documents import Configuration, ServerConfig


def open_dialogs(path: Path) -> ComposedDialogs:
    """Open the dialogs that a file describes: a service's own, or an MSL server's that names one under ``[dialog]``.

    Raises:
        ConfigurationError, BackendError, StoreError: something cannot be opened; the text says what to do.
    """
    with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):  # told better by who reads it in earnest
        if "dialog" in tomllib.loads(path.read_text(encoding="utf-8")):
            return _of_server(read_server_config(path))
    return compose_dialogs(read_dialog_config(path), occasion="look")


def _of_server(config: Configuration[ServerConfig]) -> ComposedDialogs:
    section = config.document.dialog
    if section is None:
        raise config.error("dialog", "is empty")
    sources = KeySources(config)
    try:
        beside = read_dialog_config(config.resolve(section.configuration))
        dialogs = compose_dialogs(beside, token=sources.token, occasion="look")
    except BaseException:
        sources.close()
        raise
    dialogs.closing.callback(sources.close)
    return dialogs

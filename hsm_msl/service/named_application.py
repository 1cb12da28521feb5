"""Applications named by a configuration, ``module:function``, so that ``hsm-msl serve`` can run anybody's."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from hsm_msl.msl.server import Application
from hsm_msl.msl.streaming import StreamApplication
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.service.echo import echo, echo_stream


@dataclass(frozen=True, slots=True)
class Applications:
    """What answers the messages of a server.

    Attributes:
        whole: answers a message that is there as a whole.
        stream: answers long messages piece by piece; None refuses them.
    """

    whole: Application
    stream: StreamApplication | None


def applications(config: Configuration[ServerConfig]) -> Applications:
    """Import the applications of a configuration; the echo where it names none.

    Args:
        config: the checked configuration.

    Raises:
        ConfigurationError: there is no such module or function, or it cannot be imported; names the key.
    """
    section = config.document.server
    if section.application is None and section.stream is None:
        return Applications(echo, echo_stream)
    if section.application is None:
        raise config.error("server.stream", "short messages need an application of their own: set server.application")
    whole = _imported(config, "server.application", section.application)
    return Applications(whole, None if section.stream is None else _imported(config, "server.stream", section.stream))


def _imported(config: Configuration[ServerConfig], key: str, name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise config.error(key, f"{name!r}: {error}; install it, or name its directory in PYTHONPATH") from None
    except Exception as error:
        # Importing runs the application's own code, which may fail in any way.
        raise config.error(key, f"{name!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise config.error(key, f"{name!r} is no function from a request to a reply")
    return found

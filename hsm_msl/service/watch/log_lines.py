"""How log lines look: JSON for machines, text for people, both with the ID of the request that caused them."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal

import msgspec

from hsm_msl.printable import printable
from hsm_msl.service.sections import LogSection
from hsm_msl.service.watch.request_trace import current

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_LEVELS: Final = {"hsm_msl": logging.INFO, "uvicorn": logging.WARNING}


class RequestIds(logging.Filter):
    """Puts the ID of the request in work on every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        trace = current()
        record.request_id = None if trace is None else trace.request_id
        return True


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is a member of the object, so that it stays one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            line["request_id"] = request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line).decode()
        except UnicodeEncodeError:  # lone surrogates, which names of strangers may hold
            clean = {name: printable(value) if isinstance(value, str) else value for name, value in line.items()}
            return msgspec.json.encode(clean).decode()


class TextLines(logging.Formatter):
    """One line for people; only a defect's traceback takes more."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(more)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = dict(getattr(record, "fields", {}))
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            fields["request"] = request_id
        more = "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
        record.more = printable(more)
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the method of the library
        """Return the line without a traceback."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - the method of the library
        """Return a traceback whose lines begin like no line of ours, whatever the exception says."""
        return "\n".join("  " + printable(line) for line in super().formatException(ei).splitlines())


_FORMS: Final[dict[Literal["json", "text"], type[logging.Formatter]]] = {"json": JsonLines, "text": TextLines}


def set_up_logging(section: LogSection | None = None) -> None:
    """Send log lines to standard error; request contents, keys and credentials are never among them.

    Args:
        section: how they look; text until a configuration is read.
    """
    section = LogSection() if section is None else section
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMS[section.format]())
    handler.addFilter(RequestIds())
    for name, level in _LEVELS.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    logging.getLogger("hsm_msl.messages").setLevel(logging.INFO if section.messages else logging.WARNING)

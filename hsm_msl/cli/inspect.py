"""``hsm-msl inspect``: show what a recorded request or response carries, as a tree or as JSON."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsm_msl.cli.failures import PROTOCOL, CommandError
from hsm_msl.printable import printable
from hsm_msl.service.compose.inspection import compose_inspection
from hsm_msl.service.inspection import Inspector, Report

_HEX_TEXT = re.compile(rb"\s*(?:[0-9A-Fa-f]{2}\s*)+\Z")
_TIMES = frozenset({"timestamp", "renewalwindow", "expiration"})
_NO_WIDTH = 1 << 16
_LONGEST = 120
_LATEST = 253402300799  # the last second of the year 9999, which is as far as the calendar goes


def inspect(file: Path, keys: Path | None, *, as_json: bool) -> None:
    """Print a report on a recording.

    Args:
        file: raw bytes of a request or response, or their hexadecimal text; ``-`` reads standard input.
        keys: TOML file with the keys to open it with.
        as_json: print JSON instead of a tree.

    Raises:
        CommandError: the recording cannot be read, or is not made of whole messages.
        ConfigurationError: the key file does not fit.
    """
    body = _read(file)
    report = Inspector(compose_inspection(keys)).inspect(body)
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        _print_tree(report, str(file))
    sys.stdout.flush()
    if "problem" in report:
        raise CommandError(f"{file}: {report['problem']}", PROTOCOL)


def _read(file: Path) -> bytes:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from None
    return bytes.fromhex(data.decode("ascii")) if _HEX_TEXT.match(data) else data


def _print_tree(report: Report, title: str) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def grow(tree: Tree, name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            branch = tree.add(Text(name, style="bold"))
            for member, inner in value.items():
                grow(branch, member, inner)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            branch = tree.add(Text(f"{name} ({len(value)})", style="bold"))
            for number, item in enumerate(value, 1):
                grow(branch, str(number), item)
        else:
            line = Text(f"{name}: ", style="bold")
            line.append(_shown(name, value), style="red" if name == "problem" else "not bold")
            tree.add(line)

    root = Tree(Text(title, style="bold"))
    for name, value in report.items():
        if value != []:
            grow(root, name, value)
    # A terminal wraps long values; a file or pipe gets each on one line, since the tree would cut what does not fit.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _NO_WIDTH)
    with console.capture() as captured:
        console.print(root)
    sys.stdout.write(captured.get())


def _shown(name: str, value: Any) -> str:
    """Return one value as one line; what strangers wrote may not steer the terminal."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if name in _TIMES and isinstance(value, int) and 0 <= value <= _LATEST:
        return f"{value} ({datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"

"""How far a fleet import is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hsm_provision.cli.console import err

if TYPE_CHECKING:
    from hsm_provision.fleet_import import FleetCount
    from hsm_provision.fleet_reading import FleetReader

BATCHES_PER_LINE = 10


@contextlib.contextmanager
def fleet_progress(
    reader: FleetReader, size: int | None, console: Console | None = None
) -> Iterator[Callable[[FleetCount], None]]:
    """Show the progress of an import for the length of a ``with`` block.

    Args:
        reader: tells how much was read.
        size: bytes of the source, or None when that is not known.
        console: where to show it; standard error when None.

    Returns:
        What to call after each batch.
    """
    shown = console or err()
    if not shown.is_terminal:
        yield _lines(shown, reader)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown) as bar:
        task = bar.add_task("reading", total=size)

        def settled(count: FleetCount) -> None:
            bar.update(task, completed=reader.read_bytes, description=_text(count))

        yield settled


def _lines(console: Console, reader: FleetReader) -> Callable[[FleetCount], None]:
    batches = 0

    def settled(count: FleetCount) -> None:
        nonlocal batches
        if batches % BATCHES_PER_LINE == 0:
            console.print(f"  line {reader.line}: {_text(count)}", markup=False)
        batches += 1

    return settled


def _text(count: FleetCount) -> str:
    return f"{count.stored} entities stored" + (f", {count.rejected} rejected" if count.rejected else "")

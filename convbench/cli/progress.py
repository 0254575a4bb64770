"""What is being measured, on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.tasks import Task


@contextmanager
def progress(todo: list[Task], quiet: bool) -> Iterator[Any]:
    """A function that shows what is being done; nothing is drawn when quiet or where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _event: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from convbench.backends import AUTO

    names = {task.index: task.key.label() for task in todo}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    done: dict[tuple[str, int], float] = {}
    # Redrawn by our own calls between measurements, never by a thread beside one.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as drawing:
        able = sum(task.candidate.reason is None for task in todo)
        asked = {"tune": sum(task.key.algorithm == AUTO for task in todo), "verify": able, "time": able}
        bars = {doing: drawing.add_task(doing, total=total, visible=doing != "tune")
                for doing, total in asked.items()}  # fmt: skip
        drawn = 0.0

        def show(event: Any) -> None:
            nonlocal drawn
            done[event.doing, event.index] = event.share if event.doing == "time" else 1.0
            completed = sum(share for (doing, _), share in done.items() if doing == event.doing)
            drawing.update(bars[event.doing], completed=completed, visible=True,
                            description=f"{event.doing:6} {names[event.index]}")  # fmt: skip
            if time.perf_counter() - drawn > 0.5:
                drawing.refresh()
                drawn = time.perf_counter()

        yield show

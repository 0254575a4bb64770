"""What is being measured, on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from convbench.render import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.result import RowKey
    from convbench.tasks import Task


DOING = 6
"""Letters of the longest of what is done: "verify"."""
LEAST = 8
"""Letters that a case keeps on the narrowest terminal."""
FIGURES = len("100% 0:00:00 left 0:00:00") + len("  ")
"""Columns beside the description and the bar, and gaps."""


def described(doing: str, key: RowKey, room: int) -> str:
    """What is done to which row in `room` columns: a case is shortened in its middle, the algorithm never."""
    case = key.case.label()
    algorithm = key.label().removeprefix(case)
    return f"{doing:{DOING}} {shortened(case, max(LEAST, room - DOING - 1 - len(algorithm)))}{algorithm}"


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

    keys = {task.index: task.key for task in todo}
    console = Console(stderr=True)
    bar = console.width // 8
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar), TaskProgressColumn(),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    done: dict[tuple[str, int], float] = {}
    # Redrawn by our own calls between measurements, never by a thread beside one.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as drawing:
        able = sum(task.candidate.reason is None for task in todo)
        asked = {"tune": sum(task.key.algorithm == AUTO for task in todo), "verify": able, "time": able}
        bars = {doing: drawing.add_task(doing, total=total, visible=doing != "tune")
                for doing, total in asked.items()}  # fmt: skip
        drawn = 0.0

        def show(event: Any) -> None:
            nonlocal drawn
            done[event.doing, event.index] = event.share if event.doing == "time" else 1.0
            completed = sum(share for (doing, _), share in done.items() if doing == event.doing)
            text = described(event.doing, keys[event.index], console.width - bar - FIGURES)
            drawing.update(bars[event.doing], completed=completed, visible=True, description=text)
            if time.perf_counter() - drawn > 0.5:
                drawing.refresh()
                drawn = time.perf_counter()

        yield show

"""GitHub's annotations: lines of a job's output that it shows beside the code."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from convbench.compare import Verdict
from convbench.errors import printable
from convbench.render.comparison import outcome_text

if TYPE_CHECKING:
    from convbench.render.ci.facts import Facts

MOST = 10
"""GitHub drops what a step has beyond so many errors and so many warnings."""


def github_annotations(facts: Facts) -> list[str]:
    """Workflow commands, the gravest first, at most MOST: an error or a warning where the suite declares the problem.

    A suspect is a warning. Inconclusive rows share one line, an error where they fail the check. What finds no room is
    counted at the end of the last line.
    """
    grave, unclear = facts.grave, facts.compared.verdicts[Verdict.INCONCLUSIVE]
    found: list[tuple[str, dict[str, str | int | None], str]] = []
    for row in grave[:MOST]:
        file, line = facts.place(row)
        level = "warning" if row.verdict is Verdict.SUSPECT else "error"
        message = f"{outcome_text(row)}; reproduce: {facts.command(row)}"
        found.append((level, {"file": file, "line": line, "title": f"{row.verdict}: {row.key.label()}"}, message))
    left = Counter(row.verdict for row in grave[MOST:])
    if unclear and len(grave) < MOST:
        level = "error" if facts.fail_on_inconclusive else "warning"
        message = f"{unclear} of {len(facts.compared.rows)} rows"
        found.append((level, {"file": facts.file, "title": "inconclusive"}, message))
    elif unclear:
        left[Verdict.INCONCLUSIVE] = unclear
    if left:
        level, properties, message = found[-1]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in left.items())
        found[-1] = (level, properties, f"{message}; and {left.total()} more rows: {counts}")
    return [_line(*one) for one in found]


def _line(level: str, properties: dict[str, str | int | None], message: str) -> str:
    """One command, escaped as https://github.com/actions/toolkit does in packages/core/src/command.ts."""
    given = ",".join(
        f"{name}={_data(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
        if value is not None
    )
    return f"::{level} {given}::{_data(message)}"


def _data(text: str) -> str:
    return printable(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))

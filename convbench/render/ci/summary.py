"""Markdown for the summary of a job on GitHub."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.compare import Verdict
from convbench.errors import printable
from convbench.render import render
from convbench.render.comparison import (
    GRAVE,
    comparison_table,
    counts_text,
    gravity,
    machine_notes,
    means_table,
    to_reproduce,
)
from convbench.render.plain import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.render import Table
    from convbench.render.ci.facts import Facts

MOST_ROWS = 1000
"""Of a table: GitHub takes no summary above 1 MiB, and a row has 100 to 300 characters."""
ENDS = {0: "no regression", 3: "regression", 5: "inconclusive", 6: "nothing was compared", 130: "interrupted"}


def summary(facts: Facts) -> str:
    """Headline, counts, the rows that are not ok, the machine, means, a command, and all rows, folded.

    Names are data: no character of them is markup.
    """
    compared = facts.compared
    broken = compared.verdicts[Verdict.FAILED] + compared.verdicts[Verdict.MISSING]
    end = "failed or missing rows" if broken else ENDS.get(facts.exit_code, f"exit code {facts.exit_code}")
    parts = [f"## {_line(f'{facts.suite} beside {facts.baseline}: {end}')}", f"**{_line(counts_text(compared))}**"]
    table = comparison_table(compared)
    told = [i for i, row in enumerate(compared.rows) if row.verdict in GRAVE | {Verdict.IMPROVED}]
    told.sort(key=lambda i: gravity(compared.rows[i]))
    if told:
        parts.append(_table(replace(table, legend=()), told))
    parts.append("\n".join(f"- {_line(note)}" for note in machine_notes(compared)))
    means = means_table(compared)
    if means:
        parts.append(_table(means, range(len(means.rows))))
    worst = to_reproduce(compared)
    if worst:
        parts += [f"To measure {_line(worst.key.label())} again:", _code(facts.command(worst))]
    parts += [f"<details><summary>All {len(compared.rows)} rows</summary>",
              _table(table, range(len(compared.rows))), "</details>"]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table, places: Sequence[int]) -> str:
    """Some rows of a table, MOST_ROWS at most; its notes say how many are left out."""
    left_out = len(places) - MOST_ROWS
    notes = [f"and {left_out} more rows"] if left_out > 0 else []
    rows = [table.rows[place] for place in places[:MOST_ROWS]]
    return render([replace(table, rows=rows, alarming=(), notes=notes)], "markdown").rstrip("\n")


def _line(text: str) -> str:
    return escape(printable(text))


def _code(text: str) -> str:
    """A block whose fence no run of backticks in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{printable(text)}\n{fence}"

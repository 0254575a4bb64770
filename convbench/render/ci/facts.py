"""What the outputs of a comparison are made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convbench.compare import Comparison, Verdict
from convbench.render.comparison import GRAVE, gravity
from convbench.reproduce import Recipe
from convbench.suite import suite_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convbench.compare import Compared
    from convbench.suite import Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A comparison, and what is known beside it.

    Attributes:
        suite: its name, or those of several.
        baseline: what the rows are compared with: a result file's name, or the old version's interpreter.
        exit_code: of the command.
        file: of the suite, from the working directory; None for a built-in suite, or several.
        lines: where problems stand in that file, by name.
        fail_on_inconclusive: whether an inconclusive row fails the check.
    """

    compared: Compared
    suite: str
    baseline: str
    exit_code: int
    recipe: Recipe = field(default_factory=Recipe)
    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    fail_on_inconclusive: bool = False

    @classmethod
    def of_suite(
        cls, compared: Compared, suite: Suite, argument: str, *, baseline: str, exit_code: int,
        fail_on_inconclusive: bool = False, backends: Mapping[str, str],
    ) -> Facts:  # fmt: skip
        """Of a comparison whose rows are all of one suite.

        Args:
            compared: the rows.
            suite: as it was loaded.
            argument: what names it on the command line.
            baseline: see above, as the others.
            exit_code: of the command.
            fail_on_inconclusive: whether an inconclusive row fails the check.
            backends: what `-b` calls those that come from files, by name.
        """
        file = suite_file(argument)
        lines = {entry.name: entry.line for entry in suite.problems if file and entry.line}
        return cls(
            compared=compared, suite=suite.name, baseline=baseline, exit_code=exit_code, file=file, lines=lines,
            recipe=Recipe.of_suite(suite, argument, backends), fail_on_inconclusive=fail_on_inconclusive,
        )  # fmt: skip

    @property
    def grave(self) -> list[Comparison]:
        """The rows that failed, are missing, slower or suspected of it; the gravest first."""
        return sorted((row for row in self.compared.rows if row.verdict in GRAVE), key=gravity)

    def command(self, row: Comparison) -> str:
        """What measures the row again."""
        return self.recipe.command(row.key)

    def place(self, row: Comparison) -> tuple[str | None, int | None]:
        """File and line of the row's problem; no line without a file."""
        return self.file, self.lines.get(row.key.case.name) if self.file else None

    def names(self) -> list[str]:
        """A name for each row, no two alike: its label, with a number where another row has that already.

        Rows are alike in their labels where, for example, they differ in the batch alone.
        """
        seen: Counter[str] = Counter()
        found = []
        for row in self.compared.rows:
            label = row.key.label()
            seen[label] += 1
            found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
        return found

    def timed(self) -> list[tuple[str, Comparison, float]]:
        """Name, row and new seconds of the rows that have a time and did not fail."""
        return [
            (name, row, row.new_s)
            for name, row in zip(self.names(), self.compared.rows, strict=True)
            if row.new_s is not None and row.verdict not in {Verdict.FAILED, Verdict.MISSING}
        ]

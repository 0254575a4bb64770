"""What the plot of a comparison shows, for pictures and for the terminal alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from convbench.compare import CPU_RULES, Reason, Verdict
from convbench.render.comparison import CANARY_MOVED, counts_text
from convbench.render.plot.scene import details_of, name_of, nothing_chosen, series, some
from convbench.stats import median

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from convbench.compare import Compared, Comparison
    from convbench.render.plot.scene import Choice

MOST_NAMED = 60
"""Rows with a line of their own: more make a picture higher than anything shows it. The others share a line."""
LEAST_REACH = math.log(1.15)
"""How far the axis goes to each side of 1 at least, so that noise does not look large."""
DECIDED = (Verdict.REGRESSION, Verdict.SUSPECT, Verdict.IMPROVED, Verdict.ALGORITHM_CHANGED)
"""Verdicts whose rows get a line first."""
STEPS = (
    tuple(step / 20 for step in range(8, 41)),
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.8, 1.0, 1.25, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    (0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6),
    tuple(2.0**power for power in range(-20, 21)),
    tuple(10.0**power for power in range(-30, 31)),
)
"""Ticks of an axis of ratios, the finest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A row that has a ratio, new over base; `interval` and `threshold` as in `Comparison`."""

    name: str
    value: float
    verdict: Verdict
    interval: tuple[float, float] | None
    threshold: float

    @property
    def band(self) -> tuple[float, float]:
        """Ratios that are no change, by its threshold."""
        return 1 / (1 + self.threshold), 1 + self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """A comparison to be drawn.

    Attributes:
        title: what is compared.
        subtitle: how many rows of each verdict; what ratios and intervals are of.
        rows: those with a line of their own, the slowest first.
        others: the other ones, which share the line before the row at `place`.
        factor: geometric mean of all ratios; 1 without any.
        notes: what has no ratio or no interval, and whether the machine changed.
    """

    title: str
    subtitle: str
    rows: tuple[Ratio, ...]
    others: tuple[Ratio, ...]
    place: int
    factor: float
    notes: list[str]

    @property
    def alternative(self) -> str:
        """What a picture shows, for those who cannot see it."""
        what = f"Ratios of times, new over base, of {len(self.rows) + len(self.others)} rows, from slowest to fastest"
        return f"{what}; {self.title}. {self.subtitle}".replace("\n", "; ")

    @property
    def others_name(self) -> str:
        """What stands before the line of the others."""
        return f"the other {len(self.others)}"

    def lines(self) -> Iterator[tuple[int, Ratio]]:
        """The rows, each with the number of its line from above."""
        for index, row in enumerate(self.rows):
            yield index + bool(self.others and index >= self.place), row

    def limits(self) -> tuple[float, float]:
        """Ends of the axis: it holds every ratio, and of the intervals what does not make it twice as long."""
        everything = [*self.rows, *self.others]
        logs = [math.log(self.factor), *(math.log(row.value) for row in everything)]
        logs += [math.log(1 + min(row.threshold, CPU_RULES.too_noisy)) for row in everything]
        low, high = min([-LEAST_REACH, *logs]), max([LEAST_REACH, *logs])
        ends = [math.log(end) for row in self.rows for end in row.interval or () if end > 0]
        room = (high - low) / 2
        low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
        margin = 0.03 * (high - low)
        return math.exp(low - margin), math.exp(high + margin)


def ratios_of(compared: Compared, title: str) -> Ratios:
    """What is drawn of a comparison: where rows are many, those with a verdict and those that changed most by name."""
    details = details_of(compared.rows)
    several = [len({of(row) for row in compared.rows}) > 1 for of in _ELSE]

    def name(row: Comparison) -> str:
        more = [of(row) for of, varies in zip(_ELSE, several, strict=True) if varies]
        return " ".join([name_of(row, details), row.key.case.conv_pass, *more])

    found = [
        Ratio(name=name(row), value=row.ratio, verdict=row.verdict, interval=row.interval, threshold=row.threshold or 0)
        for row in compared.rows
        if row.ratio is not None
    ]
    found.sort(key=lambda row: (row.verdict not in DECIDED, -abs(math.log(row.value))))
    rows = sorted(found[:MOST_NAMED], key=lambda row: -row.value)
    others = found[MOST_NAMED:]
    middle = median([row.value for row in others]) if others else 0.0
    return Ratios(
        title=title, subtitle=f"{counts_text(compared)}\n{_measured(compared)}", rows=tuple(rows),
        others=tuple(others), place=sum(row.value > middle for row in rows), factor=compared.factor or 1.0,
        notes=_notes(compared, [name(row) for row in compared.rows]),
    )  # fmt: skip


_ELSE: tuple[Callable[[Comparison], str], ...] = (lambda row: row.key.case.precision, series)
"""What a name says beside problem and pass where rows differ in it."""


def _measured(compared: Compared) -> str:
    if compared.launches:
        return (f"ratio: new / old, the median of {compared.launches} launches of fresh pairs of processes; "
                "interval: where it lies, each end with 99 %")  # fmt: skip
    return ("ratio: new / base of the rounds' best first quartile; interval: where that of the medians lies, if each "
            "is in its 95 % interval")  # fmt: skip


def _notes(compared: Compared, names: Sequence[str]) -> list[str]:
    """The rows without a ratio by verdict, those without an interval, and whether the machine itself had changed."""
    notes = []
    for verdict in Verdict:
        lost = [name for name, row in zip(names, compared.rows, strict=True)
                if row.ratio is None and row.verdict is verdict]  # fmt: skip
        if lost:
            word = verdict.replace("_", " ")
            notes.append(f"without a ratio, {word}: {some(lost)}")
    found = [row.interval for row in compared.rows if row.ratio is not None]
    if None in found:
        notes.append(f"without an interval: {found.count(None)} of {len(found)} ratios; too little was measured")
    return notes + ([CANARY_MOVED] if any(row.reason is Reason.CLOCK for row in compared.rows) else [])


def chosen(compared: Compared, choice: Choice, names: str) -> Compared:
    """The rows of a choice.

    Raises:
        InputError: there are none.
    """
    rows = tuple(filter(choice.takes, compared.rows))
    if not rows:
        raise nothing_chosen(names, compared.rows)
    return replace(compared, rows=rows)


def ratio_ticks(low: float, high: float, most: int) -> list[float]:
    """The finest ticks of which no two are nearer than one of `most` parts of the axis."""
    for steps in STEPS:
        found = [step for step in steps if low <= step <= high]
        nearest = min((math.log(b / a) for a, b in pairwise(found)), default=math.inf)
        if nearest * most >= math.log(high / low):
            break
    return found

"""How FFT convolution compares with cuDNN: ratios by layer and pass, geometric means by class of layers.

    python benchmarks/gpu/ratios.py reports/h200/*.jsonl

A ratio is the time of the fastest row of one side over that of the other, over algorithms and layouts: below 1 the
first is faster. Strict fp32 and tf32 are different math modes and stand apart. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convbench.errors import ConvbenchError
from convbench.journal import read_run
from convbench.problem import ConvPass, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from convbench.result import Row

Side = tuple[str, str]
"""Backend and precision."""


class Key(NamedTuple):
    """What is compared."""

    suite: str
    name: str
    conv_pass: ConvPass
    problem: Problem


class Comparison(NamedTuple):
    """Two sides, and the geometric mean that is aimed at, in words; "" where none is."""

    ours: Side
    theirs: Side
    aim: str = ""

    @property
    def title(self) -> str:
        """Both, in words."""
        return f"{' '.join(self.ours)} / {' '.join(self.theirs)}"


WIDE = "stride 1, 5 taps or more, 64 maps or more"
"""The layers that convolution by FFTs is for."""
COMPARISONS = (
    Comparison(("cudafft", "fp32"), ("cudnn", "fp32"), f"0.25 is aimed at for {WIDE}, and below 1 for each"),
    # fbfft against cuFFT in convolution: 1.49 times as fast in the geometric mean (Vasilache et al., arXiv 1412.7580).
    Comparison(("cudafft", "fp32"), ("cufft", "fp32"), f"0.5 is aimed at for {WIDE}; fbfft had 0.67"),
    Comparison(("cudafft", "fp32"), ("cudnn", "tf32"), "1 is aimed at for 5 taps, 0.5 for 9 taps or more"),
    Comparison(("cudafft", "tf32"), ("cudnn", "tf32")),
    Comparison(("cufft", "fp32"), ("cudnn", "fp32")),
)
SIDES = tuple(dict.fromkeys(side for of in COMPARISONS for side in (of.ours, of.theirs)))
Fastest = dict["Key", dict[Side, "Row"]]
"""The fastest row of each side, by what is compared."""


def fastest(rows: Iterable[Row]) -> Fastest:
    """The fastest verified rows."""
    found: Fastest = {}
    for row in rows:
        case, side = row.key.case, (row.key.backend, row.key.case.precision)
        if row.time_s is None or side not in SIDES:
            continue
        sides = found.setdefault(Key(case.suite, case.name, case.conv_pass, case.problem), {})
        if side not in sides or row.time_s < (sides[side].time_s or math.inf):
            sides[side] = row
    return found


def class_of(problem: Problem) -> str:
    """Which layers are averaged together: by axes, taps, stride, and whether each channel is by itself."""
    taps = max(problem.filter_size)
    size = next((f"{most} taps" for most in (1, 3, 5, 7) if taps <= most), "9 taps or more")
    depthwise = problem.groups == problem.in_channels > 1
    kind = "depthwise" if depthwise else "stride above 1" if max(problem.stride) > 1 else size
    return f"{problem.ndim}-D, {kind}"


def is_wide(problem: Problem) -> bool:
    """Whether a layer is in WIDE; maps are those of a group."""
    maps = min(problem.in_channels, problem.out_channels) // problem.groups
    return max(problem.stride) == 1 and min(problem.filter_size) >= 5 and maps >= 64


def ratio(sides: Mapping[Side, Row], of: Comparison) -> float | None:
    """Our time over theirs; None where one is missing."""
    ours, theirs = sides.get(of.ours), sides.get(of.theirs)
    return ours.time_s / theirs.time_s if ours and theirs and ours.time_s and theirs.time_s else None


def geometric_mean(values: Sequence[float]) -> float:
    """The exponential of the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _cells(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """Markdown; the first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return [_cells(header), _cells(rule), *map(_cells, rows), ""]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _time(row: Row | None) -> str:
    """Its time, and what it was."""
    if row is None or row.time_s is None:
        return "–"
    layout = "" if row.key.case.layout == "nchw" else f" {row.key.case.layout_name}"
    return f"{row.time_s * 1e3:.3f} ms {row.resolved or row.key.algorithm}{layout}"


def _mean(found: Fastest, of: Comparison, keys: Iterable[Key]) -> str:
    """The mean of their ratios, and how many there are."""
    ratios = [value for key in keys if (value := ratio(found[key], of)) is not None]
    return f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "–"


def means(found: Fastest, of: Comparison) -> list[str]:
    """Lines of a table of geometric means: a row per class of layers, a column per pass."""
    by_class: dict[str, list[Key]] = {}
    for key in found:
        by_class.setdefault(class_of(key.problem), []).append(key)

    def row(title: str, keys: Sequence[Key]) -> list[str]:
        of_pass = ([key for key in keys if key.conv_pass is conv_pass] for conv_pass in ConvPass)
        return [title, *(_mean(found, of, chosen) for chosen in (*of_pass, keys))]

    rows = [row(name, keys) for name, keys in sorted(by_class.items())]
    rows = [cells for cells in rows if cells[-1] != "–"]
    if not rows:
        return []
    rows += [row(WIDE, [key for key in found if is_wide(key.problem)]), row("all", [*found])]
    title = f"**{of.title}**: geometric mean of the ratios (of how many); below 1 the first is faster"
    title += f"; {of.aim}" if of.aim else ""
    return [title, "", *_table(["layers", *ConvPass, "all passes"], rows, 1)]


def report(rows: Iterable[Row]) -> list[str]:
    """All tables, in Markdown: means of each comparison, then ratios and times by layer and pass."""
    found = {key: sides for key, sides in fastest(rows).items() if len(sides) > 1}
    if not found:
        return ["No layer was timed by two of the backends: there is nothing to compare.", ""]
    lines = [line for of in COMPARISONS for line in means(found, of)]
    shown = [of for of in COMPARISONS if any(ratio(sides, of) is not None for sides in found.values())]
    sides = [side for side in SIDES if any(side in row for row in found.values())]
    body = [
        [f"{key.suite} {key.name}", key.conv_pass, *(_number(ratio(of_key, of)) for of in shown),
         *(_time(of_key.get(side)) for side in sides)]
        for key, of_key in found.items()
    ]  # fmt: skip
    header = ["layer", "pass", *(of.title for of in shown), *(" ".join(side) for side in sides)]
    return [*lines, "**Ratios and times by layer and pass**", "", *_table(header, body, 2)]


def main() -> None:
    """Reads the runs, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="RUN")
    try:
        rows = [row for path in parser.parse_args().files for row in read_run(path).rows]
    except ConvbenchError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(report(rows)))


if __name__ == "__main__":
    main()

"""What the claims share: timed rows by algorithm and machine, pairs of them, and words for ratios."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError
from convbench.placement import placed_row, run_ceilings
from convbench.render import Column, Table
from convbench.result import WARM, Remark
from convbench.units import counted, format_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from convbench.ceilings import Ceilings
    from convbench.placement import Placed
    from convbench.problem import Case
    from convbench.result import Row, Run


DOUBTFUL = 0.25
"""Share of rows that were disturbed, or have too few rounds, from which a conclusion says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim of the talk, and what is true of it where it was measured.

    Attributes:
        key: names it on the command line and in files.
        question: what is asked, in a sentence.
        conclusion: the answer in a sentence, made from measured rows; or what is missing for one.
        tables: the rows behind it.
    """

    key: str
    title: str
    question: str
    conclusion: str
    tables: tuple[Table, ...] = ()


Answer = tuple[str, tuple[Table, ...]]
"""A conclusion, and the tables behind it."""


class Missing(Exception):
    """What a claim needs and its runs do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device of one run.

    Attributes:
        name: the processor's, and its threads; numbered where several are called so.
        run: that was made on it.
        device: its name there.
        ceilings: None where the run has none of it.
    """

    name: str
    run: Run
    device: str
    ceilings: Ceilings | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Warm rows with a time of one algorithm, as asked for, in one place.

    Attributes:
        name: backend and algorithm, and the place where there are several.
    """

    name: str
    backend: str
    algorithm: str
    place: Place
    rows: tuple[Row, ...]


def places(runs: Sequence[Run]) -> list[Place]:
    """The devices of all runs, in order.

    Raises:
        InputError: the ceilings in a run's header are damaged.
    """
    found = []
    for run in runs:
        ceilings = run_ceilings(run)
        found += [(_machine_name(run, device), run, device, ceilings.get(device)) for device in run.header["devices"]]
    count = Counter(name for name, *_ in found)
    seen: Counter[str] = Counter()
    named = []
    for name, run, device, bounds in found:
        seen[name] += 1
        shown = f"{name} #{seen[name]}" if count[name] > 1 else name
        named.append(Place(name=shown, run=run, device=device, ceilings=bounds))
    return named


def with_ceilings(runs: Sequence[Run]) -> list[Run]:
    """The runs, each with ceilings: where it has none of a device, those of the first run on that machine that has."""

    def known(run: Run) -> dict[Any, Any]:
        threads = run.header["options"].get("threads")
        return {(name, of["fingerprint"], threads): of.get("ceilings") for name, of in run.header["devices"].items()}

    found: dict[Any, Any] = {}
    for run in runs:
        found = {key: ceilings for key, ceilings in known(run).items() if ceilings} | found
    return [
        replace(run, header=run.header | {"devices": {
            key[0]: run.header["devices"][key[0]] | {"ceilings": ceilings or found.get(key)}
            for key, ceilings in known(run).items()
        }})
        for run in runs
    ]  # fmt: skip


def _machine_name(run: Run, device: str) -> str:
    machine = run.header["devices"][device]["machine"]
    if machine.get("gpu_name"):
        return str(machine["gpu_name"])
    threads = run.header["options"].get("threads")
    name = str(machine.get("cpu_model") or machine.get("arch") or device)
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}" if threads else name


def all_series(runs: Sequence[Run], suite: str) -> list[Series]:
    """The series of `suite`, by place, in the order of their first rows.

    Raises:
        Missing: no row of the suite has a time.
        InputError: the ceilings in a run's header are damaged.
    """
    where = places(runs)
    found = []
    for place in where:
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in place.run.rows:
            if row.key.device == place.device and row.key.case.suite == suite and row.key.cache == WARM and row.time_s:
                rows.setdefault((row.key.backend, row.key.algorithm), []).append(row)
        for (backend, algorithm), timed in rows.items():
            name = f"{backend}:{algorithm}" + (f" on {place.name}" if len(where) > 1 else "")
            found.append(Series(name=name, backend=backend, algorithm=algorithm, place=place, rows=tuple(timed)))
    if not found:
        raise Missing(_why_nothing(runs, suite))
    return found


def _why_nothing(runs: Sequence[Run], suite: str) -> str:
    if not runs:
        return f"no run of {suite}"
    rows = [row for run in runs for row in run.rows if row.key.case.suite == suite]
    if not rows:
        return f"the run has no rows of {suite}"
    counts = Counter(f"{row.status}" + (f" ({row.reason})" if row.reason else "") for row in rows if not row.time_s)
    status, count = counts.most_common(1)[0] if counts else ("measured cold only", len(rows))
    return f"no row of {suite} has a time: {count} of {len(rows)} {status}"


def groups(rows: Iterable[Row], shared: Callable[[Case], Any], differing: Callable[[Case], Any]) -> dict[Any, Any]:
    """Rows whose cases agree in `shared`, by what they differ in; the last of equal ones."""
    found: dict[Any, dict[Any, Row]] = {}
    for row in rows:
        found.setdefault(shared(row.key.case), {})[differing(row.key.case)] = row
    return found


def seconds(row: Row) -> float:
    """The time of a row that has one."""
    assert row.time_s
    return row.time_s


def placed(series: Series, row: Row) -> Placed | None:
    """The placement of a row; None without ceilings for it."""
    try:
        return placed_row(row, series.place.ceilings) if series.place.ceilings else None
    except InputError:  # no ceiling for its math mode
        return None


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean, which is the same whichever side is divided by the other."""
    return geometric_mean(ratios)


def times(ratio: float) -> str:
    """A ratio as a figure: "1.90×"."""
    return f"{significant(ratio)}×"


def percent(share: float) -> str:
    """A share as a figure: "12.0 %"; with a sign where it is negative."""
    return f"{significant(100 * share)} %"


def span(values: Sequence[float]) -> str:
    """The smallest and the largest of several ratios, in parentheses; nothing for one."""
    return f" ({times(min(values))} to {times(max(values))})" if len(values) > 1 else ""


def caveats(found: Sequence[Series]) -> list[str]:
    """What to know about the times of series, a line each."""
    rows = [row for series in found for row in series.rows]
    notes = []
    for remark, text in (
        (Remark.FEW_ROUNDS, "have fewer than 6 rounds, too few for an interval"),
        (Remark.DISTURBED, "were disturbed in half of their rounds or more"),
        (Remark.DRIFT, "drifted while they were measured"),
    ):
        if count := sum(remark in row.remarks for row in rows):
            notes.append(f"{count} of {len(rows)} rows {text}")
    return notes + busy([series.place for series in found])


def doubt(runs: Sequence[Run], suite: str) -> str:
    """What a conclusion should be read with: how many of its rows were disturbed or short; "" where few were."""
    remarks = [row.remarks for run in runs for row in run.rows
               if row.key.case.suite == suite and row.key.cache == WARM and row.time_s]  # fmt: skip
    few, disturbed = (sum(kind in of for of in remarks) for kind in (Remark.FEW_ROUNDS, Remark.DISTURBED))
    either = sum(bool({Remark.FEW_ROUNDS, Remark.DISTURBED} & {*of}) for of in remarks)
    if either < DOUBTFUL * len(remarks) or not either:
        return ""
    total = counted(len(remarks), "row")
    said = [f"{few} with fewer than 6 rounds"] if few else []
    said += [f"{disturbed} disturbed"] if disturbed else []
    how = ["with a longer --max-time"] * bool(few) + ["on a quieter machine"] * bool(disturbed)
    return f". Doubtful: of {total} {', '.join(said)}; measure again {', '.join(how)}"


def busy(where: Sequence[Place]) -> list[str]:
    """Which ceilings were measured beside other work, a line each."""
    bounds = {place.name: place.ceilings for place in where if place.ceilings and place.ceilings.contended}
    return [f"ceilings of {name} are contended: {found.contended}" for name, found in bounds.items()]


def resolved(row: Row) -> str:
    """The algorithm that ran."""
    return row.resolved or row.key.algorithm


def plane(extents: Sequence[int]) -> str:
    """Extents as a figure: "32×32"."""
    return "×".join(map(str, extents))


def middle(values: Sequence[float]) -> float:
    """The median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else math.fsum(ordered[half - 1 : half + 1]) / 2


def over(values: Sequence[object], what: str, plural: str = "") -> str:
    """What a mean was taken over: ", geometric mean over 5 layers"."""
    if len(values) == 1:
        return f", in 1 {what}"
    return f", geometric mean over {len(values)} {plural or f'{what}s'}"


def tally(names: Sequence[str]) -> str:
    """How often each occurs, the most frequent first: "compute in 3, bandwidth in 1"."""
    return ", ".join(f"{name} in {count}" for name, count in Counter(names).most_common())


def time_column(key: str, header: str) -> Column:
    """A column of seconds."""
    return Column(key=key, header=header, show=format_time, right=True)


def ratio_column(key: str, header: str) -> Column:
    """A column of ratios."""
    return Column(key=key, header=header, show=times, right=True)


def rate_column(key: str, header: str, spare: int = 0) -> Column:
    """A column of flop/s."""
    return Column(key=key, header=header, show=lambda v: significant(v / 1e9), right=True, spare=spare)


def text_columns(*names: str, hidden: Sequence[str] = ()) -> list[Column]:
    """Columns of text whose key is their header."""
    return [Column(key=name, header=name, hidden=name in hidden) for name in names]

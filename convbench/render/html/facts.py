"""What a report's page knows of its runs: plain values in SI units, packed by column, for the script inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convbench.errors import InputError, printable
from convbench.placement import run_ceilings
from convbench.render.html.merge import brief
from convbench.render.machine import device_name
from convbench.render.results import MARKS
from convbench.result import Remark
from convbench.work import nominal_work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.ceilings import Ceiling, Ceilings
    from convbench.render import Table
    from convbench.result import Row, Run

TEXT_ONLY = ("interval", "disturbed", "shown_time", "family", "shown_bound", "shown_flag")
"""Facts of a table's row that the page makes anew from others."""


def page_facts(runs: Mapping[str, Run], rows: Table) -> dict[str, Any]:
    """What the script needs of these runs, by the name that each is to be called; `rows` are theirs, merged.

    `rows` holds them as columns, each packed; `export` the keys of a download, in the order of the table's own CSV;
    `briefs` pairs of a run's name and a short one;
    `machines` the ceilings of each machine; `phases` the names and seconds of the phases of a row, by its index.
    """
    machines = _machines(runs)
    places = {key: index for index, key in enumerate(machines)}
    cases: dict[Any, int] = {}
    found: list[dict[str, Any]] = []
    phases: dict[int, list[tuple[str, float]]] = {}
    every = ((run, row) for run in runs.values() for row in run.rows)
    for (run, row), fact in zip(every, rows.rows, strict=True):
        if row.phases_s and row.work:
            named = zip(row.work.phases, row.phases_s, strict=True)
            phases[len(found)] = [(phase.name, seconds) for phase, seconds in named]
        device = run.header["devices"].get(row.key.device)
        found.append(_row(row, fact) | {
            "machine": places[device["fingerprint"], row.key.device] if device else None,
            "case": cases.setdefault((row.key.case, row.key.cache), len(cases)),
        })  # fmt: skip
    keys = found[0] if found else ()
    return {
        "machines": [*machines.values()],
        "rows": {"count": len(found), "columns": {key: packed([row[key] for row in found]) for key in keys}},
        "briefs": [*brief([*runs]).items()],
        "export": [column.key for column in rows.raw()],
        "phases": phases,
    }


def packed(values: Sequence[Any]) -> Any:
    """A column: its values, or, where at most half of them differ, {"of": those, "at": the position of each}.

    >>> packed(["a", "a", "b", "a"])
    {'of': ['a', 'b'], 'at': [0, 0, 1, 0]}
    """
    distinct = {value: place for place, value in enumerate(dict.fromkeys(values))}
    if 2 * len(distinct) > len(values):
        return list(values)
    return {"of": [*distinct], "at": [distinct[value] for value in values]}


def known_ceilings(run: Run) -> tuple[dict[str, Ceilings], str]:
    """The ceilings of a run by device, and what is wrong with them where none can be read."""
    try:
        return run_ceilings(run), ""
    except InputError as error:
        return {}, str(error)


def _row(row: Row, fact: Mapping[str, Any]) -> dict[str, Any]:
    marks = "".join(MARKS[Remark(remark)][0] for remark in (fact["remarks"] or "").split())
    nominal = nominal_work(row.key.case) if row.time_s and not row.work else None
    return {key: value for key, value in fact.items() if key not in TEXT_ONLY} | {
        "math_mode": row.key.case.math_mode, "marks": marks or None,
        "nominal_intensity": nominal.arithmetic_intensity if nominal else None,
    }  # fmt: skip


def _machines(runs: Mapping[str, Run]) -> dict[tuple[str, str], dict[str, Any]]:
    """Machines by fingerprint and device: two GPUs may be alike. The ceilings are those of the first run with some."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, run in runs.items():
        ceilings, _ = known_ceilings(run)
        for device, of in run.header["devices"].items():
            machine = found.setdefault((of["fingerprint"], device), {
                "name": device_name(of["machine"]), "device": printable(device), "compute": {}, "bandwidth": {},
            })  # fmt: skip
            if device in ceilings and not machine["compute"]:
                machine |= {
                    "compute": _values(ceilings[device].compute),
                    "bandwidth": _values(ceilings[device].bandwidth),
                    "ceilings_of": name,
                }
    return found


def _values(ceilings: Mapping[str, Ceiling]) -> dict[str, float]:
    return {printable(name): ceiling.value for name, ceiling in ceilings.items()}

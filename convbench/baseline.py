"""A baseline with rows of another run in the place of its own: pure functions of runs."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from convbench.check import check_baseline
from convbench.compare import canary_ratios, changes, guard, moved_text
from convbench.errors import InputError, NotComparableError
from convbench.result import BROKEN
from convbench.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.result import Row, RowKey, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """A baseline; the keys `taken` from the new run, how many were replaced, added, dropped and kept."""

    run: Run
    taken: frozenset[RowKey]
    replaced: int
    added: int
    dropped: int
    kept: int


def update(base: Run, new: Run, globs: Sequence[str], reason: str, date: str) -> Updated:
    """The baseline with the matching rows of another run, and a record of that in its header.

    Args:
        base: the baseline; its rows that match and that `new` has not are dropped.
        new: whose matching rows take their place.
        globs: of names, `problem` or `suite/problem`; all rows match none.
        reason: for the record.
        date: for the record, too.

    Raises:
        InputError: no row matches, or one of `new` is broken or no baseline.
        NotComparableError: the runs are of different machines, methods or threads; or rows are to be mixed, and the
            machine was in another state.
    """
    guard(base.header, new.header)
    taken = [row for row in new.rows if _matches(row, globs)]
    if not taken:
        raise InputError(f"no row of the new run matches --filter {' '.join(globs)}")
    for row in taken:
        if row.status in BROKEN:
            raise InputError(f"the new run is no baseline: {row.key.label()} is {row.status}: {row.reason}")
    check_baseline(taken, "the new run")
    kept = [row for row in base.rows if not _matches(row, globs)]
    devices = {row.key.device for row in taken}
    moved = [text for device, of in canary_ratios(base, new).items() if device in devices and (text := moved_text(of))]
    if kept and moved:
        raise NotComparableError(f"the machine was in another state: canaries moved ({', '.join(moved)}): rows of both "
                                 "runs cannot stand in one baseline; measure again, or replace all")  # fmt: skip
    old, now = ({row.key for row in rows} for rows in (base.rows, taken))
    if kept:
        _check_measured(base, [row for row in taken if row.key not in old])
    left = {row.key for row in kept}
    # In the order of the baseline; what it has not comes last.
    by_key = {row.key: row for row in (*base.rows, *taken)}
    rows = tuple(by_key[key] for key in dict.fromkeys(by_key) if key in now | left)
    counts = {"replaced": len(old & now), "added": len(now - old), "dropped": len(old - now - left), "kept": len(kept)}
    header = (base if kept else new).header
    record = {
        "date": date, "reason": reason, "filter": [*globs], "command": new.header["command"],
        "created": new.header["created"], "changed": [list(change) for change in changes(base.header, new.header)],
        **counts,
    }  # fmt: skip
    header = header | {"updates": [*base.header.get("updates", []), record]}
    return Updated(run=replace(base if kept else new, header=header, rows=rows), taken=frozenset(now), **counts)


def _check_measured(base: Run, added: Sequence[Row]) -> None:
    """Refuses rows that the command of a baseline does not measure: the next check would miss them.

    Raises:
        InputError: none of its rows is of the same algorithm, pass, dtype, layout, epilogue and cache.
    """

    def asked(row: Row) -> tuple[object, ...]:
        key, case = row.key, row.key.case
        return (key.name, key.device, key.cache, key.accuracy, key.workspace_limit_bytes, case.conv_pass,
                case.precision, case.layout, case.epilogue)  # fmt: skip

    known = {asked(row) for row in base.rows}
    for row in added:
        if asked(row) not in known:
            raise InputError(f"the baseline's command does not measure {row.key.label()}: measure the new run with "
                             "that command, or replace all rows")  # fmt: skip


def notes(header: dict[str, Any]) -> list[str]:
    """What was updated in a baseline with this header, and why: a sentence each."""
    return [
        f"updated {record['date']}: {record['reason']} ({counted(record['replaced'], 'row')} replaced, "
        f"{record['added']} added, {record['dropped']} dropped)"
        for record in header.get("updates", [])
    ]


def _matches(row: Row, globs: Sequence[str]) -> bool:
    names = (row.key.case.name, f"{row.key.case.suite}/{row.key.case.name}")
    return not globs or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in globs)

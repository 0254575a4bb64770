"""The lines of a journal, folded into a run, one at a time: those of a file, or those of a run in progress.

What a line must hold is checked here, and only here: a journal folds each line before it writes it, so that what is
written can be read, and what was read can be shown.
"""

from __future__ import annotations

import marshal
from sys import intern
from typing import TYPE_CHECKING, Any

from convbench.backends import Sample
from convbench.errors import InputError, printable, shown
from convbench.problem import MAX_EXTENT
from convbench.result import Row, RowKey, Run, Status
from convbench.timing import Round
from convbench.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convbench.problem import Case


def upgrade_1_to_2(entry: dict[str, Any]) -> dict[str, Any]:
    """A version 1 run was measured by one process."""
    return entry | {"process": 0} if entry["type"] == "round" else entry


# Schema history.  1: first public version.  2: `round` lines gained `process`.
SCHEMA_VERSION = 2
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: upgrade_1_to_2}
"""One step of the ladder per old version: applied to every line, tested on a committed file of that version."""

MOST = 1e100
"""No number in a line is larger, so that no rate or sum of them overflows."""
MOST_SECONDS = 1e12
LEAST_SECONDS = 1e-15
"""No time but 0 is shorter, so that rates do not overflow."""

_TEXT = (str,)
_WHOLE = (int,)
_TABLE = (dict,)
_LIST = (list,)
_TEXT_OR_NONE = (str, type(None))
_NUMBER_OR_NONE = (int, float, type(None))
_NUMBERS = (int, float)
_NESTED = (str, dict, list)

# What readers rely on: the keys that a table must have at least, and the types that each may be of.
_ANY = {"type": _TEXT}
_HEADER = {
    "convbench_version": _TEXT, "created": _TEXT, "command": _LIST, "suites": _LIST, "seed": _WHOLE,
    "options": _TABLE, "environment": _TABLE, "devices": _TABLE,
}  # fmt: skip
_SUITE = {"name": _TEXT, "sha256": _TEXT}
_ENVIRONMENT = {"libraries": _TABLE, "blas": _LIST}
_DEVICE = {"machine": _TABLE, "fingerprint": _TEXT}
_CASE = {
    "row": _WHOLE, "status": _TEXT, "reason": _TEXT, "resolved": _TEXT_OR_NONE, "plan_s": _NUMBER_OR_NONE,
    "first_call_s": _NUMBER_OR_NONE, "workspace_bytes": _NUMBER_OR_NONE, "work": (list, type(None)),
    "verification": (dict, type(None)),
}  # fmt: skip
_KEY = {
    "case": _TABLE, "backend": _TEXT, "algorithm": _TEXT, "device": _TEXT, "cache": _TEXT, "threads": _WHOLE,
}  # fmt: skip
_KEY_CASE = {"suite": _TEXT, "name": _TEXT, "repeat": _WHOLE}
_PHASE = {
    "name": _TEXT, "flops": _WHOLE, "bytes_read": _WHOLE, "bytes_written": _WHOLE, "footprint_bytes": _WHOLE,
    "launches": _WHOLE,
}  # fmt: skip
_VERIFICATION = {"max_error": _NUMBER_OR_NONE, "rms_error": _NUMBER_OR_NONE, "bound_share": _NUMBER_OR_NONE}
_ROUND = {
    "row": _WHOLE, "process": _WHOLE, "launches": _WHOLE, "wall_s": _LIST, "cpu_s": _LIST, "flags": _TABLE,
    "stop": _TEXT_OR_NONE,
}  # fmt: skip
_FAILURE = {"row": _WHOLE, "status": _TEXT, "reason": _TEXT}


def _check(table: Any, shape: Mapping[str, tuple[type, ...]], name: str = "") -> None:
    """Raises an InputError that names the field where `table`, read from JSON, has not this shape."""
    if type(table) is not dict:
        raise _damage(name, table)
    for key, kinds in shape.items():
        value = table[key]
        kind = type(value)  # not isinstance: a bool is no number
        if kind not in kinds or (kind in _NUMBERS and not -MOST <= value <= MOST):
            raise _damage(f"{name}.{key}" if name else key, value)


def _damage(name: str, value: Any) -> InputError:
    return InputError(f"damaged line ({name or 'it'} is {shown(value):.60})")


def _cleaned(value: Any) -> Any:
    """The value with every text in it `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _cleaned(inner) for key, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


class Folder:
    """The lines so far as rows.

    Its texts are `printable`: names and reasons come from suites, backends and files, and go to terminals. Names that
    identify a row are refused where they are not; other texts are cleaned.
    """

    def __init__(self) -> None:
        self.header: dict[str, Any] | None = None
        self._steps: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        self._rows: dict[int, dict[str, Any]] = {}  # the arguments of each Row
        self._canaries: list[dict[str, float]] = []
        self._cases: dict[bytes, Case] = {}  # by their JSON: building one is what costs most

    def add(self, entry: Any) -> None:
        """Takes one line, as JSON gives it; the first must be the header.

        Raises:
            InputError: it is damaged, of another version, or belongs to no row; it is not taken then.
        """
        try:
            _check(entry, _ANY)
            if self.header is None:
                self._add_header(entry)
                return
            for step in self._steps:
                entry = step(entry)
            kind = entry["type"]
            if kind == "round":
                self._add_round(entry)
            elif kind == "case":
                self._add_case(entry)
            elif kind == "canary":
                self._add_canary(entry["seconds"])
            elif kind == "failure":
                self._add_failure(entry)
            else:
                raise InputError(f"unknown line type {shown(kind)}")
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            raise InputError(f"damaged line ({type(error).__name__}: {error})") from None

    def run(self, note: str = "", end: int = 0) -> Run:
        """The run so far; `note` and `end` become those of the Run.

        Raises:
            InputError: there is no header.
        """
        if self.header is None:
            raise InputError("holds no run: it has no header line")
        # In the order asked for; a resumed run measures an unfinished row anew, in its old place.
        latest = {}
        for index in sorted(self._rows):
            fields = self._rows[index]
            latest[fields["key"]] = fields
        rows = tuple(Row(**{**fields, "rounds": tuple(fields["rounds"])}) for fields in latest.values())
        return Run(self.header, rows, tuple(self._canaries), note, end, max(self._rows, default=-1) + 1)

    def _add_header(self, entry: dict[str, Any]) -> None:
        version = _schema(entry)
        _check(entry, _HEADER)
        _check(entry["environment"], _ENVIRONMENT, "environment")
        for name, device in entry["devices"].items():
            _check(device, _DEVICE, f"devices.{name}")
        for position, suite in enumerate(entry["suites"]):
            _check(suite, _SUITE, f"suites[{position}]")
        for position, library in enumerate(entry["environment"]["blas"]):
            _check(library, {}, f"environment.blas[{position}]")
        _check_texts(entry["command"], "command")
        self._steps = [UPGRADES[step] for step in range(version, SCHEMA_VERSION)]
        self.header = _cleaned(entry)

    def _add_case(self, entry: dict[str, Any]) -> None:
        _check(entry, _CASE)
        work, verification = entry["work"], entry["verification"]
        if work is not None:
            for position, phase in enumerate(work):
                _check(phase, _PHASE, f"work[{position}]")
                phase["name"] = intern(printable(phase["name"]))
        if verification is not None:
            _check(verification, _VERIFICATION, "verification")
            verification = {
                intern(name): _cleaned(value) if type(value) in _NESTED else value
                for name, value in verification.items()
            }
        self._rows[entry["row"]] = {
            "key": self._key(entry["key"]),
            "status": Status(entry["status"]),
            "reason": printable(entry["reason"]),
            "resolved": entry["resolved"] and intern(printable(entry["resolved"])),
            "plan_s": entry["plan_s"],
            "first_call_s": entry["first_call_s"],
            "workspace_bytes": entry["workspace_bytes"],
            "work": None if work is None else Work.from_list(work),
            "verification": verification,
            "rounds": [],
        }

    def _key(self, fields: Any) -> RowKey:
        _check(fields, _KEY, "key")
        if len(fields) > len(_KEY):
            raise _damage("key", fields)
        backend, algorithm, device, cache = (
            intern(fields[name]) for name in ("backend", "algorithm", "device", "cache")
        )
        blob = marshal.dumps(fields["case"], 2)  # of version 2: equal values give equal bytes
        case = self._cases.get(blob)
        if case is None:
            _check(fields["case"], _KEY_CASE, "key.case")
            case = RowKey.from_dict(fields).case
            if not 1 <= case.repeat <= MAX_EXTENT:
                raise _damage("key.case.repeat", case.repeat)
            _check_name(case.suite)
            _check_name(case.name)
            self._cases[blob] = case
        for name in (backend, algorithm, device, cache):
            _check_name(name)
        return RowKey(
            case=case, backend=backend, algorithm=algorithm, device=device, cache=cache, threads=fields["threads"]
        )

    def _add_round(self, entry: dict[str, Any]) -> None:
        _check(entry, _ROUND)
        fields = self._open_row(entry["row"])
        wall, cpu, flags, stop = entry["wall_s"], entry["cpu_s"], entry["flags"], entry["stop"]
        _check_seconds("wall_s", wall)
        _check_seconds("cpu_s", [seconds for seconds in cpu if seconds is not None] if None in cpu else cpu)
        if not wall or len(wall) != len(cpu) or not 1 <= entry["launches"] <= MAX_EXTENT or entry["process"] < 0:
            raise InputError("damaged line (wall_s, cpu_s, launches and process do not make a round)")
        marks: list[tuple[str, ...]] = [()] * len(wall)
        for index, names in flags.items():
            _check_texts(names, "flags")
            marks[int(index)] = tuple(map(printable, names))
        samples = tuple(map(Sample, map(float, wall), cpu, marks))
        fields["rounds"].append(Round(entry["launches"], samples, process=entry["process"]))
        if stop:
            fields["status"], fields["stop_reason"] = Status.OK, printable(stop)

    def _add_canary(self, seconds: Any) -> None:
        _check_seconds("seconds", list(seconds.values()))
        self._canaries.append({printable(name): float(value) for name, value in seconds.items()})

    def _add_failure(self, entry: dict[str, Any]) -> None:
        _check(entry, _FAILURE)
        fields = self._open_row(entry["row"])
        fields["status"], fields["reason"] = Status(entry["status"]), printable(entry["reason"])

    def _open_row(self, index: int) -> dict[str, Any]:
        """The row that a round or a failure belongs to."""
        fields = self._rows.get(index)
        if fields is None:
            raise InputError(f"row {index} has no case line before this one")
        if fields["status"] is not Status.PARTIAL:
            raise InputError(f"row {index} is {fields['status']}: nothing can follow")
        return fields


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise InputError(f"damaged line (the name {shown(name)} cannot be printed)")


def _check_texts(value: Any, name: str) -> None:
    if type(value) is not list or any(type(entry) is not str for entry in value):
        raise _damage(name, value)


def _check_seconds(name: str, values: list[Any]) -> None:
    if values and {*map(type, values)} == {float} and min(values) >= LEAST_SECONDS and max(values) <= MOST_SECONDS:
        return  # as nearly always, and quicker
    for value in values:
        if type(value) not in _NUMBERS or not (value == 0 or LEAST_SECONDS <= value <= MOST_SECONDS):
            raise _damage(name, value)


def _schema(entry: dict[str, Any]) -> int:
    """The schema version in a file's first line, once it is known to be readable."""
    if entry["type"] != "header":
        raise InputError(f"expected the header, got a line of type {shown(entry['type'])}")
    found = entry.get("schema_version")
    if found is None:
        raise InputError("the header has no schema_version: this is not a convbench result file")
    if type(found) is not int or found > SCHEMA_VERSION:
        raise InputError(
            f"written by a newer convbench (schema version {shown(found)}, this one reads up to {SCHEMA_VERSION}): "
            "upgrade"
        )
    if found < SCHEMA_VERSION and found not in UPGRADES:
        raise InputError(f"schema version {shown(found)} is too old for this convbench: measure again")
    return found

"""The journal of a run: JSON Lines, appended and synced as rows are measured, and folded into rows when read.

Line 1 is the header. A `case` line opens a row and says what came of planning and verifying it; `round` lines hold the
raw samples of a row in one round, the last of them its stop reason; a `failure` line ends a row that broke while it
was timed; `canary` lines hold the warning lights. The format is described in docs/result-format.md.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from convbench.backends import Sample
from convbench.errors import ConvbenchError, InputError
from convbench.result import Row, RowKey, Run, Status
from convbench.timing import Round
from convbench.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Schema history.  1: first public version.
SCHEMA_VERSION = 1
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""One step of the ladder per old version: applied to every line, tested on a committed file of that version."""


# Writing


def case_line(index: int, row: Row) -> dict[str, Any]:
    """The line that opens row `index`: everything but its samples."""
    return {
        "type": "case",
        "row": index,
        "key": row.key.to_dict(),
        "status": row.status,
        "reason": row.reason,
        "resolved": row.resolved,
        "plan_s": row.plan_s,
        "first_call_s": row.first_call_s,
        "workspace_bytes": row.workspace_bytes,
        "work": row.work.to_list() if row.work else None,
        "verification": {key: _finite(value) for key, value in row.verification.items()} if row.verification else None,
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity, which an error has where none is allowed: absent then, and the reason says what it was."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def round_line(index: int, number: int, measured: Round, stop: str | None) -> dict[str, Any]:
    """The samples of row `index` in round `number`; `stop` says why it was the row's last, if it was."""
    return {
        "type": "round",
        "row": index,
        "round": number,
        "launches": measured.launches,
        "wall_s": [s.wall_s for s in measured.samples],
        "cpu_s": [s.cpu_s for s in measured.samples],
        "flags": {str(i): list(s.flags) for i, s in enumerate(measured.samples) if s.flags},
        "stop": stop,
    }


def failure_line(index: int, status: Status, reason: str) -> dict[str, Any]:
    """The line that ends row `index` where timing it failed."""
    return {"type": "failure", "row": index, "status": status, "reason": reason}


def canary_line(number: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Seconds of each canary at the start of round `number`."""
    return {"type": "canary", "round": number, "seconds": dict(seconds)}


class Journal:
    """An open result file: each line is written whole, flushed and synced before `append` returns."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any], *, force: bool = False) -> Journal:
        """A new file with its header line.

        Raises:
            InputError: the file exists and `force` is not set, another run is writing it, or it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create folder {path.parent}: {error.strerror}") from None
        try:
            journal = cls(_locked(path, "a" if force else "x"))
            if path.is_file():
                os.truncate(path, 0)  # only once no other run writes it
        except FileExistsError:
            raise InputError(f"{path} exists; --resume continues it, --force overwrites it") from None
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        try:
            journal.append({"type": "header", "schema_version": SCHEMA_VERSION, **header})
        except ConvbenchError:
            journal.close()
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path, end: int) -> Journal:
        """An existing file, to be continued after its first `end` bytes; an unfinished line beyond them is cut off.

        Raises:
            InputError: another run is writing it, or it cannot be written.
        """
        try:
            file = _locked(path, "a")
            os.truncate(path, end)
            if end and path.read_bytes()[-1:] != b"\n":
                file.write("\n")  # the last line is whole but for its end
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        return cls(file)

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes one line.

        Raises:
            ConvbenchError: it could not be stored, as on a full disk.
        """
        try:
            self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False, default=_plain) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConvbenchError(f"cannot write {self._file.name}: {error.strerror}") from None

    def close(self) -> None:
        """Closes the file."""
        with suppress(OSError):  # every line is stored, or `append` has said that it is not
            self._file.close()


def _locked(path: Path, mode: str) -> IO[str]:
    """The file opened, and locked for as long as it is open, so that two runs never write the same one.

    Raises:
        InputError: another run has it.
    """
    file = path.open(mode, encoding="utf-8")
    try:
        import fcntl
    except ImportError:  # Windows has other locks: the two runs are on their own there
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path} is being written by another run") from None
    except OSError:  # a file system without locks
        pass
    return file


def _plain(value: Any) -> Any:
    """Python's number for one of NumPy's, which a backend may have counted with."""
    return value.item()


# Reading


def read_run(path: Path) -> Run:
    """The run in a result file.

    Raises:
        InputError: unreadable, empty, of another version, or damaged; the text names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return fold(content, str(path))


def fold(content: bytes, where: str) -> Run:
    """The run that `content` holds; `where` names it in errors.

    Raises:
        InputError: as for `read_run`.
    """
    header: dict[str, Any] | None = None
    rows: dict[int, Row] = {}
    canaries: list[dict[str, float]] = []
    steps: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
    note = ""
    end = 0
    for number, (line, whole) in enumerate(_lines(content), start=1):
        try:
            entry = json.loads(line, parse_float=_number, parse_constant=_number)
        except (ValueError, RecursionError):
            if whole:
                raise InputError(f"{where}:{number}: not JSON: the file is damaged") from None
            note = f"the last line ({number}) is unfinished and was left out"
            break
        try:
            if b"\\u" in line:  # a lone surrogate is no text, and could not be shown
                json.dumps(entry, ensure_ascii=False).encode()
            if header is None:
                steps = [UPGRADES[version] for version in range(_schema(entry), SCHEMA_VERSION)]
            for step in steps:
                entry = step(entry)
            if header is None:
                header = _header(entry)
            else:
                _fold_line(entry, rows, canaries)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, InputError) as error:
            raise InputError(f"{where}:{number}: {_why(error)}") from None
        end += len(line) + 1
    if header is None:
        raise InputError(f"{where} holds no run: it has no header line")
    # In the order asked for; a resumed run measures an unfinished row anew, in its old place.
    latest = {row.key: row for _, row in sorted(rows.items())}
    return Run(header, tuple(latest.values()), tuple(canaries), note, min(end, len(content)), max(rows, default=-1) + 1)


def _why(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"damaged line ({type(error).__name__}: {error})"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# What readers rely on: a type or several, a list of one shape, or a table with at least these keys.
_TEXT_OR_NONE = (str, type(None))
_NUMBER_OR_NONE = (int, float, type(None))
_HEADER_SHAPE = {
    "convbench_version": str, "created": str, "command": [str], "suites": [{"name": str, "sha256": str}], "seed": int,
    "options": dict, "environment": {"libraries": dict, "blas": [dict]}, "devices": dict,
}  # fmt: skip
_DEVICE_SHAPE = {"machine": dict, "fingerprint": str}
_CASE_SHAPE = {
    "row": int, "reason": str, "resolved": _TEXT_OR_NONE, "plan_s": _NUMBER_OR_NONE, "first_call_s": _NUMBER_OR_NONE,
    "workspace_bytes": _NUMBER_OR_NONE,
    "key": {"case": {"suite": str, "name": str, "repeat": int}, "backend": str, "algorithm": str, "device": str,
            "cache": str, "threads": int},
}  # fmt: skip
_WORK_SHAPE = [{
    "name": str, "flops": int, "bytes_read": int, "bytes_written": int, "footprint_bytes": int, "launches": int,
}]  # fmt: skip
_VERIFICATION_SHAPE = {"max_error": _NUMBER_OR_NONE, "rms_error": _NUMBER_OR_NONE, "bound_share": _NUMBER_OR_NONE}
_ROUND_SHAPE = {"row": int, "launches": int, "wall_s": list, "cpu_s": list, "flags": dict, "stop": _TEXT_OR_NONE}
_FAILURE_SHAPE = {"row": int, "reason": str}


def _check(value: Any, shape: Any, name: str = "") -> None:
    """Raises an InputError that names the field where `value` has not this shape; a bool is no number."""
    kind = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"damaged line ({name or 'it'} is {value!r:.60})")
    if isinstance(shape, dict):
        for key, inner in shape.items():
            _check(value[key], inner, f"{name}.{key}".lstrip("."))
    elif isinstance(shape, list):
        for position, entry in enumerate(value):
            _check(entry, shape[0], f"{name}[{position}]")
    elif isinstance(value, int):
        float(value)  # or it overflows, here and not when a rate is computed


def _lines(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it ends in a newline."""
    *whole, last = content.split(b"\n")
    yield from ((line, True) for line in whole)
    if last:
        yield last, False


def _schema(entry: dict[str, Any]) -> int:
    """The schema version in a file's first line, once it is known to be readable."""
    _check(entry, {"type": str})
    if entry["type"] != "header":
        raise InputError(f"expected the header, got a line of type {entry['type']!r}")
    found = entry.get("schema_version")
    if found is None:
        raise InputError("the header has no schema_version: this is not a convbench result file")
    if type(found) is not int or found > SCHEMA_VERSION:
        raise InputError(
            f"written by a newer convbench (schema version {found}, this one reads up to {SCHEMA_VERSION}): upgrade"
        )
    if found < SCHEMA_VERSION and found not in UPGRADES:
        raise InputError(f"schema version {found} is too old for this convbench: measure again")
    return found


def _header(entry: dict[str, Any]) -> dict[str, Any]:
    _check(entry, _HEADER_SHAPE)
    for name, device in entry["devices"].items():
        _check(device, _DEVICE_SHAPE, f"devices.{name}")
    return entry


def _fold_line(entry: dict[str, Any], rows: dict[int, Row], canaries: list[dict[str, float]]) -> None:
    kind = entry["type"]
    if kind == "canary":
        canaries.append({str(name): float(seconds) for name, seconds in entry["seconds"].items()})
    elif kind == "case":
        _check(entry, _CASE_SHAPE)
        for name, shape in (("work", _WORK_SHAPE), ("verification", _VERIFICATION_SHAPE)):
            if entry[name] is not None:
                _check(entry[name], shape, name)
        rows[entry["row"]] = Row(
            key=RowKey.from_dict(entry["key"]),
            status=Status(entry["status"]),
            reason=entry["reason"],
            resolved=entry["resolved"],
            plan_s=entry["plan_s"],
            first_call_s=entry["first_call_s"],
            workspace_bytes=entry["workspace_bytes"],
            work=Work.from_list(entry["work"]) if entry["work"] is not None else None,
            verification=entry["verification"],
        )
    elif kind == "round":
        _check(entry, _ROUND_SHAPE)
        row = _open_row(rows, entry["row"])
        flags = entry["flags"]
        samples = tuple(
            Sample(float(wall), None if cpu is None else float(cpu), tuple(flags.get(str(i), ())))
            for i, (wall, cpu) in enumerate(zip(entry["wall_s"], entry["cpu_s"], strict=True))
        )
        if not samples or entry["launches"] < 1 or min(sample.wall_s for sample in samples) < 0:
            raise InputError("a round without samples, or of negative time")
        rows[entry["row"]] = replace(
            row,
            rounds=(*row.rounds, Round(entry["launches"], samples)),
            stop_reason=entry["stop"],
            status=Status.OK if entry["stop"] else row.status,
        )
    elif kind == "failure":
        _check(entry, _FAILURE_SHAPE)
        row = _open_row(rows, entry["row"])
        rows[entry["row"]] = replace(row, status=Status(entry["status"]), reason=entry["reason"])
    else:
        raise InputError(f"unknown line type {kind!r}")


def _open_row(rows: Mapping[int, Row], index: int) -> Row:
    """The row that a round or a failure belongs to."""
    if index not in rows:
        raise InputError(f"row {index} has no case line before this one")
    if rows[index].status is not Status.PARTIAL:
        raise InputError(f"row {index} is {rows[index].status}: nothing can follow")
    return rows[index]

"""The journal of a run: JSON Lines, appended and synced as rows are measured, and folded into rows when read.

Line 1 is the header. A `case` line opens a row and says what came of planning and verifying it; `round` lines hold the
raw samples of a row in one round, the last of them its stop reason; a `failure` line ends a row that broke while it
was timed; a `phases` line holds the seconds of its phases; `canary` lines hold the warning lights. The format is
described in docs/result-format.md.
"""

from __future__ import annotations

import codecs
import gc
import io
import json
import math
import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from convbench.errors import ConvbenchError, InputError, printable
from convbench.files import lock, open_regular, unlock
from convbench.fold import Folder
from convbench.result import Status
from convbench.schema import SCHEMA_VERSION, UPGRADES
from convbench.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from convbench.result import Row, Run
    from convbench.timing import Round

__all__ = [
    "SCHEMA_VERSION", "UPGRADES", "Journal", "canary_line", "case_line", "content", "failure_line", "fold",
    "phases_line", "read_run", "round_line",
]  # fmt: skip

LONGEST_LINE = 1 << 24
"""Bytes of a line, at most: what is longer is no line of a journal, and need not fit into memory."""
LONGEST_HEADER = 1 << 20
"""The same of the header, whose values take fifty times their text in memory; those of runs are a few thousand long."""
BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What an editor or a shell that saves text as "UTF-8 with BOM" or "Unicode" puts at its beginning."""
HEADER_START = b'{"type":"header"'


# Writing


def case_line(index: int, row: Row) -> dict[str, Any]:
    """The line that opens row `index`: everything but its samples."""
    return {
        "type": "case",
        "row": index,
        "key": row.key.to_dict(),
        "status": row.status,
        "reason": printable(row.reason),
        "resolved": row.resolved,
        "plan_s": _finite(row.plan_s),
        "build_s": _finite(row.build_s),
        "first_call_s": _finite(row.first_call_s),
        "floor_s": row.floor_s,
        "workspace_bytes": _finite(row.workspace_bytes),
        "work": row.work.to_list() if row.work else None,
        "verification": {key: _finite(value) for key, value in row.verification.items()} if row.verification else None,
        "notes": [printable(note) for note in row.notes],
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
        "process": measured.process,
        "launches": measured.launches,
        "wall_s": [*measured.columns.wall_s],
        "cpu_s": [*measured.columns.cpu_s],
        "flags": {str(index): [*names] for index, names in measured.columns.flags.items()},
        "meters": dict(measured.meters),
        "stop": stop,
    }


def failure_line(index: int, status: Status, reason: str) -> dict[str, Any]:
    """The line that ends row `index` where timing it failed."""
    return {"type": "failure", "row": index, "status": status, "reason": printable(reason)}


def phases_line(index: int, process: int, seconds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Seconds of each phase of row `index`, run by run; it stands before the row's last round."""
    return {"type": "phases", "row": index, "process": process, "seconds": [list(run) for run in seconds]}


def canary_line(number: int, device: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Seconds of each canary of a device at the start of round `number`."""
    return {"type": "canary", "round": number, "device": device, "seconds": dict(seconds)}


def content(run: Run) -> bytes:
    """A result file that holds this run."""
    lines: list[Mapping[str, Any]] = [run.header | {"type": "header", "schema_version": SCHEMA_VERSION}]
    for device, canaries in run.canaries.items():
        lines += [canary_line(number, device, seconds) for number, seconds in enumerate(canaries)]
    for index, row in enumerate(run.rows):
        timed = bool(row.rounds)
        lines.append(case_line(index, replace(row, status=Status.PARTIAL, reason="") if timed else row))
        if row.phases:
            lines.append(phases_line(index, 0, row.phases))
        ends = row.stop_reason if row.status is Status.OK else None
        last = len(row.rounds) - 1
        lines += [
            round_line(index, at, measured, ends if at == last else None) for at, measured in enumerate(row.rounds)
        ]
        if timed and row.status not in {Status.OK, Status.PARTIAL}:
            lines.append(failure_line(index, row.status, row.reason))
    return b"".join(_encoded(line) + b"\n" for line in lines)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, separators=(",", ":"), allow_nan=False, default=_plain).encode()


class Journal:
    """An open result file: each line is folded, written whole, and synced before `append` returns."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._path = Path(file.name).absolute()  # a backend may change the working directory
        self._folder = Folder()
        self._end = -1
        """Where the whole lines of a reopened file end, until what follows them is cut off."""

    @staticmethod
    def refuse(path: Path) -> None:
        """Refuses a file that is there, before time is spent on what goes into it.

        Raises:
            InputError: it exists.
        """
        if path.exists():
            raise InputError(f"{path} exists; --resume continues it, --force overwrites it")

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any], *, force: bool = False) -> Journal:
        """A new file with its header line.

        Raises:
            InputError: the file exists and `force` is not set, another run is writing it, or it cannot be written.
        """
        journal = cls(_locked(path, "ab" if force else "xb"))
        try:
            journal._start(header)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """An existing file, read, to be continued; an unfinished line at its end is cut off before the first append.

        A missing or empty file, or one without a whole header, starts afresh with `header`.

        Raises:
            InputError: another run is writing it, it is damaged, or it cannot be read or written.
        """
        file = _locked(path, "a+b")
        journal = cls(file)
        try:
            with open(file.fileno(), "rb", closefd=False) as reader:  # the same file, buffered
                reader.seek(0)
                if _unfinished(reader.readline(LONGEST_HEADER), first=True):
                    journal._start(header)
                else:
                    reader.seek(0)
                    with _collection_paused():
                        _, journal._end = _fold_into(journal._folder, reader, str(path))
        except OSError as error:
            journal.close()
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except BaseException:
            journal.close()
            raise
        return journal

    def _start(self, header: Mapping[str, Any]) -> None:
        self._end = 0  # whatever the file holds is cut off, now that no other run writes it
        self.append({"type": "header", "schema_version": SCHEMA_VERSION, **header})

    def append(self, line: Mapping[str, Any]) -> None:
        """Takes one line into the run, and writes it.

        Raises:
            InputError: the line could not be read again.
            ConvbenchError: it could not be stored, as on a full disk; the run has it all the same.
        """
        data = _encoded(line)
        try:
            if len(data) >= _longest(first=self._folder.header is None):
                raise InputError("it is too long")  # noqa: TRY301  as what the folder refuses
            self._folder.add(data)
        except (InputError, ValueError) as error:  # what a backend counted, or is called
            raise InputError(
                f"{self._file.name}: a line that could not be read again is not written: {error}"
            ) from None
        try:
            self._cut()
            self._write(data + b"\n")
        except OSError as error:
            raise ConvbenchError(f"cannot write {self._file.name}: {error.strerror}") from None

    def _cut(self) -> None:
        """Ends a reopened file with its last whole line."""
        if self._end >= 0:
            os.truncate(self._file.fileno(), self._end)
            self._file.seek(max(0, self._end - 1))
            if self._end and self._file.read(1) != b"\n":
                self._write(b"\n")  # the last line is whole but for its end
            self._end = -1

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file.fileno()).st_size
        try:
            while data:  # a disk that fills up takes a part
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(self._file.fileno(), before)  # no half of a line stays behind
            raise

    def run(self) -> Run:
        """The run so far, which does not need the file: it may have been deleted meanwhile."""
        return self._folder.run()

    def deleted(self) -> bool:
        """Whether the file has been deleted, or replaced by another one, since it was opened."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def close(self) -> None:
        """Closes the file."""
        unlock(self._file)


def _locked(path: Path, mode: str) -> IO[bytes]:
    """The file opened, and locked for as long as it is open, so that two runs never write the same one.

    Raises:
        InputError: it exists and must not, cannot be opened, or another run has it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create folder {path.parent}: {error.strerror}") from None
    try:
        file = open_regular(path, mode, buffering=0)
    except FileExistsError:
        Journal.refuse(path)
        raise InputError(f"cannot write {path}: it is a link to nowhere") from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    try:
        lock(file)
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
    """The run in a result file, read line by line.

    Raises:
        InputError: unreadable, empty, of another version, or damaged; the text names the line.
    """
    try:
        with open_regular(path, "rb") as file:
            return _read(file, str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def fold(content: bytes, where: str) -> Run:
    """The run that `content` holds; `where` names it in errors.

    Raises:
        InputError: as for `read_run`.
    """
    return _read(io.BytesIO(content), where)


def _read(file: IO[bytes], where: str) -> Run:
    folder = Folder()
    with _collection_paused():
        note, end = _fold_into(folder, file, where)
        try:
            return folder.run(note, end)
        except InputError as error:
            raise InputError(f"{where} {error}") from None


def _fold_into(folder: Folder, file: IO[bytes], where: str) -> tuple[str, int]:
    """Folds the lines of a file; what there is to note about its last one, and the bytes of it up to the last whole."""
    end = number = 0
    while line := file.readline(_longest(first=not number)):
        number += 1
        try:
            folder.add(line)
        except InputError as error:
            raise InputError(f"{where}:{number}: {error}") from None
        except (ValueError, RecursionError) as error:
            if _unfinished(line, first=number == 1):
                return f"the last line ({number}) is unfinished and was left out", end
            what = "the file is damaged" if number > 1 else "not a convbench result file"
            raise InputError(f"{where}:{number}: {_flaw(line, error, first=number == 1)}: {what}") from None
        end += len(line)
    return "", end


def _longest(*, first: bool) -> int:
    return LONGEST_HEADER if first else LONGEST_LINE


def _flaw(line: bytes, error: Exception, *, first: bool) -> str:
    """Why a line is none of a journal."""
    if first and line.startswith(BYTE_ORDER_MARKS):
        return "it begins with a byte order mark (save it as UTF-8 without one)"
    if line.startswith(b"{") and len(line) >= _longest(first=first):
        return f"longer than {format_bytes(_longest(first=first))}"
    return "nested too deeply" if isinstance(error, RecursionError) else "not JSON"


def _unfinished(line: bytes, *, first: bool) -> bool:
    """Whether a run that was killed can have left this line."""
    begun = HEADER_START.startswith(line[: len(HEADER_START)]) or not first
    return begun and not line.endswith(b"\n") and len(line) < _longest(first=first)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Rows hold no circles; the garbage collector would walk all of them again and again as they grow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

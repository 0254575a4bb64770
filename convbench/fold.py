"""The lines of a journal, folded into a run, one at a time: those of a file, or those of a run in progress.

What a line must hold is checked here, and only here: a journal folds each line before it writes it, so that what is
written can be read, and what was read can be shown.
"""

import json
from functools import partial
from sys import intern
from typing import TYPE_CHECKING, Annotated, Any, Required, TypedDict

import msgspec
from msgspec import Meta, Raw, Struct, defstruct
from msgspec.structs import asdict

from convbench.errors import InputError, printable, shown
from convbench.problem import MAX_EXTENT, Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.result import Row, RowKey, Run, Status
from convbench.schema import SCHEMA_VERSION, UPGRADES, schema_of
from convbench.timing import Columns, Round
from convbench.work import Phase, Work

if TYPE_CHECKING:
    from collections.abc import Callable


MOST = 1e100
"""No number in a line is larger, so that no rate or sum of them overflows."""
MOST_SECONDS = 1e12
LEAST_SECONDS = 1e-15
"""No time but 0 is shorter, so that rates do not overflow."""

Index = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0)]  # at most MOST too, which is more than `le` can say
Extent = Annotated[int, Meta(ge=1, le=MAX_EXTENT)]
Number = Annotated[float, Meta(ge=-MOST, le=MOST)]
Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS)]  # at least LEAST_SECONDS too, or 0

# What a line must hold. What it holds besides is left out, but a key or a phase must hold nothing else: it would not be
# the one that it is taken for.


_SUITE = defstruct("_SUITE", [("name", str), ("sha256", str)])
_ENVIRONMENT = defstruct("_ENVIRONMENT", [("libraries", dict[str, Any]), ("blas", list[dict[str, Any]])])
_UPDATE = defstruct("_UPDATE", [("date", str), ("reason", str), ("replaced", int), ("added", int), ("dropped", int)])
_DEVICE = defstruct("_DEVICE", [("machine", dict[str, Any]), ("fingerprint", str), ("versions", dict[str, Any], {})])
_HEADER = defstruct("_HEADER", [
    ("convbench_version", str), ("created", str), ("command", list[str]), ("suites", list[dict[str, Any]]),
    ("seed", int), ("options", dict[str, Any]), ("environment", _ENVIRONMENT), ("devices", dict[str, Any]),
])  # fmt: skip


class _Problem(Struct, forbid_unknown_fields=True):
    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    filter_size: tuple[int, ...]
    groups: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


class _Case(Struct, forbid_unknown_fields=True):
    suite: str
    name: str
    problem: _Problem
    conv_pass: ConvPass
    dtype: Dtype
    math_mode: MathMode
    layout: str
    epilogue: Epilogue
    repeat: Extent


class _Key(Struct, forbid_unknown_fields=True):
    case: Raw
    backend: str
    algorithm: str
    device: str
    cache: str
    threads: Index
    accuracy: Number | None
    workspace_limit_bytes: Index | None


class _Phase(Struct, forbid_unknown_fields=True):
    name: str
    flops: Count
    bytes_read: Count
    bytes_written: Count
    footprint_bytes: Count
    launches: Count
    math_mode: str = ""


class _Verification(TypedDict, total=False):
    passed: bool
    reason: str
    max_error: Required[Number | None]
    rms_error: Required[Number | None]
    bound_share: Required[Number | None]
    accuracy: Number | None
    compared: Index
    contracted_axis: str
    contracted_length: Index


class _CaseLine(Struct, tag_field="type", tag="case"):
    row: Index
    key: _Key
    status: Status
    reason: str
    resolved: str | None
    plan_s: Number | None
    build_s: Number | None
    first_call_s: Number | None
    floor_s: Seconds | None
    workspace_bytes: Count | None
    work: list[_Phase] | None
    verification: _Verification | None
    notes: list[str]


class _RoundLine(Struct, tag_field="type", tag="round"):
    row: Index
    process: Index
    launches: Extent
    wall_s: tuple[Seconds, ...]
    cpu_s: tuple[Seconds | None, ...]
    flags: dict[Index, list[str]]
    meters: dict[str, Number]
    stop: str | None


class _PhasesLine(Struct, tag_field="type", tag="phases"):
    row: Index
    process: Index
    seconds: list[tuple[Seconds, ...]]


class _FailureLine(Struct, tag_field="type", tag="failure"):
    row: Index
    status: Status
    reason: str


class _CanaryLine(Struct, tag_field="type", tag="canary"):
    device: str
    seconds: dict[str, Seconds]


_Line = _CaseLine | _RoundLine | _PhasesLine | _FailureLine | _CanaryLine
_LINE: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)
_CASE = msgspec.json.Decoder(_Case)
_PHASES = partial(msgspec.convert, type=tuple[Phase, ...], from_attributes=True)


def key_from_json(text: bytes) -> RowKey:
    """The key that `RowKey.to_dict` gave, as JSON.

    Raises:
        InputError: a field is missing, unknown or breaks a rule.
    """
    try:
        return Folder().key(msgspec.json.decode(text, type=_Key))
    except msgspec.MsgspecError as error:
        raise InputError(f"not the key of a row: {error}") from None


class Folder:
    """The lines so far as rows.

    Its texts are `printable`: names and reasons come from suites, backends and files, and go to terminals. Names that
    identify a row are refused where they are not; other texts are cleaned.
    """

    def __init__(self) -> None:
        self.header: dict[str, Any] | None = None
        self._steps: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        self._rows: dict[int, dict[str, Any]] = {}  # the arguments of each Row
        self._canaries: dict[str, list[dict[str, float]]] = {}  # by device
        self._cases: dict[bytes, Case] = {}  # by their JSON: building one is what costs most

    def add(self, line: bytes) -> None:
        """Takes one line of JSON; the first must be the header.

        Raises:
            InputError: it is damaged, of another version, or belongs to no row; it is not taken then.
            ValueError, RecursionError: it is not JSON, or nested too deeply.
        """
        if self.header is None:
            self._add_header(_loaded(line))
            return
        entry = self._entry(line)
        if isinstance(entry, _RoundLine):
            self._add_round(entry)
        elif isinstance(entry, _CaseLine):
            self._add_case(entry)
        elif isinstance(entry, _CanaryLine):
            _check_seconds("seconds", *entry.seconds.values())
            seconds = {printable(name): value for name, value in entry.seconds.items()}
            device = entry.device or next(iter(self.header["devices"]), "")
            self._canaries.setdefault(printable(device), []).append(seconds)
        elif isinstance(entry, _PhasesLine):
            self._add_phases(entry)
        else:
            fields = self._open_row(entry.row)
            fields["status"], fields["reason"] = entry.status, printable(entry.reason)

    def run(self, note: str = "", end: int = 0) -> Run:
        """The run so far; `note` and `end` become those of the Run.

        Raises:
            InputError: there is no header.
        """
        if self.header is None:
            raise InputError("holds no run: it has no header line")
        # In the order asked for; a resumed run measures an unfinished row anew, in its old place.
        latest = {fields["key"]: fields for _, fields in sorted(self._rows.items())}
        rows = tuple(Row(**{**fields, "rounds": tuple(fields["rounds"])}) for fields in latest.values())
        canaries = {device: tuple(of) for device, of in self._canaries.items()}
        return Run(self.header, rows, canaries, note, end, max(self._rows, default=-1) + 1)

    def _add_header(self, entry: Any) -> None:
        version = schema_of(entry)
        _check(entry, _HEADER)
        for position, suite in enumerate(entry["suites"]):
            _check(suite, _SUITE, f"suites[{position}]")
        _check(entry.get("updates", []), list, "updates")
        for position, record in enumerate(entry.get("updates", [])):
            _check(record, _UPDATE, f"updates[{position}]")
        for name, device in entry["devices"].items():
            _check(device, _DEVICE, f"devices.{name}")
        self._steps = [UPGRADES[step] for step in range(version, SCHEMA_VERSION)]
        self.header = _cleaned(entry)

    def _entry(self, line: bytes) -> _Line:
        """The line, checked, as this version writes it."""
        if not line.isascii():
            line.decode()  # msgspec does not look into what it leaves out
        try:
            if self._steps:
                line = self._upgraded(line)
            return _LINE.decode(line)
        except msgspec.ValidationError as error:
            raise _damage(error) from None
        except (msgspec.DecodeError, RecursionError) as error:
            _loaded(line)
            raise _refusal("", str(error)) from None  # JSON all the same: it has half of a surrogate pair

    def _upgraded(self, line: bytes) -> bytes:
        entry = msgspec.json.decode(line)
        try:
            for step in self._steps:
                entry = step(entry)
        except (LookupError, TypeError) as error:
            raise _refusal("", f"{type(error).__name__}: {error}") from None
        return msgspec.json.encode(entry)

    def _add_case(self, entry: _CaseLine) -> None:
        for position, phase in enumerate(entry.work or ()):
            largest = max(phase.flops, phase.bytes_read, phase.bytes_written, phase.footprint_bytes, phase.launches)
            if largest > MOST:
                raise _refusal(f"work[{position}]", f"a count is above {MOST:g}")
            phase.name, phase.math_mode = (intern(printable(text)) for text in (phase.name, phase.math_mode))
        _check_seconds("floor_s", entry.floor_s or 0.0)
        if (entry.workspace_bytes or 0) > MOST:
            raise _refusal("workspace_bytes", f"it is above {MOST:g}")
        if verification := entry.verification:
            if "reason" in verification:
                verification["reason"] = printable(verification["reason"])
            if "contracted_axis" in verification:
                verification["contracted_axis"] = intern(printable(verification["contracted_axis"]))
        self._rows[entry.row] = {
            "key": self.key(entry.key),
            "status": entry.status,
            "reason": printable(entry.reason),
            "resolved": entry.resolved and intern(printable(entry.resolved)),
            "plan_s": entry.plan_s,
            "build_s": entry.build_s,
            "first_call_s": entry.first_call_s,
            "floor_s": entry.floor_s,
            "workspace_bytes": entry.workspace_bytes,
            "work": None if entry.work is None else Work(_PHASES(entry.work)),
            "verification": verification,
            "notes": tuple(intern(printable(note)) for note in entry.notes),
            "rounds": [],
            "phases": (),
        }

    def key(self, fields: _Key) -> RowKey:
        """The key of a row; equal cases are one object."""
        blob = bytes(fields.case)
        case = self._cases.get(blob)
        if case is None:
            case = self._cases[blob] = _case(blob)
        names = (fields.backend, fields.algorithm, fields.device, fields.cache)
        for name in names:
            _check_name(name)
        backend, algorithm, device, cache = map(intern, names)
        return RowKey(case=case, backend=backend, algorithm=algorithm, device=device, cache=cache,
                      threads=fields.threads, accuracy=fields.accuracy,
                      workspace_limit_bytes=fields.workspace_limit_bytes)  # fmt: skip

    def _add_round(self, entry: _RoundLine) -> None:
        fields = self._open_row(entry.row)
        wall, cpu, flags = entry.wall_s, entry.cpu_s, {}
        if not wall or len(wall) != len(cpu):
            raise _refusal("wall_s", f"it has {len(wall)} samples, cpu_s has {len(cpu)}")
        _check_seconds("wall_s", *wall)
        _check_seconds("cpu_s", *([seconds for seconds in cpu if seconds is not None] if None in cpu else cpu))
        for index, names in entry.flags.items():
            if index >= len(wall):
                raise _refusal("flags", f"there is no sample {index}")
            flags[index] = tuple([intern(printable(name)) for name in names])
        meters = {intern(printable(name)): value for name, value in entry.meters.items()}
        fields["rounds"].append(Round(entry.launches, Columns(wall, cpu, flags), entry.process, meters))
        if entry.stop:
            fields["status"], fields["stop_reason"] = Status.OK, intern(printable(entry.stop))

    def _add_phases(self, entry: _PhasesLine) -> None:
        fields = self._open_row(entry.row)
        count = len(fields["work"].phases) if fields["work"] else 0
        for seconds in entry.seconds:
            _check_seconds("seconds", *seconds)
            if not count or len(seconds) != count:
                raise _refusal("seconds", f"they are those of {len(seconds)} phases, work has {count}")
        fields["phases"] += tuple(entry.seconds)

    def _open_row(self, index: int) -> dict[str, Any]:
        """The row that a round or a failure belongs to."""
        fields = self._rows.get(index)
        if fields is None:
            raise InputError(f"row {index} has no case line before this one")
        if fields["status"] is not Status.PARTIAL:
            raise InputError(f"row {index} is {fields['status']}: nothing can follow")
        return fields


def _loaded(line: bytes) -> Any:
    """What a line holds, whatever that is; raises ValueError or RecursionError where it is not JSON."""
    return json.loads(line.decode(), parse_constant=int)  # NaN and infinity are no JSON, and no int


def _check(value: Any, shape: type, where: str = "$") -> None:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _damage(error, where) from None


def _damage(error: msgspec.ValidationError, inside: str = "$") -> InputError:
    """What the decoder says of a line, the field first."""
    what, at, path = str(error).replace("`", "").rpartition(" - at ")
    where = path.replace("$", inside) if at else inside
    return _refusal(where.replace("$.", "").replace("$", ""), what or path)


def _refusal(where: str, what: str) -> InputError:
    return InputError(f"damaged line ({where:.200}{': ' if where else ''}{what:.200})")


def _cleaned(value: Any) -> Any:
    """The value with every text in it `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _cleaned(inner) for key, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def _case(blob: bytes) -> Case:
    """The case in this JSON."""
    try:
        found = _CASE.decode(blob)
    except msgspec.ValidationError as error:
        raise _damage(error, "key.case") from None
    _check_name(found.suite)
    _check_name(found.name)
    fields = asdict(found) | {"problem": Problem(**asdict(found.problem)), "layout": Layout.parse(found.layout)}
    return Case(**fields)


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise InputError(f"damaged line (the name {shown(name)} cannot be printed)")


def _check_seconds(name: str, *values: float) -> None:
    if values and min(values) < LEAST_SECONDS:
        for value in values:
            if 0 < value < LEAST_SECONDS:
                raise _refusal(name, f"{value} is less than {LEAST_SECONDS:g}, and not 0")

"""Suites: declared problems in strict TOML. The format is described in docs/suites.md."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError, printable, shown, unknown_name
from convbench.files import open_regular
from convbench.problem import MAX_EXTENT, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

SCHEMA = 1
ALIASES = {"alexnet": "alexnet-2012", "vgg": "vgg-d"}
"""Short names of built-in suites."""

MAX_BYTES = 1 << 20
"""Of a suite file: over a hundred times the largest built-in one."""
MAX_DOTS = 500

CONFIDENCES = ("source", "quoted", "recalled", "inferred")
"""How a problem's shape is known: read in the authors' own code or text; read in a third party's; recalled and checked
by arithmetic; derived or filled in."""

_TOP_KEYS = {"schema", "name", "title", "year", "source", "notes", "network", "defaults", "problem"}
_SHAPE_KEYS = {
    "batch", "in_channels", "out_channels", "groups", "input_size", "filter_size", "stride", "dilation", "padding",
}  # fmt: skip
_DEFAULT_KEYS = _SHAPE_KEYS | {"repeat", "confidence"}
_PROBLEM_KEYS = _DEFAULT_KEYS | {"name", "note", "output_size", "gate"}
_GATE_KEYS = {"min_effect", "enabled", "reason"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # of several lines; up to two quotes before the last three belong to the text
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'|#[^\n]*|[\[\]{}]",
    re.DOTALL,
)
"""Of TOML, what brackets may hide in, and brackets."""
_PROBLEM = r"""[ \t]*(?:problem|"problem"|'problem')[ \t]*"""
_PROBLEM_HEADER, _PROBLEM_KEY = re.compile(rf"\[\[{_PROBLEM}\]\]"), re.compile(rf"{_PROBLEM}=[ \t]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """How a regression check treats one problem: smallest effect that counts (a fraction), whether it counts, why."""

    min_effect: float | None = None
    enabled: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteProblem:
    """A named problem of a suite; `repeat` is how often it occurs in its network.

    `line` is where its file declares it, the first being 1; None where the file writes it in an unusual way.
    """

    name: str
    problem: Problem
    repeat: int = 1
    confidence: str | None = None
    note: str = ""
    gate: Gate = Gate()
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named list of problems.

    Attributes:
        network: whether the problems are one network, so that sums over them mean something.
        sha256: that of the file it was read from.
    """

    name: str
    title: str
    source: str
    problems: tuple[SuiteProblem, ...]
    year: int | None = None
    notes: tuple[str, ...] = ()
    network: bool = True
    sha256: str = ""

    def with_batch(self, batch: int) -> Suite:
        """The same suite with every problem's batch replaced."""
        return replace(self, problems=tuple(replace(p, problem=replace(p.problem, batch=batch)) for p in self.problems))


def builtin_suites() -> dict[str, Traversable]:
    """Built-in suites by name, sorted: in a wheel they lie inside the package, in a source tree beside it."""
    packaged = files("convbench") / "_suites"
    folder = packaged if packaged.is_dir() else Path(__file__).parent.parent / "suites"
    found = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return dict(sorted(found.items()))


def suite_file(argument: str) -> str | None:
    """The file that `argument` names, from the working directory, with forward slashes; None for a built-in suite."""
    if not _names_file(argument):
        return None
    try:
        path = os.path.relpath(argument)
    except ValueError:  # on another drive
        path = argument
    return Path(path).as_posix()


def _names_file(argument: str) -> bool:
    return argument.endswith(".toml") or "/" in argument or "\\" in argument


def load_suite(argument: str) -> Suite:
    """The suite that `argument` names: a built-in one, or a TOML file.

    Raises:
        InputError: no such suite, an unreadable file, or a file that breaks the format.
    """
    if _names_file(argument):
        try:
            with open_regular(Path(argument), "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read suite {argument}: {error.strerror}") from None
        return parse_suite(content, argument)
    builtin = builtin_suites()
    name = ALIASES.get(argument, argument)
    if name not in builtin:
        raise unknown_name("suite", argument, [*builtin, *ALIASES], where=" (a suite file's name ends in .toml)")
    return parse_suite(builtin[name].read_bytes(), f"{name}.toml")


def parse_suite(content: bytes, where: str) -> Suite:
    """The suite in `content`; `where` names the file in errors.

    Raises:
        InputError: not UTF-8 TOML, a key unknown, missing or of the wrong type, or an impossible shape.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{where}: not a convbench suite: larger than {MAX_BYTES >> 20} MiB")
    if max(line.count(b".") for line in content.split(b"\n")) > MAX_DOTS:  # tomllib takes minutes for long keys
        raise InputError(f"{where}: not a convbench suite: a line has more than {MAX_DOTS} dots")
    try:
        text = content.decode()
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not UTF-8 or TOML, an integer of over 4300 digits, nested too deep
        raise InputError(f"{where}: not a convbench suite: not valid TOML: {error}") from None
    _check_keys(table, _TOP_KEYS, where)
    if type(table.get("schema")) is not int or table["schema"] != SCHEMA:
        raise InputError(f"{where}: schema must be {SCHEMA}, got {shown(table.get('schema'))}")
    name = _name(table, where)
    defaults = _table(table.get("defaults", {}), f"{where}: [defaults]")
    _check_keys(defaults, _DEFAULT_KEYS, f"{where}: [defaults]")
    entries = table.get("problem")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: a suite needs at least one [[problem]]")
    problems: dict[str, SuiteProblem] = {}
    lines = _problem_lines(text)
    for position, entry in enumerate(entries, start=1):
        problem = _problem(_table(entry, f"{where}: problem {position}"), defaults, f"{where}: problem {position}")
        if len(lines) == len(entries):
            problem = replace(problem, line=lines[position - 1])
        if problem.name in problems:
            raise InputError(f"{where}: problem {position}: name {problem.name!r} is taken by an earlier problem")
        problems[problem.name] = problem
    notes = table.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(f"{where}: notes must be a list of strings, got {shown(notes)}")
    return Suite(
        name=name,
        title=_typed(table, "title", str, name, where),
        source=_typed(table, "source", str, "", where),
        year=_typed(table, "year", int, None, where),
        notes=tuple(map(printable, notes)),
        network=_typed(table, "network", bool, True, where),
        problems=tuple(problems.values()),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _problem_lines(text: str) -> list[int]:
    """The line of each problem in valid TOML: of its [[problem]], or of its brace in `problem = [{…}, …]`.

    Fewer than there are problems where a file writes "problem" with escapes.
    """
    lines, line, counted = [], 1, 0
    depth, listed = 0, False
    for token in _TOKEN.finditer(text):
        if token[0] in {"[", "{"}:
            start = token.start()
            line += text.count("\n", counted, start)
            counted = start
            found = listed and depth == 1 and token[0] == "{"
            if depth == 0:  # a header, or the value of a key
                before = text[text.rfind("\n", 0, start) + 1 : start]
                listed = _PROBLEM_KEY.fullmatch(before) is not None
                found = not before.strip() and _PROBLEM_HEADER.match(text, start) is not None
            if found:
                lines.append(line)
            depth += 1
        elif token[0] in {"]", "}"}:
            depth -= 1
    return lines


def _check_keys(table: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise unknown_name("key", key, sorted(allowed), where=f" in {where}")


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a table, got {shown(value)}")
    return value


def _typed(table: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = table.get(key, default)
    if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        kinds = {str: "a string", int: "an integer", bool: "true or false"}
        raise InputError(f"{where}: {key} must be {kinds[kind]}, got {shown(value)}")
    return printable(value) if isinstance(value, str) else value


def _name(table: Mapping[str, Any], where: str) -> str:
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: name must be letters, digits and _ . + -, starting with one of the first; got {shown(name)}"
        )
    return name


def _problem(entry: dict[str, Any], defaults: dict[str, Any], where: str) -> SuiteProblem:
    _check_keys(entry, _PROBLEM_KEYS, where)
    name = _name(entry, where)
    where = f"{where} ({name!r})"
    values = defaults | entry
    for key in ("batch", "in_channels", "out_channels", "input_size", "filter_size"):
        if key not in values:
            raise InputError(f"{where}: {key} is missing")
    try:
        problem = _shape({key: values[key] for key in _SHAPE_KEYS & values.keys()})
        expected = values.get("output_size")
        stated = problem.output_size if expected is None else _broadcast("output_size", expected, problem.ndim)
        if stated != problem.output_size or any(type(extent) is not int for extent in stated):
            raise InputError(f"output_size is {list(problem.output_size)}, but the file says {shown(expected)}")  # noqa: TRY301
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    repeat = _typed(values, "repeat", int, 1, where)
    if not 1 <= repeat <= MAX_EXTENT:
        raise InputError(f"{where}: repeat must be from 1 to {MAX_EXTENT}, got {shown(repeat)}")
    confidence = values.get("confidence")
    if confidence is not None and confidence not in CONFIDENCES:
        raise InputError(f"{where}: confidence must be one of {', '.join(CONFIDENCES)}; got {shown(confidence)}")
    note = _typed(values, "note", str, "", where)
    gate = _gate(values.get("gate", {}), f"{where}: gate")
    return SuiteProblem(name=name, problem=problem, repeat=repeat, confidence=confidence, note=note, gate=gate)


def _gate(value: object, where: str) -> Gate:
    table = _table(value, where)
    _check_keys(table, _GATE_KEYS, where)
    effect = table.get("min_effect")
    if effect is not None and (isinstance(effect, bool) or not isinstance(effect, int | float) or not 0 < effect < 1):
        raise InputError(f"{where}: min_effect must be a fraction between 0 and 1, got {shown(effect)}")
    return Gate(
        min_effect=effect,
        enabled=_typed(table, "enabled", bool, True, where),
        reason=_typed(table, "reason", str, "", where),
    )


def _broadcast(name: str, value: object, ndim: int) -> tuple[Any, ...]:
    if isinstance(value, list):
        if len(value) != ndim:
            raise InputError(f"{name} must be one value or {ndim}, got {shown(value)}")
        return tuple(value)
    return (value,) * ndim


def _shape(values: dict[str, Any]) -> Problem:
    """A Problem from values given as one scalar, or one per axis; where all are scalars the problem is 2-D."""
    spatial = ("input_size", "filter_size", "stride", "dilation", "padding")
    lists = {key: len(values[key]) for key in spatial if isinstance(values.get(key), list)}
    key, ndim = next(iter(lists.items()), ("", 2))
    if ndim == 1 and not lists.keys() & {"input_size", "filter_size"}:
        raise InputError("a 1-D problem needs a list for input_size or filter_size, such as input_size = [1014]")
    if not 1 <= ndim <= 3:
        raise InputError(f"{key} must be one value or a list of 1, 2 or 3, got {shown(values[key])}")
    fields: dict[str, Any] = {key: values[key] for key in values.keys() - set(spatial)}
    for key in spatial[:-1]:
        if key in values:
            fields[key] = _broadcast(key, values[key], ndim)
    padding = values.get("padding", 0)
    if padding == "same":
        if all(type(v) is int and v > 0 for key in spatial for v in fields.get(key, ())):
            fields["padding"] = _same_padding(fields, ndim)
        return Problem(**fields)  # which says what is wrong with the others
    if isinstance(padding, str):
        raise InputError(
            f'padding must be an integer, one per axis, [before, after] pairs or "same"; got {shown(padding)}'
        )
    fields["padding"] = tuple(tuple(p) if isinstance(p, list) else (p, p) for p in _broadcast("padding", padding, ndim))
    return Problem(**fields)


def _same_padding(fields: dict[str, Any], ndim: int) -> tuple[tuple[int, int], ...]:
    """Padding for ceil(input / stride) outputs, the odd element after: the rule of TensorFlow and ONNX SAME_UPPER."""
    ones = (1,) * ndim
    pairs = []
    for n, r, s, d in zip(fields["input_size"], fields["filter_size"], fields.get("stride", ones),
                          fields.get("dilation", ones), strict=True):  # fmt: skip
        total = max(0, (-(-n // s) - 1) * s + d * (r - 1) + 1 - n)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)

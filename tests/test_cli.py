"""The command line: exit codes, one clear line for every mistake, results on stdout and messages on stderr."""

import csv
import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convbench import __version__
from convbench.backends import available
from convbench.backends.cpu import PLANNERS
from convbench.cli import COMMANDS, main, options
from convbench.datasheet import datasheets
from convbench.journal import read_run
from convbench.render import render
from convbench.suite import builtin_suites

GOLDEN = Path(__file__).parent / "data" / "run-v1.jsonl"

BACKEND = """
import os

from convbench.errors import UnsupportedError
from convbench.testing import FakeAlgorithm as A
from convbench.testing import FakeBackend


def off(right):
    if right.size:
        right.flat[0] += 1.0
    return right


class Mine(FakeBackend):
    name = "mine"

    def __init__(self):
        super().__init__({"quick": A(), "slow": A(seconds=3e-3)})


def variant(**algorithms):
    class Variant(FakeBackend):
        name = "mine"

        def __init__(self):
            super().__init__(algorithms)

    return Variant


Wrong = variant(quick=A(), bad=A(fault=off))
Failing = variant(quick=A(), bad=A(plan_error=RuntimeError("no\\nsuch device")))
Shaky = variant(quick=A(), bad=A(run_error=RuntimeError("lost"), good_runs=40))
Hungry = variant(quick=A(), bad=A(plan_error=MemoryError("no room")))
Picky = variant(picky=A(reason='needs a GPU: pip install "convbench[cuda13]"'))
Partly = variant(quick=A(), picky=A(reason="no"))
Big = variant(big=A(memory_bytes=1 << 40))
Interrupted = variant(quick=A(), slow=A(seconds=3e-3, run_error=KeyboardInterrupt(), good_runs=40))
AtOnce = variant(quick=A(plan_error=KeyboardInterrupt()))
Resumed = Interrupted if os.environ.get("INTERRUPT") else Mine


class Unusable(FakeBackend):
    name = "mine"

    def probe(self):
        return "no GPU here"


class Raises(FakeBackend):
    def algorithms(self, case, options):
        raise LookupError("cannot\\nsay")


class NoBackend:
    pass
"""

SUITE = """
schema = 1
name = "tiny"
title = "Two problems"

[defaults]
batch = 1
in_channels = 2
out_channels = 3
filter_size = 3

[[problem]]
name = "a"
input_size = 6
repeat = 2

[[problem]]
name = "b"
input_size = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a suite and a backend in it, and a measuring lock of its own."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "mine.py").write_text(BACKEND)
    (tmp_path / "tiny.toml").write_text(SUITE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CONVBENCH_PLUGINS", "0")
    for name in ("NO_COLOR", "FORCE_COLOR", "INTERRUPT", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    """The result of a command; an exception that is no exit is a traceback, and fails the test."""
    result = CliRunner().invoke(main, arguments, prog_name="convbench")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def measure(*arguments, code=0):
    """A run of the tiny suite's fprop on a backend of mine.py."""
    name, *rest = arguments
    result = invoke("run", "tiny.toml", "--pass", "fprop", "-b", f"mine.py:{name}", *rest)
    assert result.exit_code == code, result.output
    return result


def error_of(code, *arguments):
    """The one error line of a command that must fail, and leave stdout alone."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return error_line(code, result.stderr)


def error_line(code, stderr):
    lines = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    assert "Traceback" not in stderr
    if code == 1:
        assert lines == errors
    else:
        assert lines[0].startswith("Usage: ")
    return errors[0]


def process(*arguments, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "convbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# Help


def commands(command=main, path=()):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


ALL = dict(commands())


def test_every_command_is_found():
    lists = {("list", name) for name in ("suites", "problems", "backends", "algorithms", "machines")}
    assert {(name,) for name in COMMANDS} | lists <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_an_example(path, flag):
    text = ok(*path, flag).stdout
    assert text.startswith(f"Usage: {' '.join(('convbench', *path))}")
    examples = text.partition("Example:\n")[2].strip().splitlines()
    assert examples[0].strip().startswith(" ".join(("convbench", *path)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_help(path):
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


@pytest.mark.parametrize("path", [path for path in ALL if path], ids=" ".join)
def test_every_example_is_a_command_line_that_parses(path):
    text = ok(*path, "--help").stdout.partition("Example:\n")[2]
    examples = [shlex.split(line)[1:] for line in text.splitlines() if line.strip().startswith("convbench ")]
    assert examples
    for words in examples:
        names, command, context = [], main, None
        while isinstance(command, click.Group):
            context = click.Context(command, parent=context)
            names.append(words.pop(0))
            command = command.get_command(context, names[-1])
        assert command is not None, names
        command.make_context(names[-1], words, parent=context)  # raises where an option is unknown or its value wrong


def test_the_short_help_is_that_of_the_commands():
    text = " ".join(ok("--help").stdout.split())
    for name, summary in COMMANDS.items():
        assert f"{name} {summary}" in text


def test_the_short_help_of_lists_is_whole():
    text = " ".join(ok("list", "--help").stdout.partition("Commands:")[2].split())
    for name, command in ALL[("list",)].commands.items():
        first = " ".join(command.help.partition("\n\n")[0].split())
        assert f"{name} {first}" in text


def test_the_version():
    assert ok("--version").stdout == f"convbench, version {__version__}\n"
    found = process("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"convbench, version {__version__}\n", "")


# Mistakes on the command line: exit code 2, with the usage before the error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("rum", "No such command 'rum'. Did you mean 'run'?"),
        ("lst", "No such command 'lst'. Did you mean 'list'?"),
        ("benchmark", "No such command 'benchmark'."),
        ("list suits", "No such command 'suits'."),
        ("run", "Missing argument 'SUITE...'"),
        ("show", "Missing argument 'RUN'"),
        ("analyze", "Missing argument 'SUITE...'"),
        ("list problems", "Missing argument 'SUITE'"),
        ("list algorithms", "Missing argument 'SUITE'"),
        ("run tiny.toml --nonsense", "No such option"),
        ("run tiny.toml --pass sideways", "'sideways' is not a pass; allowed: fprop, dgrad, wgrad"),
        ("run tiny.toml --pass fprop,", "'' is not a pass"),
        ("run tiny.toml --pass FPROP", "'FPROP' is not a pass"),
        ("run tiny.toml --dtype fp31", "'fp31' is not a dtype; allowed: fp64, fp32, tf32, fp16, bf16"),
        ("run tiny.toml --dtype fp32,int8", "'int8' is not a dtype"),
        ("run tiny.toml --layout whcn", "unknown layout 'whcn'"),
        ("run tiny.toml --epilogue relu", "'relu' is not an epilogue; allowed: none, bias, bias+relu"),
        ("run tiny.toml --batch -1", "-1 is not in the range"),
        ("run tiny.toml --batch many", "'many' is not a valid integer"),
        ("run tiny.toml --batch 1.5", "'1.5' is not a valid integer"),
        ("run tiny.toml --precision good", "'good' is not a fraction; write a number and one of %, such as 1%"),
        ("run tiny.toml --precision 0", "fraction must be a number above 0, got '0'"),
        ("run tiny.toml --precision -1%", "-1%"),
        ("run tiny.toml --max-time soon", "'soon' is not a duration"),
        ("run tiny.toml --max-time 0s", "duration must be a number above 0"),
        ("run tiny.toml --max-time 2parsecs", "'2parsecs' is not a duration"),
        ("run tiny.toml --max-memory lots", "'lots' is not a size; write a number and one of"),
        ("run tiny.toml --max-memory 0", "size must be a number above 0"),
        ("run tiny.toml --max-memory 1e400GB", "size must be a number above 0"),
        ("run tiny.toml --threads 0", "0 is not in the range"),
        ("run tiny.toml --accuracy 1e-3", "'1e-3' is not an accuracy; allowed: 1e-6, 1e-5, 1e-4"),
        ("list algorithms tiny.toml --accuracy good", "'good' is not an accuracy"),
        ("run tiny.toml --seed -3", "-3 is not in the range"),
        ("run tiny.toml --format xml", "'xml' is not one of"),
        ("run tiny.toml -o tmp", "is a directory"),
        ("run tiny.toml --resume", "--resume needs -o, and excludes --force"),
        ("run tiny.toml --resume --force -o run.jsonl", "--resume needs -o, and excludes --force"),
        ("show run.jsonl --by colour", "'colour' is not one of"),
        ("show run.jsonl --by network --phases", "--phases excludes --by"),
        ("analyze tiny.toml --pass sideways", "'sideways' is not a pass"),
        ("list suites extra", "unexpected extra argument"),
    ],
)
def test_a_mistake_on_the_command_line(arguments, expected):
    assert expected in error_of(2, *arguments.split())


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_a_group_alone_shows_its_help(arguments):
    result = invoke(*arguments)
    assert result.exit_code in {0, 2}  # older versions of click count that as no mistake
    assert "Usage: " in result.output


# Mistakes in names and files: exit code 1, one line


DAMAGED_TOML = {
    "not TOML": ("schema = ", "x.toml: not a convbench suite: not valid TOML: "),
    "two lines of error": ("a = '''\n", "x.toml: not a convbench suite: not valid TOML: "),
    "empty": ("", "x.toml: schema must be 1, got None"),
    "unknown key": (SUITE + "strid = 2\n", "unknown key 'strid' in x.toml: problem 2; did you mean 'stride'?"),
    "impossible shape": (SUITE.replace("filter_size = 3", "filter_size = 9"), "filter_size_h spans 9 elements"),
    "no problems": ('schema = 1\nname = "x"\n', "a suite needs at least one [[problem]]"),
    "line break in a name": ('schema = 1\nname = "x\\ny"\n', "name must be letters"),
    "line break in a key": ('schema = 1\n"a\\nb" = 1\n', "unknown key"),
}


@pytest.mark.parametrize("name", DAMAGED_TOML)
@pytest.mark.parametrize("command", ["run", "analyze", "list problems", "list algorithms"])
def test_a_damaged_suite(name, command):
    content, expected = DAMAGED_TOML[name]
    Path("x.toml").write_text(content)
    assert expected in error_of(1, *command.split(), "x.toml")
    assert not Path("runs").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run smok -b cpu", "unknown suite 'smok' (a suite file's name ends in .toml); did you mean 'smoke'?"),
        ("analyze alexnett", "did you mean 'alexnet'"),
        ("run missing.toml", "cannot read suite missing.toml: No such file or directory"),
        ("run ./tmp/", "cannot read suite ./tmp/: Is a directory"),
        ("run tiny.toml -b cpux", "unknown backend 'cpux' (a backend in a file is FILE.py:CLASS); did you mean 'cpu'?"),
        ("run tiny.toml -b cpu:ftf", "unknown algorithm 'ftf' of backend cpu; did you mean 'fft'"),
        ("list algorithms tiny.toml -b cpu:ftf", "unknown algorithm 'ftf' of backend cpu; did you mean 'fft'"),
        ("list algorithms tiny.toml -b gpu", "unknown backend 'gpu'"),
        ("analyze tiny.toml --machine h200", "unknown machine 'h200'; did you mean 'h200-sxm'"),
        ("run tiny.toml --filter c*", "no problem of tiny matches --filter c*"),
        ("run tiny.toml --batch 99999999999", "batch must be at most 2147483647"),
        ("show missing.jsonl", "cannot read missing.jsonl: No such file or directory"),
        ("show tmp", "cannot read tmp: Is a directory"),
        ("show tiny.toml", "tiny.toml:1: not JSON"),
        ("run tiny.toml -b mine.py:Mine -o tiny.toml/run.jsonl", "cannot create folder tiny.toml: "),
        (
            "run tiny.toml -b mine.py:Mine -o tiny.toml",
            "tiny.toml exists; --resume continues it, --force overwrites it",
        ),
        ("run tiny.toml -b mine.py:Mine -o tiny.toml --resume", "tiny.toml:1: not JSON"),
    ],
)
def test_a_mistake_in_a_name_or_a_file(arguments, expected):
    before = Path("tiny.toml").read_text()
    assert expected in error_of(1, *arguments.split())
    assert Path("tiny.toml").read_text() == before


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("raise RuntimeError('first\\nsecond')", "Mine", "x.py:Mine failed to load: RuntimeError: first second"),
        ("def (", "Mine", "failed to load: SyntaxError"),
        ("import no_such_module_of_mine", "Mine", "ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("", "Mine", "AttributeError"),
        ("Mine = 3", "Mine", "TypeError: 'int' object is not callable"),
        (None, "Mine", "cannot read backend file x.py: no such Python file"),
        ("", "", "name the backend class after a colon, such as x.py:MyBackend"),
        (BACKEND, "NoBackend", "backend NoBackend cannot be used: AttributeError: "),
        (BACKEND, "Raises", "backend fake cannot be used: LookupError: cannot say (x.py:"),
    ],
    ids=["raises", "syntax", "import", "no class", "no function", "no file", "no name", "no backend", "cannot answer"],
)
def test_a_file_that_is_no_backend(content, name, expected):
    if content is not None:
        Path("x.py").write_text(content)
    assert expected in error_of(1, "run", "tiny.toml", "-b", f"x.py:{name}")
    sys.modules.pop("convbench_backend_x", None)


@pytest.mark.parametrize("cut", [0, 10, 500, 3000])
def test_a_result_file_without_a_run(cut):
    content = GOLDEN.read_bytes()
    Path("run.jsonl").write_bytes(content[:cut].partition(b"\n")[0])
    if cut < 3000:
        assert "run.jsonl holds no run: it has no header line" in error_of(1, "show", "run.jsonl")
    else:
        assert ok("show", "run.jsonl").stdout  # a header alone is a run without rows


def test_a_damaged_result_file():
    lines = GOLDEN.read_text().splitlines()
    lines[4] = lines[4][:-9]
    Path("run.jsonl").write_text("\n".join(lines) + "\n")
    assert error_of(1, "show", "run.jsonl") == "Error: run.jsonl:5: not JSON: the file is damaged"


def test_a_result_file_of_a_newer_version():
    Path("run.jsonl").write_text(GOLDEN.read_text().replace('"schema_version":1', '"schema_version":7', 1))
    assert "written by a newer convbench (schema version 7" in error_of(1, "show", "run.jsonl")


def test_an_unfinished_line_is_forgiven_and_said():
    Path("run.jsonl").write_bytes(GOLDEN.read_bytes()[:-20])
    assert "the last line (28) is unfinished and was left out" in ok("show", "run.jsonl").stdout


def test_an_existing_result_is_kept_unless_forced():
    Path("run.jsonl").write_text("precious")
    error_of(1, "run", "tiny.toml", "-b", "mine.py:Mine", "-o", "run.jsonl")
    assert Path("run.jsonl").read_text() == "precious"
    measure("Mine", "-o", "run.jsonl", "--force")
    assert len(read_run(Path("run.jsonl")).rows) == 4


def test_a_full_disk_is_one_line(monkeypatch):
    def full(_file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = error_of(1, "run", "tiny.toml", "-b", "mine.py:Mine", "-o", "run.jsonl")
    assert error == "Error: cannot write run.jsonl: No space left on device"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_from_the_start():
    arguments = "run tiny.toml -b mine.py:Mine -o /dev/full --force"
    assert error_of(1, *arguments.split()) == "Error: cannot write /dev/full: it is not a regular file"


def test_no_usable_backend(monkeypatch):
    from convbench import backends

    monkeypatch.setattr(backends, "available", dict)
    assert "no usable backend; `convbench list backends` says why" in error_of(1, "run", "tiny.toml")


# Runs


def test_a_run_shows_its_rows_and_totals_and_where_they_are():
    result = measure("Mine", "-o", "deep/run.jsonl")
    assert "mine:quick" in result.stdout
    assert "Whole network" in result.stdout
    assert "deep/run.jsonl: 4 ok of 4 rows; " in result.stderr
    run = read_run(Path("deep/run.jsonl"))
    assert [row.key.label() for row in run.rows] == [
        f"tiny/{name} fprop fp32 nchw mine:{algorithm}" for name in "ab" for algorithm in ("quick", "slow")
    ]
    assert [row.time_s for row in run.rows] == [pytest.approx(t) for t in (1e-3, 3e-3, 1e-3, 3e-3)]


def test_showing_it_again_gives_the_same_tables():
    first = measure("Mine", "-o", "run.jsonl").stdout
    assert ok("show", "run.jsonl").stdout == first
    for output_format in ("json", "csv", "markdown"):
        shown = ok("show", "run.jsonl", "--format", output_format).stdout
        again = measure("Mine", "-o", "run.jsonl", "--force", "--format", output_format).stdout
        assert again.count("\n") == shown.count("\n")


def test_views_of_a_run():
    whole = ok("show", str(GOLDEN)).stdout
    rows, networks = (ok("show", str(GOLDEN), "--by", view).stdout for view in ("problem", "network"))
    assert whole == f"{rows}\n{networks}"
    assert "geometric mean" in ok("show", str(GOLDEN), "--by", "backend").stdout


def with_ceilings(ceilings):
    """run.jsonl: the golden run with these ceilings in its header."""
    header, *lines = GOLDEN.read_text().splitlines(keepends=True)
    header = json.loads(header)
    header["devices"]["cpu"]["ceilings"] = ceilings
    Path("run.jsonl").write_text(json.dumps(header) + "\n" + "".join(lines))


def test_bounds_of_a_run():
    peak, memory = ({"value": value, "kind": "measured"} for value in (1e11, 1e10))
    with_ceilings({"compute": {"fp32": peak}, "bandwidth": {"dram": memory}})
    assert "attained" in ok("show", "run.jsonl").stdout
    assert "implementation" in ok("show", "run.jsonl", "--by", "bound").stdout
    (first, *_) = json.loads(ok("show", "run.jsonl", "--by", "bound", "--format", "json").stdout)["bounds"]
    assert (first["algorithm"], first["rows"], first["bandwidth"]) == ("cpu:gemm", 2, 2)


def test_bounds_of_a_run_without_ceilings_or_with_damaged_ones():
    assert "no ceilings of cpu in this run" in error_of(1, "show", str(GOLDEN), "--by", "bound")
    with_ceilings({"compute": "fast"})
    expected = "ceilings of cpu in the run's header are damaged: not a set of ceilings: "
    assert expected in error_of(1, "show", "run.jsonl", "--by", "bound")
    shown = ok("show", "run.jsonl").stdout
    assert f"no bounds: {expected}" in shown
    assert "1.50 ms" in shown


@pytest.mark.parametrize("output_format", ["table", "json", "csv", "markdown"])
def test_networks_of_a_run_without_times(output_format):
    measure("Picky", "-o", "run.jsonl", code=6)
    result = ok("show", "run.jsonl", "--by", "network", "--format", output_format)
    assert result.stdout == ("{}\n" if output_format == "json" else "")
    assert result.stderr == "no network has a time\n"


def test_without_a_name_the_result_goes_to_runs():
    result = measure("Mine")
    (path,) = Path("runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}\.jsonl", path.name)
    assert f"runs/{path.name}: " in result.stderr


def test_the_header_has_no_absolute_path(folder):
    found = process("run", str(folder / "tiny.toml"), "-b", f"{folder}/mine.py:Mine", "-o", str(folder / "run.jsonl"))
    assert found.returncode == 0, found.stderr
    header = read_run(Path("run.jsonl")).header
    assert header["command"] == ["convbench", "run", "tiny.toml", "-b", "mine.py:Mine", "-o", "run.jsonl"]
    assert str(folder) not in Path("run.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("Wrong", "2 ok, 2 wrong"), ("Failing", "2 ok, 2 failed"), ("Shaky", "2 ok, 2 failed"),
        ("Hungry", "2 ok, 2 out_of_memory"), ("Picky", "2 unsupported"), ("Unusable", "4 unavailable"),
        ("Big", "2 skipped"),
    ],
)  # fmt: skip
def test_a_broken_row_or_nothing_measured_is_exit_code_6(name, counts):
    result = measure(name, "-o", "run.jsonl", code=6)
    assert f"run.jsonl: {counts} of " in result.stderr
    assert "Error" not in result.stderr
    for row in read_run(Path("run.jsonl")).rows:
        assert (row.time_s is None) == bool(row.reason)
        if row.reason:
            assert row.reason in result.stdout  # said, whole


def test_a_case_that_is_refused_beside_others_is_no_error():
    assert "2 ok, 2 unsupported of 4 rows" in measure("Partly", "-o", "run.jsonl").stderr


def test_a_case_larger_than_the_memory_is_skipped():
    result = measure("Mine", "--max-memory", "1kB", "-o", "run.jsonl", code=6)
    assert "skipped" in result.stdout
    assert "--max-memory is 1000 B" in result.stdout
    assert {row.status for row in read_run(Path("run.jsonl")).rows} == {"skipped"}


def test_a_hint_with_brackets_appears_whole():
    assert 'pip install "convbench[cuda13]"' in measure("Picky", code=6).stdout


def test_several_values_and_suites():
    Path("other.toml").write_text(SUITE.replace('"tiny"', '"other"'))
    result = ok("run", "tiny.toml", "other.toml", "-b", "mine.py:Mine:quick", "--pass", "fprop,wgrad,fprop", "--dtype",
                "fp32,fp64", "--layout", "nchw, nhwc", "--epilogue", "none,bias", "--batch", "2", "--filter", "tiny/a",
                "--filter", "*/b", "--format", "json", "-o", "run.jsonl")  # fmt: skip
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == 3 * 2 * 2 * 3  # problems × dtypes × layouts × (fprop none, fprop bias, wgrad)
    assert {row["batch"] for row in rows} == {2}
    assert {(row["suite"], row["problem"]) for row in rows} == {("tiny", "a"), ("tiny", "b"), ("other", "b")}
    assert {row["layout"] for row in rows} == {"nchw", "nhwc"}


def test_a_backend_may_be_named_twice():
    result = measure("Mine:slow", "-b", "mine.py:Mine:quick", "--filter", "a", "--format", "json")
    assert [row["algorithm"] for row in json.loads(result.stdout)["rows"]] == ["slow", "quick"]


def test_options_reach_the_run():
    measure("Mine", "--threads", "1", "--precision", "5%", "--max-time", "250ms", "--max-memory", "1GiB", "--seed", "4",
            "--accuracy", "1e-4", "--workspace-limit", "256MiB", "-o", "run.jsonl")  # fmt: skip
    header = read_run(Path("run.jsonl")).header
    assert header["seed"] == 4
    assert header["options"] == {
        "threads": 1, "processes": 1, "accuracy": 1e-4, "tune": False, "max_memory_bytes": 1 << 30, "precision": 0.05,
        "max_time_s": 0.25, "min_rounds": 7, "max_samples": 50, "min_sample_s": 1e-3,
        "workspace_limit_bytes": 256 << 20,
    }  # fmt: skip
    assert header["suites"][0]["name"] == "tiny"


def test_a_dry_run_measures_nothing():
    result = measure("Mine", "--dry-run", "--format", "json", "-o", "run.jsonl")
    rows = json.loads(result.stdout)["rows"]
    assert [row["algorithm"] for row in rows] == ["mine:quick", "mine:slow"] * 2
    assert all(row["memory_bytes"] > 0 and row["reason"] is None for row in rows)
    assert not Path("run.jsonl").exists()
    assert "needs more than --max-memory" in measure("Mine", "--dry-run", "--max-memory", "1kB").stdout
    assert "needs a GPU" in measure("Picky", "--dry-run").stdout


def test_without_a_backend_every_usable_one_chooses(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # not installed, whether it is or not
    rows = json.loads(ok("run", "tiny.toml", "--dry-run", "--format", "json").stdout)["rows"]
    assert {row["algorithm"] for row in rows} == {"cpu:auto"}


# Interrupts


def test_an_interrupted_run_keeps_what_it_has_and_can_go_on(monkeypatch):
    monkeypatch.setenv("INTERRUPT", "1")
    result = measure("Resumed", "-o", "run.jsonl", code=130)
    assert "interrupted; the same `convbench run` with `--resume -o run.jsonl` continues" in result.stderr
    assert "mine:quick" in result.stdout  # the table is shown
    before = read_run(Path("run.jsonl"))
    assert {row.status for row in before.rows} == {"partial"}
    assert any(row.time_s for row in before.rows)

    monkeypatch.delenv("INTERRUPT")
    result = measure("Resumed", "-o", "run.jsonl", "--resume")
    assert "4 ok of 4 rows" in result.stderr
    assert {row.status for row in read_run(Path("run.jsonl")).rows} == {"ok"}
    assert ok("show", "run.jsonl").stdout == result.stdout


def test_a_run_interrupted_before_its_first_row():
    result = measure("AtOnce", "-o", "run.jsonl", code=130)
    assert "interrupted before anything was measured" in result.stderr
    assert result.stdout == ""
    assert not Path("run.jsonl").exists()
    assert "4 ok of 4 rows" in measure("Mine", "-o", "run.jsonl", "--resume").stderr


def test_other_conditions_cannot_be_resumed():
    measure("Mine", "--threads", "1", "-o", "run.jsonl")
    content = Path("run.jsonl").read_bytes()
    arguments = "run tiny.toml --pass fprop -b mine.py:Mine --threads 1 --seed 3 -o run.jsonl --resume"
    error = error_of(1, *arguments.split())
    assert error == "Error: run.jsonl cannot be resumed: its seed was 0, now 3"
    assert Path("run.jsonl").read_bytes() == content


def test_a_finished_run_is_resumed_by_showing_it():
    first = measure("Mine", "-o", "run.jsonl").stdout
    assert measure("Mine", "-o", "run.jsonl", "--resume").stdout == first


def test_resuming_a_missing_file_starts_it():
    measure("Mine", "-o", "run.jsonl", "--resume")
    assert len(read_run(Path("run.jsonl")).rows) == 4


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_during_a_real_run(folder):
    path = folder / "run.jsonl"
    # A shell may have its children ignore Ctrl-C, which ours would inherit.
    code = (
        "import signal\nfrom convbench.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nmain(prog_name='convbench')"
    )
    arguments = ["run", "smoke", "-b", "cpu", "--max-time", "60s", "--precision", "1e-9", "-o", str(path)]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        deadline = time.monotonic() + 60
        while not (path.exists() and b'"type":"round"' in path.read_bytes()):
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted; the same `convbench run` with `--resume -o " in stderr
    assert "plain-3x3" in stdout
    assert "rows are partial" in stdout
    run = read_run(path)
    assert len(run.rows) == 14 * 3 * len(PLANNERS)
    assert {row.status for row in run.rows} == {"partial", "unsupported"}  # winograd is not for every shape
    assert any(row.time_s for row in run.rows)
    shown = process("show", str(path))
    assert (shown.returncode, shown.stdout) == (0, stdout)


# Output


def test_json_is_in_si_units():
    rows = json.loads(measure("Mine", "--format", "json", "--filter", "a").stdout)
    assert set(rows) == {"rows", "totals"}
    row = rows["rows"][0]
    assert row["time_s"] == pytest.approx(1e-3)
    assert row["nominal_macs"] == 3 * 4 * 4 * 2 * 3 * 3
    assert row["effective_flop_per_s"] == pytest.approx(2 * row["nominal_macs"] / row["time_s"])
    assert rows["totals"][0]["fprop_s"] == pytest.approx(2e-3)  # repeat 2


def test_csv_has_one_table():
    rows = list(csv.DictReader(io.StringIO(measure("Mine", "--format", "csv").stdout)))
    assert len(rows) == 4
    assert float(rows[0]["time_s"]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "arguments",
    ["list suites", "list problems alexnet", "list backends", "list algorithms tiny.toml -b cpu", "list machines",
     "analyze smoke --machine h200-sxm", "analyze talk-example", f"show {GOLDEN}"],
)  # fmt: skip
def test_every_command_that_reads_has_all_formats(arguments):
    found = json.loads(ok(*arguments.split(), "--format", "json").stdout)
    rows = next(iter(found.values()))
    assert rows
    assert len(list(csv.DictReader(io.StringIO(ok(*arguments.split(), "--format", "csv").stdout)))) == len(rows)
    for output_format in ("table", "markdown"):
        result = ok(*arguments.split(), "--format", output_format)
        assert result.stdout.strip()
        assert result.stderr == ""


def test_lists():
    suites = json.loads(ok("list", "suites", "--format", "json").stdout)["suites"]
    assert [suite["name"] for suite in suites] == list(builtin_suites())
    assert next(s for s in suites if s["name"] == "alexnet-2012")["also"] == "alexnet"
    problems = json.loads(ok("list", "problems", "tiny.toml", "--format", "json").stdout)["problems"]
    assert [(p["name"], p["repeat"]) for p in problems] == [("a", 2), ("b", 1)]
    backends = json.loads(ok("list", "backends", "--format", "json").stdout)["backends"]
    assert (backends[0]["name"], backends[0]["usable"], backends[0]["distribution"]) == ("cpu", True, "convbench")
    algorithms = json.loads(ok("list", "algorithms", "tiny.toml", "-b", "cpu:fft", "--format", "json").stdout)[
        "algorithms"
    ]
    assert {row["algorithm"] for row in algorithms} == {"fft"}
    assert len(algorithms) == 6
    offered = json.loads(ok("list", "algorithms", "tiny.toml", "-b", "mine.py:Picky", "--format", "json").stdout)[
        "algorithms"
    ]
    assert {row["reason"] for row in offered} == {'needs a GPU: pip install "convbench[cuda13]"'}
    assert "h200-sxm" in ok("list", "machines").stdout


def at_width(monkeypatch, width, *arguments):
    """What a command prints on a terminal of `width` columns, without colour."""
    monkeypatch.setattr(
        options, "render", lambda tables, output_format, **_: render(tables, output_format, width=width)
    )
    return ok(*arguments).stdout


LISTS = ["suites", "problems googlenet", "problems smoke", "problems tiny.toml", "backends", "machines",
         "algorithms tiny.toml -b cpu", "algorithms alexnet -b mine.py:Picky"]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("arguments", LISTS)
def test_a_list_on_a_terminal_has_whole_names(monkeypatch, arguments, width):
    name, *rest = arguments.split()
    text = at_width(monkeypatch, width, "list", name, *rest)
    table = text.partition("─")[2].splitlines()
    rows = json.loads(ok("list", name, *rest, "--format", "json").stdout)[name]
    words = set(text.replace(",", " ").split())
    for row in rows:
        assert {row.get("name", row.get("problem"))} <= words
        if name == "algorithms":
            assert {row["pass"], row["backend"], row["algorithm"]} <= words
    assert all(len(line) <= width for line in table[: len(rows) + 1])
    assert len(table[0]) < width


SUITES_AT_70 = """\
suite          also      GMAC/image   title
──────────────────────────────────────────────────────────────────────
alexnet-2012   alexnet       0.6658   AlexNet, two towers
fbfft-layers   –                  –   The five representative layers…
smoke          –                  –   Tiny problems of every kind; a…
left out for want of width: batch, problems
shortened for want of width: title
"""
SUITES_AT_100 = """\
suite          also      problems        batch   GMAC/image   title
────────────────────────────────────────────────────────────────────────────────────────────────────
alexnet-2012   alexnet          5          128       0.6658   AlexNet, two towers
fbfft-layers   –                5          128            –   The five representative layers of the…
smoke          –               14   0, 1, 2, 3            –   Tiny problems of every kind; a run of…
shortened for want of width: title
"""
MACHINES_AT_60 = """\
datasheet figures: dense Tflop/s per math mode, memory bandwidth, cache
machine    fp32   tf32   fp16-tc   bf16-tc        DRAM
──────────────────────────────────────────────────────
h200-sxm   67.0    495       989       989   4.80 TB/s
k40        5.04      –         –         –    288 GB/s
each figure with its source in convbench/machines/
left out for want of width: title, units, L2, fp64
"""


@pytest.mark.parametrize(
    ("width", "arguments", "expected"),
    [(70, "suites", SUITES_AT_70), (100, "suites", SUITES_AT_100), (60, "machines", MACHINES_AT_60)],
)
def test_a_list_at_a_width(monkeypatch, width, arguments, expected):
    some = {name: path for name, path in builtin_suites().items() if name in {"alexnet-2012", "fbfft-layers", "smoke"}}
    monkeypatch.setattr("convbench.suite.builtin_suites", lambda: some)
    machines = {name: path for name, path in datasheets().items() if name in {"h200-sxm", "k40"}}
    monkeypatch.setattr("convbench.datasheet.datasheets", lambda: machines)
    assert at_width(monkeypatch, width, "list", arguments) == expected


def test_a_suite_that_is_no_network_has_no_sum():
    """As in docs/suites.md, to the digit."""
    rows = json.loads(ok("list", "suites", "--format", "json").stdout)["suites"]
    shown = ok("list", "suites", "--format", "markdown").stdout.replace("\\_", "_")
    text = (Path(__file__).parent.parent / "docs/suites.md").read_text()
    documented = dict(re.findall(r"^\| `([\w.-]+)` \| .* \| ([\d.–]+) \|$", text, re.MULTILINE))
    assert {row["name"]: row["macs_per_image"] is None for row in rows} == {n: d == "–" for n, d in documented.items()}
    for name, gmac in documented.items():
        assert re.search(rf"^\| {re.escape(name)} \| .* \| {re.escape(gmac)} \| [^|]*\|$", shown, re.MULTILINE), name


def test_what_auto_resolves_to_is_said():
    Path("chooser.py").write_text(
        BACKEND
        + """

from convbench.backends import Candidate


class Chooser(Mine):
    def algorithms(self, case, options):
        return [Candidate("auto", resolves_to="quick"), *super().algorithms(case, options)[1:]]
"""
    )
    arguments = ("list", "algorithms", "tiny.toml", "--pass", "fprop", "--filter", "a", "-b", "chooser.py:Chooser")
    rows = json.loads(ok(*arguments, "--format", "json").stdout)["algorithms"]
    assert [(row["algorithm"], row["resolves_to"]) for row in rows] == [
        ("auto", "quick"), ("quick", None), ("slow", None),
    ]  # fmt: skip
    assert "auto (quick) " in ok(*arguments).stdout


def test_a_dry_run_and_a_list_say_what_a_run_resolves_to():
    arguments = ("tiny.toml", "-b", "cpu:auto", "--pass", "fprop", "--format", "json")
    (planned, _) = json.loads(ok("run", *arguments, "--dry-run").stdout)["rows"]
    (row, _) = json.loads(ok("run", *arguments, "--max-time", "5ms").stdout)["rows"]
    listed = json.loads(ok("list", "algorithms", *arguments).stdout)["algorithms"][0]
    assert row["resolved"] not in {None, "auto"}
    assert planned["resolves_to"] == listed["resolves_to"] == row["resolved"]


def test_algorithms_that_cannot_for_the_same_reason_are_one_line():
    """In text: the other formats have a row each."""
    arguments = ("list", "algorithms", "smoke", "--filter", "pointwise*", "--pass", "fprop", "-b", "cpu")
    rows = json.loads(ok(*arguments, "--format", "json").stdout)["algorithms"]
    assert {"winograd-1e-6", "winograd", "winograd-1e-4"} <= {row["algorithm"] for row in rows if row["reason"]}
    lines = [line for line in ok(*arguments, "--format", "markdown").stdout.splitlines() if "no winograd tile" in line]
    assert len(lines) == len({row["problem"] for row in rows})
    assert all("| winograd-1e-6, winograd, winograd-1e-4 |" in line for line in lines)


def test_the_algorithms_of_an_unusable_backend_say_so():
    Path("away.py").write_text(BACKEND + "\n\nclass Away(Mine):\n    def probe(self):\n        return 'no GPU here'\n")
    arguments = ("list", "algorithms", "tiny.toml", "--pass", "fprop", "--filter", "a", "-b", "away.py:Away")
    rows = json.loads(ok(*arguments, "--format", "json").stdout)["algorithms"]
    assert {(row["reason"], row["accuracy"], row["memory_bytes"]) for row in rows} == {("no GPU here", None, None)}
    lines = ok(*arguments, "--format", "markdown").stdout.splitlines()
    assert [line.split(" | ")[3] for line in lines if "no GPU here" in line] == ["auto, quick, slow"]


def test_accuracy_limits_what_auto_takes():
    Path("tiers.py").write_text(BACKEND + "\n\nTiers = variant(loose=A(accuracy=1e-4), exact=A())\n")
    for accuracy, chosen in (("1e-4", "loose"), ("1e-5", "exact")):
        arguments = ("--accuracy", accuracy, "--pass", "fprop", "--format", "json")
        listed = json.loads(ok("list", "algorithms", "tiny.toml", "-b", "tiers.py:Tiers", *arguments).stdout)
        rows = {row["algorithm"]: row for row in listed["algorithms"]}
        assert rows["auto"]["resolves_to"] == chosen
        assert {name: rows[name]["accuracy"] for name in ("loose", "exact")} == {"loose": 1e-4, "exact": 1e-6}
        (row, _) = json.loads(
            ok("run", "tiny.toml", "-b", "tiers.py:Tiers:auto", "-o", f"{chosen}.jsonl", *arguments).stdout
        )["rows"]
        assert (row["resolved"], row["accuracy"]) == (chosen, float(accuracy))
    assert " 1e-04 " in ok("list", "algorithms", "tiny.toml", "-b", "tiers.py:Tiers").stdout


TUNED = (
    BACKEND
    + """

class Told(variant(slow=A(seconds=3e-3), quick=A(phases={"gather": 2e-4, "product": 6e-4}))):
    def plan(self, case, algorithm, operands, options):
        if case.suite:  # not for its floor
            with open("planned", "a") as file:
                file.write(algorithm + " ")
        return super().plan(case, algorithm, operands, options)
"""
)


def tune(*arguments):
    """(the row, what was planned for it)"""
    Path("told.py").write_text(TUNED)
    Path("planned").write_text("")
    result = ok("run", "tiny.toml", "--pass", "fprop", "--filter", "a", "-b", "told.py:Told:auto", "--format", "json",
                *arguments)  # fmt: skip
    (row,) = json.loads(result.stdout)["rows"]
    return row, Path("planned").read_text().split(), result.stderr


def test_what_auto_takes_is_measured_once(monkeypatch):
    monkeypatch.setenv("CONVBENCH_CACHE", "cache")
    row, planned, stderr = tune("-o", "first.jsonl")
    assert (row["resolved"], planned) == ("slow", ["auto"])
    assert "tuning" not in stderr
    row, planned, stderr = tune("--tune", "-o", "second.jsonl")
    assert (row["algorithm"], row["resolved"], planned) == ("auto", "quick", ["slow", "quick", "quick", "quick"])
    assert re.search(r": tuning \d", stderr)
    row, planned, _ = tune("--tune", "-o", "third.jsonl")
    assert (row["resolved"], planned) == ("quick", ["quick"])
    assert read_run(Path("third.jsonl")).header["options"]["tune"] is True
    error = error_of(1, "run", "tiny.toml", "--pass", "fprop", "--filter", "a", "-b", "told.py:Told:auto", "--resume",
                     "-o", "third.jsonl")  # fmt: skip
    assert error == "Error: third.jsonl cannot be resumed: its tune was True, now False"
    Path("cache/choices.json").write_text("{")
    row, planned, stderr = tune("--tune", "-o", "fourth.jsonl")
    assert (row["resolved"], planned) == ("quick", ["slow", "quick", "quick", "quick"])
    assert "warning: cache/choices.json cannot be used (JSONDecodeError): choices are measured anew\n" in stderr


def test_phases_are_measured_and_shown(monkeypatch):
    monkeypatch.setenv("CONVBENCH_CACHE", "cache")
    tune("--tune", "--phases", "-o", "run.jsonl")
    rows = json.loads(ok("show", "run.jsonl", "--phases", "--format", "json").stdout)["phases"]
    assert [(row["algorithm"], row["phase"]) for row in rows] == [
        ("mine:auto (quick)", "gather"), ("mine:auto (quick)", "product"),
    ]  # fmt: skip
    assert [row["share"] for row in rows] == pytest.approx([0.25, 0.75])
    shown = ok("show", "run.jsonl", "--phases").stdout
    assert "its phases add up to 800 µs, 80% of its time, 1.00 ms" in shown
    assert error_of(1, "show", str(GOLDEN), "--phases").endswith(
        "has no phases: measure with `convbench run --phases`, on plans that can say"
    )


@pytest.fixture
def broken_plug_in(monkeypatch):
    """A second installed backend, whose module fails with two lines."""
    Path("theirs.py").write_text("raise ImportError('no\\nlibrary')")
    monkeypatch.syspath_prepend(".")
    ours = available()["cpu"]
    theirs = EntryPoint("theirs", "theirs:Backend", ours.group)
    monkeypatch.setattr("convbench.backends.available", lambda: {"cpu": ours, "theirs": theirs})
    return "backend 'theirs' failed to load: ImportError: no library"


def test_a_broken_plug_in_is_one_line(broken_plug_in):
    result = ok("list", "algorithms", "tiny.toml")
    assert result.stderr == f"warning: {broken_plug_in}\n"
    assert "cpu" in result.stdout
    result = ok("list", "backends", "--format", "json")
    assert result.stderr == ""
    (_, row) = json.loads(result.stdout)["backends"]
    assert (row["name"], row["usable"], row["reason"]) == ("theirs", False, broken_plug_in)
    assert error_of(1, "run", "tiny.toml", "-b", "theirs") == f"Error: {broken_plug_in}"


def test_the_worked_example():
    row = json.loads(
        ok("analyze", "talk-example", "--pass", "fprop", "--filter", "alexnet_layer1", "--format", "json").stdout
    )
    assert row["cases"][0]["nominal_macs"] == 13_493_145_600


def test_results_go_to_stdout_and_messages_to_stderr():
    result = measure("Mine", "-o", "run.jsonl", "--format", "json")
    json.loads(result.stdout)
    assert "run.jsonl: 4 ok of 4 rows" in result.stderr
    assert "{" not in result.stderr
    assert ok("show", "run.jsonl").stderr == ""


def test_without_a_terminal_there_are_no_escape_codes(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for result in (measure("Mine"), ok("show", str(GOLDEN)), ok("list", "suites"), invoke("rum")):
        assert "\x1b" not in result.output


def on_a_terminal(*arguments, **environment):
    """What a command writes to a terminal of 100 columns, and its exit code; both streams together."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}}
    child = subprocess.Popen([sys.executable, "-m", "convbench", *arguments], stdin=follower, stdout=follower,
                             stderr=follower, env=env | {"TERM": "xterm"} | environment)  # fmt: skip
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    return child.wait(60), b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_gets_colour_unless_it_says_no():
    code, colored = on_a_terminal("show", str(GOLDEN))
    assert code == 0
    assert "\x1b[" in colored
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, plain = on_a_terminal("show", str(GOLDEN), **environment)
        assert code == 0
        assert "\x1b" not in plain
        assert plain == re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert max(map(len, plain.partition("\ntime:")[0].splitlines())) <= 100


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_progress_on_a_terminal_is_gone_at_the_end_and_absent_when_quiet():
    arguments = ("run", "tiny.toml", "-b", "mine.py:Wrong", "--format", "json")
    code, shown = on_a_terminal(*arguments, "-o", "one.jsonl")
    assert code == 6
    assert "\x1b[?25h" in shown  # the cursor is back
    code, quiet = on_a_terminal(*arguments, "-o", "two.jsonl", "--quiet")
    assert code == 6
    assert "\x1b" not in quiet


def test_a_reader_that_leaves_early_is_no_traceback():
    child = subprocess.Popen([sys.executable, "-m", "convbench", "list", "suites"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    with child:
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()
    assert child.returncode in {0, 1}


def test_output_does_not_depend_on_the_locale(folder):
    env = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = subprocess.run([sys.executable, "-m", "convbench", "show", str(GOLDEN)], capture_output=True, env=env,
                           cwd=folder, timeout=60, check=False)  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "×" in found.stdout.decode("utf-8")


# What is loaded


HEAVY = ("numpy", "scipy", "matplotlib", "rich.progress", "threadpoolctl", "cupy", "torch")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["list", "suites"],
                                       ["list", "problems", "alexnet"], ["rum"]], ids=" ".join)  # fmt: skip
def test_light_commands_load_nothing_heavy(arguments):
    code = (
        "import sys\nfrom convbench.cli import main\n"
        f"try:\n    main({arguments!r}, prog_name='convbench')\nexcept SystemExit:\n    pass\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stderr.splitlines()[-1] == ""

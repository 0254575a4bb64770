"""`convbench check` as a command, on a backend whose time is simulated."""

import itertools
import json
import sys

import pytest
from click.testing import CliRunner

from convbench.cli import main
from convbench.cli.rerun import again, exact_glob, planned
from convbench.errors import ConvbenchError, InputError

BACKEND = """
from convbench.testing import FakeAlgorithm, FakeBackend


class Mine(FakeBackend):
    name = "mine"

    def __init__(self):
        super().__init__({"quick": FakeAlgorithm(seconds=SECONDS), "other": FakeAlgorithm(reason="not today")})
"""
SUITE = """
schema = 1
name = "tiny"
[[problem]]
name = "first"
batch = 1
in_channels = 2
out_channels = 2
input_size = 6
filter_size = 3
"""
RUN = ("-b", "./mine.py:Mine:quick", "--pass", "fprop", "--max-time", "50ms")
AGAINST = ("--against-backend", "mine=./old.py:Mine", "--against")
OLD = ("--against", sys.executable, "--against-backend", "mine=./old.py:Mine")


def invoke(monkeypatch, arguments, code):
    monkeypatch.setattr(sys, "argv", ["convbench", *arguments])
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a suite, and a backend whose new version is 1.2 times as slow."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    (tmp_path / "old.py").write_text(BACKEND.replace("SECONDS", "2e-3"))
    (tmp_path / "mine.py").write_text(BACKEND.replace("SECONDS", "2.4e-3"))
    return tmp_path


@pytest.fixture
def baseline(folder, monkeypatch):
    """The same, with a baseline of the old version by three processes."""
    new = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text((folder / "old.py").read_text())
    invoke(monkeypatch, ["run", "tiny.toml", *RUN, "--processes", "3", "-o", "base.jsonl"], 0)
    (folder / "mine.py").write_text(new)
    return folder


def check(monkeypatch, *arguments, code):
    return invoke(monkeypatch, ["check", "tiny.toml", *arguments], code)


def facts(result):
    return json.loads(result.stdout)["comparison"]


def test_against_an_old_version(folder, monkeypatch):
    """Without a baseline: the rows are those of the run options."""
    result = check(monkeypatch, *OLD, "--format", "json", "--", *RUN, code=3)
    (fact,) = facts(result)
    assert (fact["verdict"], fact["ratio"]) == ("regression", pytest.approx(1.2))
    assert (fact["base_s"], fact["new_s"]) == pytest.approx((2e-3, 2.4e-3))
    assert "confirming 1 row by 12 launches each" in result.stderr
    assert not (folder / "runs").exists()


def test_what_neither_version_does_is_no_failure(folder, monkeypatch):
    all_of_them = [word.replace(":quick", "") for word in RUN]
    found = facts(check(monkeypatch, *OLD, "--launches", "1", "--format", "json", "--", *all_of_them, code=0))
    assert [(fact["algorithm"], fact["verdict"]) for fact in found] == [("quick", "inconclusive"), ("other", "untimed")]


def test_nothing_compared_is_a_failure(folder, monkeypatch):
    other = [word.replace(":quick", ":other") for word in RUN]
    result = check(monkeypatch, *OLD, "--launches", "1", "--", *other, code=6)
    assert "1 untimed of 1 row" in result.stdout
    assert "no row was compared" in result.stderr


def test_beside_a_baseline(baseline, monkeypatch):
    result = check(monkeypatch, "--baseline", "base.jsonl", *OLD, "--launches", "1", "--format", "json",
                   "--fail-on", "inconclusive", "-o", "now.jsonl", code=5)  # fmt: skip
    (fact,) = facts(result)
    assert (fact["verdict"], fact["reason"], fact["ratio"]) == ("inconclusive", "few_launches", pytest.approx(1.2))
    result = check(monkeypatch, "--baseline", "base.jsonl", "--current", "now.jsonl", "--format", "json", code=0)
    assert [(fact["verdict"], fact["ratio"]) for fact in facts(result)] == [("suspect", pytest.approx(1.2))]


def test_a_dedicated_machine_measures_suspects_again(baseline, monkeypatch):
    result = check(monkeypatch, "--baseline", "base.jsonl", "--dedicated", code=3)
    assert "again" in result.stdout
    assert result.stderr.count("measuring: convbench run tiny.toml") == 2
    assert "--filter tiny/first" in result.stderr
    check(monkeypatch, "--baseline", "base.jsonl", "--dedicated", "--advisory", code=0)


def test_self_test(baseline, monkeypatch):
    result = check(
        monkeypatch, "--baseline", "base.jsonl", "--self-test", "--launches", "1", "--format", "json", code=0
    )
    assert [fact["reason"] for fact in facts(result)] == ["few_launches"]
    assert "by stored runs 0 of 1 rows would be suspects" in result.stderr
    assert "by fresh pairs 0 of 1 rows would be regressions" in result.stderr


def test_interrupted_it_says_what_it_has(folder, monkeypatch):
    from convbench import pairs

    def two(*args, **options):
        yield from itertools.islice(real(*args, **options), 2)
        raise KeyboardInterrupt

    real = pairs.launches
    monkeypatch.setattr(pairs, "launches", two)
    result = check(monkeypatch, *OLD, "--", *RUN, code=130)
    assert "interrupted: the table is of what was measured before" in result.stderr
    assert "few launches: 1 of 1" in result.stdout


def test_a_side_that_does_not_start_any_more_takes_no_launch_back(folder, monkeypatch):
    from convbench import pairs

    def two(*args, **options):
        yield from itertools.islice(real(*args, **options), 2)
        raise ConvbenchError("the old side has no answer")

    real = pairs.launches
    monkeypatch.setattr(pairs, "launches", two)
    result = check(monkeypatch, *OLD, "--write", "json=x.json", "--", *RUN, code=1)
    assert "the old side has no answer: the table is of what was measured before" in result.stderr
    assert json.loads((folder / "x.json").read_text())["exit_code"] == 1


def test_isolation_is_that_of_the_pairs(folder, monkeypatch):
    check(monkeypatch, *OLD, "--launches", "1", "--", *RUN, "--isolate", code=0)


def test_what_a_backend_does_while_it_is_loaded_stays_its_own(folder, monkeypatch):
    path = folder / "mine.py"
    path.write_text("import os\nprint('hello')\nos.chdir('/')\n" + path.read_text())
    result = check(
        monkeypatch, *OLD, "--launches", "1", "--format", "json", "--write", "json=x.json", "--", *RUN, code=0
    )
    assert facts(result)
    assert (folder / "x.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name a --baseline, or the old version"),
        (["--current", "base.jsonl"], "name a --baseline"),
        (["--against", "x", "--current", "base.jsonl"], "--current measures nothing"),
        (["--baseline", "base.jsonl", "--current", "base.jsonl", "-o", "x.jsonl"], "--current measures nothing"),
        (["--baseline", "base.jsonl", "--", "-b", "cpu"], "--baseline excludes others"),
        (["--baseline", "base.jsonl", "--launches", "3"], "--launches needs --against"),
        (["--dedicated", "--against", "x"], "--dedicated is for a --baseline alone"),
        (["--self-test", "--against", "x"], "--self-test has no other version"),
        (["--against", "x", "-o", "x.jsonl"], "-o is for what is measured beside a --baseline"),
        (["--against", "x", "--", "--nope"], "No such option"),
        (["--against", "x", "--", "tiny.toml"], "one suite at a time"),
        (["--against", "x", "--", "--dry-run"], "--dry-run is for `convbench run` itself"),
        (["--self-test", "--against-backend", "mine=x"], "--against-backend needs --against"),
        (["--against", "x", "--write", "jsn=x"], "is not KIND=FILE with KIND one of json, markdown"),
        (["--against", "x", "--write", "plot=x.gif"], "what to draw follows from the suffix"),
    ],
)
def test_options_that_do_not_go_together(folder, monkeypatch, arguments, text):
    assert text in check(monkeypatch, *arguments, code=2).stderr


def test_bad_input(baseline, monkeypatch):
    for arguments, text in (
        (["--against", "x", "--against-backend", "mine", "--", *RUN], "must be NAME=BACKEND"),
        (["--against", "x", "--", *RUN], "backend mine is from ./mine.py:Mine in both versions: name the old one"),
        (["--against", "x", "--against-backend", "mime=./old.py:Mine", "--", *RUN], "did you mean 'mine'?"),
        ([*AGAINST, "no-such-python", "--", *RUN], "cannot start no-such-python: "),
        ([*AGAINST, "false", "--", *RUN], "the old side, false, has no answer"),
        (
            ["--against-backend", "mine=./old.py:No", "--against", sys.executable, "--", *RUN],
            "the old side cannot load ./old.py:No: ",
        ),
        (["--baseline", "base.jsonl", "-o", "base.jsonl"], "base.jsonl exists"),
        (["--baseline", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        ([*OLD, "--write", "json=no/x", "--", *RUN], "cannot write no/x: there is no folder no"),
        ([*OLD, "--write", "json=x", "--write", "junit=./x", "--", *RUN], "has another use in this command"),
        (["--baseline", "base.jsonl", "--force", "--write", "json=base.jsonl"], "has another use in this command"),
        ([*OLD, "--write", "json=base.jsonl", "--", *RUN], "base.jsonl exists; --force overwrites it"),
        ([*OLD, "--", *RUN, "--tune"], "what --tune takes is not confirmed"),
    ):
        result = check(monkeypatch, *arguments, code=1)
        assert text in result.stderr
        assert "Traceback" not in result.stderr
        assert not result.stdout
    (baseline / "one.toml").write_text(SUITE.replace('"tiny"', '"other"'))
    result = invoke(monkeypatch, ["check", "one.toml", "--baseline", "base.jsonl"], 1)
    assert "base.jsonl holds rows of tiny, not of other alone" in result.stderr


def test_another_machine_is_said_before_anything_is_measured(baseline, monkeypatch):
    path = baseline / "base.jsonl"
    header, *lines = path.read_text().splitlines(keepends=True)
    entry = json.loads(header)
    entry["devices"]["fake"]["fingerprint"] = "another"
    path.write_text(json.dumps(entry) + "\n" + "".join(lines))
    result = check(monkeypatch, "--baseline", "base.jsonl", code=4)
    assert "not comparable: machine" in result.stderr
    assert "measuring" not in result.stderr


def test_the_same_command_again():
    words = ["convbench", "run", "run", "tiny", "-b", "tiny", "-o", "base.jsonl", "--force", "--batch", "2", "--warm",
             "--filter=c*", "--filter", "d", "-q", "--output=x", "-bcpu", "-ofile", "-qb", "tiny", "-qoy", "--",
             "other"]  # fmt: skip
    kept = ["-b", "tiny", "--batch", "2", "--warm"]
    more = ["-b", "cpu", "-b", "tiny"]
    assert again(words, "new.toml") == ["new.toml", *kept, "--filter=c*", "--filter", "d", *more]
    assert again(words, "new.toml", ["tiny/a"]) == ["new.toml", *kept, *more, "--filter", "tiny/a"]
    with pytest.raises(InputError, match="not made by `convbench run`"):
        again(["convbench", "talk"], "new.toml")


def test_an_exact_glob(folder):
    from fnmatch import fnmatchcase

    name = "odd[1]*?/x"
    assert fnmatchcase(name, exact_glob(name))
    assert not fnmatchcase("odd1ab/x", exact_glob(name))


def test_what_a_run_would_measure(folder):
    found = planned(["tiny.toml", *RUN])
    assert [task.key.algorithm for task in found.tasks] == ["quick"]
    assert found.files == {"mine": "./mine.py:Mine"}
    assert found.header["command"][1:3] == ["run", "tiny.toml"]

"""Baselines: rows of another run in the place of their own."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from stored import row, run, times

from convbench.baseline import notes, update
from convbench.cli import main
from convbench.cli.run import run_silently
from convbench.errors import InputError, NotComparableError
from convbench.journal import content, fold, read_run
from convbench.result import Status

COMMAND = {"command": ["convbench", "run", "s"], "created": "2026-01-01T00:00:00Z"}


def named(name, factor=1.0, **options):
    return row(times(factor), name=name, processes=3, **options)


def stored(*rows, **header):
    return run(*rows, **COMMAND, **header)


def by_name(run):
    return {row.key.case.name: row.time_s for row in run.rows}


BASE = stored(named("a"), named("b"), named("c"))


def test_only_what_matches_is_replaced():
    new = stored(named("a", 2), named("c", 2), named("c2", 2))
    found = update(BASE, new, ["s/c*"], "tiles", "now")
    assert by_name(found.run) == pytest.approx({"a": 1.001e-3, "b": 1.001e-3, "c": 2.002e-3, "c2": 2.002e-3})
    assert (found.replaced, found.added, found.dropped, found.kept) == (1, 1, 0, 2)
    (record,) = found.run.header["updates"]
    assert (record["reason"], record["filter"], record["replaced"]) == ("tiles", ["s/c*"], 1)


def test_what_matches_and_is_not_measured_any_more_is_dropped():
    found = update(BASE, stored(named("a", 2)), [], "b and c are gone", "now")
    assert [*by_name(found.run)] == ["a"]
    assert found.dropped == 2


def test_each_update_is_kept():
    once = update(BASE, stored(named("a", 2)), ["a"], "first", "day 1").run
    twice = update(once, stored(named("a", 3), named("b"), named("c")), [], "second", "day 2").run
    assert notes(twice.header) == [
        "updated day 1: first (1 row replaced, 0 added, 0 dropped)",
        "updated day 2: second (3 rows replaced, 0 added, 0 dropped)",
    ]


@pytest.mark.parametrize(
    ("new", "globs", "error", "text"),
    [
        (stored(named("a")), ["z*"], InputError, "no row of the new run matches --filter z"),
        (
            stored(row(name="a", processes=1)),
            [],
            InputError,
            "the new run is no baseline: s/a fprop .* from 1 processes",
        ),
        (stored(row((), name="a", status=Status.WRONG, reason="off")), [], InputError, "is wrong: off"),
        (stored(named("a"), method=1), [], NotComparableError, "method version was 2, is now 1"),
        (
            replace(stored(named("a")), canaries={"cpu": ({"compute": 2e-3},)}),
            ["a"],
            NotComparableError,
            "compute × 2.000",
        ),
    ],
)
def test_what_cannot_be_a_part_of_a_baseline(new, globs, error, text):
    with pytest.raises(error, match=text):
        update(BASE, new, globs, "x", "now")


def test_rows_that_the_command_does_not_measure_are_refused():
    """Else each later check would miss them."""
    new = stored(named("a", algorithm="fft"))
    with pytest.raises(InputError, match=r"the baseline's command does not measure s/a fprop .* cpu:fft"):
        update(BASE, new, ["a"], "x", "now")
    assert update(BASE, new, [], "all of them", "now").added == 1


@pytest.mark.parametrize("junk", ["5", "null", "[1]", '[{"date": 1}]', '"x"', '{"a": 1}'])
def test_a_record_of_updates_that_is_damaged(junk, tmp_path):
    from convbench.journal import SCHEMA_VERSION

    header = {"type": "header", "schema_version": SCHEMA_VERSION, "seed": 0, **BASE.header, "updates": json.loads(junk)}
    with pytest.raises(InputError, match=r"x:1: damaged line .updates"):
        fold(json.dumps(header).encode() + b"\n", "x")


def test_all_rows_may_come_from_another_state_of_the_machine():
    new = replace(stored(named("a"), named("b"), named("c")), canaries={"cpu": ({"compute": 2e-3},)})
    assert update(BASE, new, [], "cooler", "now").run.canaries == {"cpu": ({"compute": 2e-3},)}


def test_content_of_a_run_is_that_run():
    """Rows of every status, with and without rounds."""
    from convbench.journal import SCHEMA_VERSION

    rows = (
        replace(named("a"), stop_reason="precision"),
        row((), name="b", status=Status.UNSUPPORTED, reason="no"),
        row(name="c", status=Status.FAILED, reason="later"),
        row(name="d", status=Status.PARTIAL),
    )
    header = {
        "type": "header", "schema_version": SCHEMA_VERSION, "seed": 0, **COMMAND, **run().header,
    }  # fmt: skip
    before = replace(run(*rows), header=header)
    after = fold(content(before), "x")
    assert after.rows == before.rows
    assert after.canaries == before.canaries
    assert after.header == header


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "new"):
        arguments = ["smoke", "-b", "cpu:gemm", "--filter", "line", "--pass", "fprop", "--max-time", "20ms",
                   "--processes", "3", "--no-ceilings", "-o", f"{name}.jsonl"]  # fmt: skip
        assert run_silently(arguments) == 0
        path = tmp_path / f"{name}.jsonl"
        changed = read_run(path)
        # The same machine state for both: what the canaries of this one say is not what is tested.
        path.write_bytes(content(replace(changed, canaries={"cpu": ({"compute": 1e-3},)})))
    return tmp_path


def test_the_command(files):
    base = files / "base.jsonl"
    before = base.read_bytes()
    call = ["baseline", "update", "base.jsonl", "new.jsonl"]
    assert "Missing option '--reason'" in CliRunner().invoke(main, call).stderr
    assert CliRunner().invoke(main, [*call, "--reason", " "]).exit_code == 1
    assert CliRunner().invoke(main, [*call, "--reason", "x" * 501]).exit_code == 1
    assert CliRunner().invoke(main, [*call, "--reason", "\x1b\x01"]).exit_code == 1
    assert CliRunner().invoke(main, [*call, "--reason", "x", "--filter", "nothing"]).exit_code == 1
    assert base.read_bytes() == before
    result = CliRunner().invoke(main, [*call, "--reason", "smaller\ntiles"])
    assert result.exit_code == 0
    assert "doubtful times (disturbed, drifting, of few rounds) in" in result.stderr or not result.stderr
    assert "row replaced, 0 added, 0 dropped, 0 kept" in result.stdout
    assert json.loads(base.read_text().splitlines()[0])["updates"][0]["reason"] == "smaller tiles"
    shown = CliRunner().invoke(main, ["show", "base.jsonl"])
    assert "smaller tiles" in shown.stdout

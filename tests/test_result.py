"""The journal: what is written is what is read; what is damaged is one clear error."""

import errno
import json
import math
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convbench.backends import Sample
from convbench.errors import ConvbenchError, InputError
from convbench.journal import (
    SCHEMA_VERSION,
    UPGRADES,
    Journal,
    canary_line,
    case_line,
    failure_line,
    fold,
    phases_line,
    read_run,
    round_line,
)
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.render import render
from convbench.render.results import backends_table, row_facts, rows_table
from convbench.result import BROKEN, Row, RowKey, Status
from convbench.timing import Round
from convbench.verify import Verification
from convbench.work import Phase, Work, nominal_flops

GOLDEN = Path(__file__).parent / "data" / "run-v5.jsonl"
"""A run of schema version 5, written once by hand; never regenerated. Those of older versions lie beside it."""
CONTENT = GOLDEN.read_bytes()
LINES = CONTENT.splitlines(keepends=True)
HEADER = json.loads(LINES[0])

PROBLEM = Problem(batch=2, in_channels=4, out_channels=6, groups=2, input_size=(5, 6, 7), filter_size=(3, 2, 1),
                  stride=(1, 2, 3), dilation=(2, 1, 1), padding=((1, 0), (0, 2), (2, -1)))  # fmt: skip
KEY = RowKey(
    case=Case(suite="s", name="p", problem=PROBLEM, conv_pass=ConvPass.FPROP, dtype=Dtype.FP64,
              math_mode=MathMode.FP64, layout=Layout.NHWC, epilogue=Epilogue.BIAS_RELU, repeat=3),
    backend="cpu", algorithm="auto", device="cpu", cache="cold", threads=7, accuracy=1e-6,
    workspace_limit_bytes=1 << 20,
)  # fmt: skip
WORK = Work(
    (
        Phase(name="gather", flops=0, bytes_read=20, bytes_written=30, footprint_bytes=50, launches=1),
        Phase(name="product", flops=200, bytes_read=40, bytes_written=10, footprint_bytes=50, launches=1),
    )
)
VERIFICATION = {
    "passed": True, "reason": "", "max_error": 2e-7, "rms_error": 1e-7, "bound_share": 0.25, "compared": 9,
    "contracted_axis": "k", "contracted_length": 1,
}  # fmt: skip
ROW = Row(
    key=KEY, status=Status.PARTIAL, resolved="fft", plan_s=0.5, first_call_s=0.25, floor_s=2.5e-5, workspace_bytes=64,
    work=WORK, verification=VERIFICATION, build_s=0.375, notes=("FFT", "RUNTIME_COMPILATION"),
)  # fmt: skip
FLAGGED = Round(3, (Sample(0.25, 0.125), Sample(0.5, None, ("switched", "pressure")), Sample(1.0, 2.0)), process=4,
                meters={"energy_j": 0.5, "window_s": 2.0})  # fmt: skip


def encode(*lines):
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def written(*lines, header=HEADER):
    """The run that a header and these lines make."""
    return fold(encode(header, *lines), "test.jsonl")


def raises_about(content, *parts):
    with pytest.raises(InputError) as caught:
        fold(content, "run.jsonl")
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


# Round trips


def test_every_kind_of_line_survives_the_journal(tmp_path):
    path = tmp_path / "new" / "folder" / "run.jsonl"
    header = {key: value for key, value in HEADER.items() if key not in {"type", "schema_version"}}
    other = replace(ROW, key=replace(KEY, algorithm="fft"))
    refused = Row(key=replace(KEY, algorithm="gemm"), status=Status.SKIPPED, reason="too large")
    journal = Journal.create(path, header)
    journal.append(case_line(0, ROW))
    journal.append(case_line(1, other))
    journal.append(case_line(2, refused))
    journal.append(canary_line(0, "cpu", {"compute": 0.5, "memory": 0.25}))
    journal.append(round_line(0, 0, FLAGGED, None))
    journal.append(phases_line(0, 0, [[0.5, 0.25], [0.75, 0.25]]))
    journal.append(phases_line(0, 1, [[0.5, 1.0]]))
    journal.append(round_line(0, 1, Round(1, (Sample(2.0, 1.0),)), "stalled"))
    journal.append(failure_line(1, Status.FAILED, "RuntimeError: broke"))
    journal.close()

    run = read_run(path)
    assert run.header == {"type": "header", "schema_version": SCHEMA_VERSION, **header}
    assert run.rows == (
        replace(
            ROW,
            status=Status.OK,
            rounds=(FLAGGED, Round(1, (Sample(2.0, 1.0),))),
            stop_reason="stalled",
            phases=((0.5, 0.25), (0.75, 0.25), (0.5, 1.0)),
        ),
        replace(other, status=Status.FAILED, reason="RuntimeError: broke"),
        refused,
    )
    assert run.canaries == {"cpu": ({"compute": 0.5, "memory": 0.25},)}
    assert run.note == ""
    assert run.end == path.stat().st_size
    assert run.next_row == 3
    assert journal.run() == run  # without the file


def test_memory_is_that_of_the_rows_not_of_the_file(tmp_path):
    """A row that is measured anew a thousand times is one row."""
    path = tmp_path / "run.jsonl"
    line = encode(case_line(0, replace(ROW, reason="long " * 500)))
    path.write_bytes(encode(HEADER) + line * 1000)
    tracemalloc.start()
    try:
        assert len(read_run(path).rows) == 1
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


def test_each_line_is_stored_before_append_returns(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal.create(path, HEADER)
    for index in range(3):
        journal.append(canary_line(index, "cpu", {"compute": 1.0}))
        assert path.read_bytes().count(b"\n") == index + 2
        assert len(read_run(path).canaries["cpu"]) == index + 1
    journal.close()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layout", list(Layout))
def test_a_key_survives_with_its_layout_by_name(ndim, layout):
    problem = Problem(batch=1, in_channels=1, out_channels=1, input_size=(3,) * ndim, filter_size=(1,) * ndim)
    key = replace(KEY, case=replace(KEY.case, problem=problem, layout=layout))
    line = case_line(0, replace(ROW, key=key))
    assert line["key"]["case"]["layout"] == layout.name_for(ndim)
    read = written(line).rows[0].key
    assert read == key
    assert hash(read) == hash(key)


def test_a_label_names_case_backend_and_algorithm():
    assert KEY.label() == "s/p fprop fp64 ndhwc bias+relu cpu:auto cold"


@pytest.mark.parametrize(
    ("device", "name"), [("cpu", "b:fft"), ("", "b:fft"), ("cuda:0", "b:fft"), ("cuda:1", "b:fft@cuda:1")]
)
def test_a_device_is_named_where_it_is_not_the_first_of_its_kind(device, name):
    key = replace(KEY, backend="b", algorithm="fft", device=device)
    assert key.name == name
    assert key.label() == f"s/p fprop fp64 ndhwc bias+relu {name} cold"


def test_there_is_no_nan_in_a_file(tmp_path):
    """A wrong result may be infinitely far beyond its bound, where nothing is allowed."""
    row = replace(
        ROW, status=Status.WRONG, verification=VERIFICATION | {"bound_share": math.inf, "max_error": math.nan}
    )
    path = tmp_path / "run.jsonl"
    journal = Journal.create(path, HEADER)
    journal.append(case_line(0, row))
    journal.close()
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    read = read_run(path).rows[0].verification
    assert (read["bound_share"], read["max_error"], read["rms_error"]) == (None, None, 1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_journal_refuses_to_write_nan(tmp_path, value):
    journal = Journal.create(tmp_path / "run.jsonl", HEADER)
    with pytest.raises(ValueError, match="JSON"):
        journal.append(canary_line(0, "cpu", {"compute": value}))
    journal.close()
    assert read_run(tmp_path / "run.jsonl").rows == ()  # and nothing of the line is in the file


def test_numpy_numbers_of_a_backend_are_written_as_numbers(tmp_path):
    phase = Phase(name="all", flops=np.int64(7), bytes_read=np.int32(1), bytes_written=2, footprint_bytes=3)
    journal = Journal.create(tmp_path / "run.jsonl", HEADER)
    journal.append(case_line(0, replace(ROW, work=Work((phase,)), workspace_bytes=np.int64(5))))
    journal.append(round_line(0, 0, Round(1, (Sample(np.float32(0.5)),)), None))
    journal.close()
    row = read_run(tmp_path / "run.jsonl").rows[0]
    assert (row.work.executed_flops, row.workspace_bytes, row.time_s) == (7, 5, 0.5)


def test_phases_are_their_median_over_runs():
    row = replace(ROW, phases=((1.0, 5.0), (3.0, 4.0), (2.0, 6.0)))
    assert row.phases_s == (2.0, 5.0)
    assert ROW.phases_s is None


@pytest.mark.parametrize(
    "seconds", [[[1.0]], [[1.0, 2.0, 3.0]], [[1.0, -1.0]], [[1.0, 1e13]], [[1.0, "2"]], [1.0], [[]]]
)
def test_phases_that_are_not_those_of_the_work_are_damage(seconds):
    with pytest.raises(InputError, match="damaged line"):
        written(case_line(0, ROW), {"type": "phases", "row": 0, "process": 0, "seconds": seconds})


def test_phases_of_a_row_that_is_finished_are_damage():
    with pytest.raises(InputError, match="row 0 is ok: nothing can follow"):
        written(case_line(0, ROW), round_line(0, 0, FLAGGED, "precision"), phases_line(0, 0, [[1.0, 2.0]]))


# Where it is written


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"run\.jsonl exists; --resume continues it, --force overwrites it"):
        Journal.create(path, HEADER)
    assert path.read_text() == "precious"
    Journal.create(path, HEADER, force=True).close()
    assert read_run(path).header == HEADER


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match=r"exists|directory"):
        Journal.create(tmp_path, HEADER)
    with pytest.raises(InputError, match="directory"):
        Journal.create(tmp_path, HEADER, force=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match=f"cannot create folder {tmp_path}/file"):
        Journal.create(tmp_path / "file" / "run.jsonl", HEADER)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        Journal.create(tmp_path / "run.jsonl", HEADER)


def test_a_refusal_of_the_system_is_one_clear_line(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for create in (lambda p: Journal.create(p, HEADER), lambda p: Journal.reopen(p, HEADER)):
        with pytest.raises(InputError, match=r"^cannot write .*run\.jsonl: Permission denied$"):
            create(tmp_path / "run.jsonl")


class FullFile:
    """A file on a disk with so much room: the write that fills it takes a part, the next one fails."""

    def __init__(self, path, room):
        self.name = str(path)
        self.file = path.open("ab", buffering=0)
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def test_a_full_disk_is_one_clear_line_and_leaves_whole_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(FullFile(path, room=len(LINES[0]) + 10))
    journal.append(HEADER)
    before = path.read_bytes()
    with pytest.raises(ConvbenchError) as caught:
        journal.append(canary_line(0, "cpu", {"compute": 0.5}))
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert len(journal.run().canaries["cpu"]) == 1  # the run has what the disk has not
    journal.close()
    assert path.read_bytes() == before


def test_what_could_not_be_synced_is_one_clear_line(tmp_path, monkeypatch):
    journal = Journal.create(tmp_path / "run.jsonl", HEADER)

    def refuse(_file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConvbenchError, match=r"^cannot write .*run\.jsonl: Input/output error$"):
        journal.append(canary_line(0, "cpu", {"compute": 0.5}))
    journal.close()


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


DEVICES = [Path(name) for name in ("/dev/zero", "/dev/full", "/dev/null") if Path(name).exists()]


def test_what_is_no_regular_file_is_neither_read_nor_written(pipe):
    for path in [*DEVICES, pipe]:
        for create in (
            lambda p: Journal.create(p, HEADER, force=True), lambda p: Journal.create(p, HEADER),
            lambda p: Journal.reopen(p, HEADER),
        ):  # fmt: skip
            with pytest.raises(InputError, match=rf"^cannot write {path}: it is not a regular file$"):
                create(path)
        with pytest.raises(InputError, match=rf"^cannot read {path}: it is not a regular file$"):
            read_run(path)


def test_a_file_without_end_is_refused_after_its_first_bytes(tmp_path):
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(InputError, match=r"zeros:1: not JSON: not a convbench result file$"):
        read_run(path)
    with pytest.raises(InputError, match=r"zeros:1: not JSON: not a convbench result file$"):
        Journal.reopen(path, HEADER)
    assert path.stat().st_size == 1 << 40


def test_a_deleted_file_loses_nothing_of_the_run(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal.create(path, HEADER)
    assert not journal.deleted()
    path.unlink()
    assert journal.deleted()
    journal.append(case_line(0, ROW))
    assert [row.key for row in journal.run().rows] == [KEY]
    path.write_text("another")
    assert journal.deleted()
    journal.close()
    assert path.read_text() == "another"


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal.create(path, HEADER)
    before = path.read_bytes()
    huge = Work((Phase(name="all", flops=10**400, bytes_read=1, bytes_written=2, footprint_bytes=3),))
    for line in (case_line(0, replace(ROW, work=huge)), round_line(0, 0, FLAGGED, None), {"type": "lap"}):
        with pytest.raises(InputError):
            journal.append(line)
    journal.close()
    assert path.read_bytes() == before


def test_reopening_cuts_an_unfinished_line_and_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(LINES[:10]) + LINES[10][:20])
    content = path.read_bytes()
    run = read_run(path)
    journal = Journal.reopen(path, HEADER)
    assert path.read_bytes() == content  # until there is something to append
    assert journal.run().rows == run.rows
    journal.append(canary_line(5, "cpu", {"compute": 0.5}))
    journal.close()
    again = read_run(path)
    assert again.note == ""
    assert again.rows == run.rows
    assert len(again.canaries["cpu"]) == 1


def test_reopening_a_file_that_lacks_its_last_newline(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(CONTENT.rstrip(b"\n"))
    run = read_run(path)
    assert run == fold(CONTENT, "x")
    journal = Journal.reopen(path, HEADER)
    journal.append(canary_line(5, "cpu", {"compute": 0.5}))
    journal.close()
    assert path.read_bytes().startswith(CONTENT)
    assert len(read_run(path).canaries["cpu"]) == len(run.canaries["cpu"]) + 1


# What the golden file folds into


def golden_rows():
    return {(row.key.case.name, str(row.key.case.conv_pass), row.key.backend, row.key.algorithm,
             row.key.case.precision): row for row in read_run(GOLDEN).rows}  # fmt: skip


def test_the_golden_file_holds_these_rows():
    assert {key: row.status for key, row in golden_rows().items()} == {
        ("a", "fprop", "cpu", "gemm", "fp32"): "ok",
        ("a", "fprop", "cpu", "fft", "fp32"): "wrong",
        ("a", "fprop", "cpu", "auto", "fp32"): "ok",
        ("a", "fprop", "gpu", "auto", "fp32"): "unavailable",
        ("a", "fprop", "cpu", "gemm", "bf16"): "unsupported",
        ("b", "fprop", "cpu", "gemm", "fp32"): "partial",
        ("b", "fprop", "cpu", "fft", "fp32"): "skipped",
        ("b", "fprop", "cpu", "direct", "fp32"): "failed",
        ("b", "dgrad", "cpu", "gemm", "fp32"): "out_of_memory",
    }


def test_the_golden_run_as_a_whole():
    run = read_run(GOLDEN)
    assert run.header == HEADER
    assert run.canaries == {
        "cpu": (
            {"compute": 0.0005, "memory": 0.002},
            {"compute": 0.00055, "memory": 0.0021},
            {"compute": 0.0005, "memory": 0.002},
        )
    }
    assert (run.note, run.end, run.next_row) == ("", len(CONTENT), 10)
    # In the order of their indices, which is the order asked for, not of the lines: refused rows are written first.
    assert [row.key.case.name for row in run.rows] == ["a"] * 5 + ["b"] * 4


def test_a_timed_row_of_the_golden_file():
    row = golden_rows()["a", "fprop", "cpu", "gemm", "fp32"]
    assert row.key.case.problem == Problem(
        batch=1, in_channels=1, out_channels=1, input_size=(5, 5), filter_size=(3, 3)
    )
    assert (row.key.device, row.key.cache, row.key.threads, row.key.case.repeat) == ("cpu", "warm", 2, 1)
    assert (row.resolved, row.plan_s, row.first_call_s, row.workspace_bytes) == ("gemm", 0.5, 0.25, 64)
    assert row.work == WORK
    assert row.verification == VERIFICATION
    assert row.reason == ""
    assert row.stop_reason == "max_time"
    # Two launches a sample; the first round has 0.002, 0.004 and a flagged 0.1; the second none without a flag.
    assert row.values == (0.0015, 0.001, 0.002, 0.0015, 0.001, 0.002)
    assert row.rounds[0].samples[2] == Sample(0.1, 0.1, ("switched",))
    assert row.rounds[1].samples == (Sample(0.002, 0.002, ("preempted", "pressure")),)
    assert row.disturbed_rounds == 1
    assert row.time_s == 0.0015
    assert row.interval_s == (0.001, 0.002)
    assert row.effective_flop_per_s == pytest.approx(162 / 0.0015)
    assert row.executed_flop_per_s == pytest.approx(200 / 0.0015)


def test_a_row_of_few_rounds_has_a_time_and_no_interval():
    row = golden_rows()["a", "fprop", "cpu", "auto", "fp32"]
    assert (row.key.algorithm, row.resolved) == ("auto", "gemm")
    assert row.values == (0.003, 0.004, 0.005)
    assert row.time_s == 0.004
    assert row.interval_s is None
    assert row.rounds[2].samples == (Sample(0.005, None),)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (("a", "fprop", "cpu", "fft", "fp32"), "(1 of 9 beyond)"),
        (("a", "fprop", "gpu", "auto", "fp32"), 'pip install "convbench[cuda13]"'),
        (("a", "fprop", "cpu", "gemm", "bf16"), "NumPy has no bf16 arithmetic"),
        (("b", "fprop", "cpu", "fft", "fp32"), "--max-memory is 1000 B"),
        (("b", "fprop", "cpu", "direct", "fp32"), "RuntimeError: lost the device (mine.py:7)"),
        (("b", "dgrad", "cpu", "gemm", "fp32"), "MemoryError: no room [/fft]"),
    ],
)
def test_a_row_that_broke_or_was_refused_has_a_reason_and_no_time(key, reason):
    row = golden_rows()[key]
    assert reason in row.reason
    assert (row.time_s, row.interval_s, row.effective_flop_per_s, row.executed_flop_per_s) == (None,) * 4


def test_a_wrong_row_keeps_its_errors():
    row = golden_rows()["a", "fprop", "cpu", "fft", "fp32"]
    assert (row.resolved, row.rounds) == ("fft-8", ())
    assert (row.verification["passed"], row.verification["max_error"]) == (False, 0.5)


def test_a_row_that_failed_while_timed_keeps_its_samples_but_has_no_time():
    row = golden_rows()["b", "fprop", "cpu", "direct", "fp32"]
    assert row.values == (0.004,)
    assert row.time_s is None


def test_of_a_key_measured_again_the_later_row_counts():
    """Row 5 of the golden file had one round when the run ended; row 9 is the same key, resumed."""
    row = golden_rows()["b", "fprop", "cpu", "gemm", "fp32"]
    assert row.status is Status.PARTIAL
    assert row.values == (0.001, 0.002)
    assert row.time_s == 0.0015
    assert row.stop_reason is None


def test_a_later_row_counts_though_it_broke():
    run = written(
        case_line(0, ROW), round_line(0, 0, FLAGGED, None), case_line(1, ROW), failure_line(1, Status.FAILED, "broke")
    )
    assert [(row.status, row.time_s) for row in run.rows] == [(Status.FAILED, None)]
    assert run.next_row == 2


def test_broken_statuses_are_those_of_exit_code_6():
    assert {"wrong", "failed", "out_of_memory", "timeout"} == BROKEN
    assert {*Status} - BROKEN == {"ok", "partial", "unsupported", "unavailable", "skipped"}


# A file that was cut


def rows_of(content):
    return fold(content, "x").rows


@pytest.mark.parametrize("count", range(len(LINES) - 4, len(LINES)))
def test_cut_at_any_byte_of_its_last_lines_the_rest_is_intact(count):
    before = b"".join(LINES[:count])
    whole = fold(before, "run.jsonl")
    for cut in range(len(LINES[count]) - 1):
        run = fold(before + LINES[count][:cut], "run.jsonl")
        assert (run.header, run.rows, run.canaries) == (whole.header, whole.rows, whole.canaries)
        assert run.end == len(before)
        assert run.next_row == whole.next_row
        assert run.note == (f"the last line ({count + 1}) is unfinished and was left out" if cut else "")
    unended = fold(before + LINES[count][:-1], "run.jsonl")  # only the newline is missing: nothing is lost
    assert unended.rows == rows_of(before + LINES[count])
    assert unended.end == len(before) + len(LINES[count]) - 1


@pytest.mark.parametrize("index", range(0, len(LINES), 3), ids=lambda i: json.loads(LINES[i])["type"] + str(i))
def test_cut_in_any_line_of_any_kind(index):
    before = b"".join(LINES[:index])
    for cut in range(1, len(LINES[index]) - 1, 7):
        content = before + LINES[index][:cut]
        if index == 0:
            raises_about(content, "run.jsonl holds no run: it has no header line")
        else:
            assert rows_of(content) == rows_of(before)


@pytest.mark.parametrize("content", [b"", b"{", LINES[0][:-2]])
def test_a_file_without_a_header_holds_no_run(content):
    raises_about(content, "run.jsonl holds no run: it has no header line")


@pytest.mark.parametrize(
    "content", [b"\xff", b"hello", b"hello\n", b"\n", b"{]\n", b"\x00" * 100, "é\n".encode("utf-16-le")]
)
def test_another_kind_of_file_is_said_to_be_one(content):
    raises_about(content, "run.jsonl:1: not JSON: not a convbench result file")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named(encoding):
    text = "run.jsonl:1: it begins with a byte order mark (save it as UTF-8 without one): not a convbench result file"
    raises_about(CONTENT.decode().encode(encoding), text)


def test_what_is_nested_too_deeply_is_named():
    nested = LINES[0].rstrip()[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    raises_about(nested + CONTENT, "run.jsonl:1: nested too deeply: not a convbench result file")


def test_a_header_has_a_longest_length_to_read_and_to_write(tmp_path):
    path = tmp_path / "run.jsonl"
    for length, text in ((1 << 19, None), (1 << 20, "longer than 1.00 MiB: not a convbench result file")):
        more = {**HEADER, "command": ["x" * length]}
        header = {"type": "header", "schema_version": SCHEMA_VERSION, **more}
        content = json.dumps(header, separators=(",", ":")).encode() + b"\n"
        if text is None:
            assert fold(content, "run.jsonl").header["command"] == more["command"]
            Journal.create(path, more, force=True).close()
            continue
        raises_about(content, f"run.jsonl:1: {text}")
        with pytest.raises(InputError, match="a line that could not be read again is not written: it is too long"):
            Journal.create(path, more, force=True)
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"run\.jsonl:1: longer than 1\.00 MiB"):
            Journal.reopen(path, more)


def test_a_line_that_is_too_long_is_damage(monkeypatch):
    monkeypatch.setattr("convbench.journal.LONGEST_LINE", max(map(len, LINES[1:])))
    assert fold(CONTENT, "run.jsonl").rows
    content = CONTENT + b'{"type":"canary","round":9,"seconds":{},"more":"' + b"x" * 4000 + b'"}\n'
    raises_about(content, f"run.jsonl:{len(LINES) + 1}: longer than ")


def test_an_unfinished_line_is_forgiven_only_at_the_end():
    content = b"".join(LINES[:5]) + LINES[5][:40] + b"\n" + b"".join(LINES[6:])
    raises_about(content, "run.jsonl:6: not JSON: the file is damaged")


# Other damage


def altered(index, **changes):
    """The golden file with fields of one line replaced; a value of ... removes it."""
    entry = json.loads(LINES[index]) | changes
    entry = {key: value for key, value in entry.items() if value is not ...}
    return b"".join([*LINES[:index], encode(entry), *LINES[index + 1 :]])


def nth(kind, position=0):
    return [i for i, line in enumerate(LINES) if json.loads(line)["type"] == kind][position]


CASE, PLANNED, ROUND, FAILURE, CANARY = nth("case"), nth("case", 3), nth("round"), nth("failure"), nth("canary")


def deep(index, path, value):
    """The golden file with one nested field of a line replaced, or removed by ... ."""
    entry = json.loads(LINES[index])
    *folders, last = path.split(".")
    inner = entry
    for name in folders:
        inner = inner[int(name) if isinstance(inner, list) else name]
    last = int(last) if isinstance(inner, list) else last
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return b"".join([*LINES[:index], encode(entry), *LINES[index + 1 :]])


DAMAGE = {
    "line is a list": (ROUND, None, []),
    "line is a number": (ROUND, None, 5),
    "line is null": (CASE, None, None),
    "line is text": (CANARY, None, "canary"),
    "no type": (ROUND, "type", ...),
    "unknown type": (ROUND, "type", "lap"),
    "type is a list": (ROUND, "type", []),
    "second header": (CASE, "type", "header"),
    "no row": (ROUND, "row", ...),
    "row is text": (CASE, "row", "0"),
    "row is a fraction": (CASE, "row", 0.5),
    "row is true": (CASE, "row", True),
    "row is a list": (CASE, "row", [0]),
    "round of no row": (ROUND, "row", 99),
    "round of a wrong row": (ROUND, "row", 1),
    "round of a skipped row": (ROUND, "row", 6),
    "failure of no row": (FAILURE, "row", 99),
    "failure of an unknown status": (FAILURE, "status", "sad"),
    "failure without a reason": (FAILURE, "reason", None),
    "more wall than cpu": (ROUND, "cpu_s", [0.1]),
    "more cpu than wall": (ROUND, "wall_s", [0.1]),
    "no samples": (ROUND, "samples", None),
    "wall is text": (ROUND, "wall_s", ["fast", 1, 1]),
    "wall is null": (ROUND, "wall_s", [None, 1, 1]),
    "wall is negative": (ROUND, "wall_s", [-1, 1, 1]),
    "wall is huge": (ROUND, "wall_s", [10**400, 1, 1]),
    "wall is no list": (ROUND, "wall_s", {"0": 1}),
    "cpu is text": (ROUND, "cpu_s", ["fast", 1, 1]),
    "no launches": (ROUND, "launches", 0),
    "too many launches": (ROUND, "launches", 2**31),
    "process is text": (ROUND, "process", "one"),
    "process is negative": (ROUND, "process", -1),
    "no process": (ROUND, "process", ...),
    "repeat is too much": (CASE, "key.case.repeat", 10**90),
    "repeat is 0": (CASE, "key.case.repeat", 0),
    "backend has an escape code": (CASE, "key.backend", "c\x1bpu"),
    "name has a newline": (CASE, "key.case.name", "a\nb"),
    "error is infinite": (PLANNED, "verification.rms_error", 10**101),
    "launches are text": (ROUND, "launches", "2"),
    "flags are a list": (ROUND, "flags", []),
    "flags are numbers": (ROUND, "flags", {"0": 3}),
    "flags of no sample": (ROUND, "flags", {"3": ["switched"]}),
    "flags by name": (ROUND, "flags", {"first": ["switched"]}),
    "stop is a number": (ROUND, "stop", 1),
    "no meters": (ROUND, "meters", ...),
    "meters are a list": (ROUND, "meters", []),
    "a meter is text": (ROUND, "meters.power_w", "much"),
    "a meter is huge": (ROUND, "meters.power_w", 10**101),
    "no notes": (PLANNED, "notes", ...),
    "notes are text": (PLANNED, "notes", "FFT"),
    "a note is a number": (PLANNED, "notes", [1]),
    "build_s is text": (PLANNED, "build_s", "fast"),
    "no limit of workspaces": (CASE, "key.workspace_limit_bytes", ...),
    "a limit is text": (CASE, "key.workspace_limit_bytes", "1MiB"),
    "a limit is below 0": (CASE, "key.workspace_limit_bytes", -1),
    "status is unknown": (CASE, "status", "fine"),
    "status is null": (CASE, "status", None),
    "no reason": (CASE, "reason", ...),
    "reason is a number": (CASE, "reason", 3),
    "resolved is a list": (PLANNED, "resolved", ["gemm"]),
    "plan_s is text": (PLANNED, "plan_s", "fast"),
    "workspace is a table": (PLANNED, "workspace_bytes", {}),
    "work is a table": (PLANNED, "work", {}),
    "work lacks flops": (PLANNED, "work.0.flops", ...),
    "work has text for flops": (PLANNED, "work.0.flops", "many"),
    "work is too much": (PLANNED, "work.0.flops", 10**400),
    "work has a negative count": (PLANNED, "work.0.launches", -1),
    "work has an unknown field": (PLANNED, "work.0.extra", 1),
    "verification is a list": (PLANNED, "verification", []),
    "error is text": (PLANNED, "verification.rms_error", "small"),
    "no key": (CASE, "key", ...),
    "key has an unknown field": (CASE, "key.colour", "red"),
    "key lacks the backend": (CASE, "key.backend", ...),
    "backend is a list": (CASE, "key.backend", ["cpu"]),
    "threads are a list": (CASE, "key.threads", [1]),
    "case has an unknown field": (CASE, "key.case.colour", "red"),
    "pass is unknown": (CASE, "key.case.conv_pass", "sideways"),
    "dtype and math mode do not go together": (CASE, "key.case.dtype", "fp64"),
    "layout is unknown": (CASE, "key.case.layout", "whcn"),
    "layout is a number": (CASE, "key.case.layout", 3),
    "repeat is text": (CASE, "key.case.repeat", "often"),
    "epilogue of a backward pass": (nth("case", 8), "key.case.epilogue", "bias"),
    "problem is a list": (CASE, "key.case.problem", []),
    "problem lacks a field": (CASE, "key.case.problem.batch", ...),
    "problem has an unknown field": (CASE, "key.case.problem.colour", 1),
    "problem is impossible": (CASE, "key.case.problem.filter_size", [9, 9]),
    "problem is text": (CASE, "key.case.problem.input_size", "55"),
    "a canary of no device": (CANARY, "device", ...),
    "a canary's device is a number": (CANARY, "device", 1),
    "canary is text": (CANARY, "seconds", "fast"),
    "canary has text": (CANARY, "seconds.compute", "fast"),
    "canary is huge": (CANARY, "seconds.compute", 10**400),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_an_error_with_its_line_number(name):
    index, path, value = DAMAGE[name]
    if path == "samples":  # both lists emptied, which no change of one field does
        content = altered(index, wall_s=[], cpu_s=[])
    elif path is None:
        content = b"".join([*LINES[:index], encode(value), *LINES[index + 1 :]])
    else:
        content = deep(index, path, value)
    raises_about(content, f"run.jsonl:{index + 1}: ")


@pytest.mark.parametrize(
    ("token", "said"),
    [(b"NaN", "not JSON"), (b"Infinity", "not JSON"), (b"-Infinity", "not JSON"),
     (b"1e999", "(wall_s[2]: Number out of range)"), (b"-1", "(wall_s[2]: Expected float >= 0.0)"),
     (b"1e13", "(wall_s[2]: Expected float <= 1000000000000.0)"), (b"true", "(wall_s[2]: Expected float, got bool)"),
     (b"1e-300", "(wall_s: 1e-300 is less than 1e-15, and not 0)")],
)  # fmt: skip
def test_a_number_that_is_no_time_is_damage(token, said):
    content = CONTENT.replace(b"[0.002,0.004,0.1]", b"[0.002,0.004," + token + b"]", 1)
    assert content != CONTENT
    raises_about(content, f"run.jsonl:{ROUND + 1}: ", said)


def test_blank_and_foreign_lines_are_damage():
    raises_about(CONTENT + b"\n", f"run.jsonl:{len(LINES) + 1}: not JSON")
    raises_about(b"\n" + CONTENT, "run.jsonl:1: not JSON")
    raises_about(CONTENT + b"\xff\xff\n", f"run.jsonl:{len(LINES) + 1}: not JSON")
    raises_about(CONTENT + b'{"a":' + b"[" * 100_000 + b"\n", f"run.jsonl:{len(LINES) + 1}: nested too deeply")
    for foreign in (b'"\xff"', b"NaN", b"\x00", b"[" * 100_000):  # in what is left out
        content = CONTENT.replace(b'"type":"round",', b'"type":"round","more":' + foreign + b",", 1)
        raises_about(content, f"run.jsonl:{ROUND + 1}: {'nested' if foreign[0] == ord('[') else 'not JSON'}")


def test_a_negative_result_is_a_negative_number_in_its_message():
    message = raises_about(deep(CASE, "key.case.problem.batch", -1), f"run.jsonl:{CASE + 1}: ")
    assert message.endswith("batch must be >= 0, got -1")


# Headers


HEADER_DAMAGE = {
    "not the header first": ({"type": "case"}, "expected the header, got a line of type 'case'"),
    "no version": ({"schema_version": ...}, "the header has no schema_version: this is not a convbench result file"),
    "newer": ({"schema_version": 99}, f"written by a newer convbench (schema version 99, this one reads up to "
              f"{SCHEMA_VERSION}): upgrade"),
    "older": ({"schema_version": 0}, "schema version 0 is too old for this convbench: measure again"),
    "text": ({"schema_version": "1"},  "schema version '1'"),
    "true": ({"schema_version": True}, "schema version True"),
    "fraction": ({"schema_version": 1.5}, "schema version 1.5"),
    "null": ({"schema_version": None}, "no schema_version"),
    "no suites": ({"suites": ...}, "suites"),
    "suites are names": ({"suites": ["tiny"]}, "suites[0]"),
    "a suite without a hash": ({"suites": [{"name": "tiny"}]}, "sha256"),
    "suites are text": ({"suites": "tiny"}, "suites"),
    "devices are a list": ({"devices": []}, "devices"),
    "a device is text": ({"devices": {"cpu": "fast"}}, "devices.cpu"),
    "a device without fingerprint": ({"devices": {"cpu": {"machine": {}}}}, "fingerprint"),
    "environment is null": ({"environment": None}, "environment"),
    "environment without libraries": ({"environment": {"blas": []}}, "libraries"),
    "blas is a table": ({"environment": {"libraries": {}, "blas": {}}}, "blas"),
    "options are null": ({"options": None}, "options"),
    "seed is text": ({"seed": "0"}, "seed"),
    "created is a number": ({"created": 3}, "created"),
    "command is text": ({"command": "convbench run"}, "command"),
    "version is a number": ({"convbench_version": 1}, "convbench_version"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADER_DAMAGE)
def test_a_header_says_what_is_wrong_with_it(name):
    changes, expected = HEADER_DAMAGE[name]
    raises_about(altered(0, **changes), "run.jsonl:1: ", expected)


def test_a_file_of_rows_without_header():
    raises_about(b"".join(LINES[1:]), "run.jsonl:1: expected the header, got a line of type 'case'")


def test_a_header_may_hold_more_than_this_version_knows():
    run = fold(altered(0, extra={"a": 1}), "x")
    assert run.header["extra"] == {"a": 1}
    assert run.rows == read_run(GOLDEN).rows


def test_a_run_of_a_header_alone_has_no_rows():
    run = fold(LINES[0], "x")
    assert (run.rows, run.canaries, run.next_row, run.end) == ((), {}, 0, len(LINES[0]))


def as_version_4(row):
    """Knew neither notes of plans nor meters, and no limit of workspaces."""
    key = replace(row.key, workspace_limit_bytes=None)
    return replace(row, key=key, notes=(), build_s=None, rounds=tuple(replace(r, meters={}) for r in row.rounds))


def as_version_3(row):
    """Knew no floors."""
    return replace(as_version_4(row), floor_s=None)


def as_version_2(row):
    """Knew neither phases nor an accuracy other than the default."""
    row = as_version_3(row)
    accuracy = None if row.key.accuracy is None else 1e-5
    return replace(row, key=replace(row.key, accuracy=accuracy), phases=())


def as_version_1(row):
    """Knew one process only."""
    row = as_version_2(row)
    return replace(row, rounds=tuple(replace(r, process=0) for r in row.rounds))


@pytest.mark.parametrize(
    ("version", "without"), [(1, as_version_1), (2, as_version_2), (3, as_version_3), (4, as_version_4)]
)
def test_an_older_file_reads_as_this_version_does(version, without):
    old, new = read_run(GOLDEN.parent / f"run-v{version}.jsonl"), read_run(GOLDEN)
    assert [without(row) for row in new.rows] == [*old.rows]
    assert [*new.rows] != [*old.rows]
    assert (old.canaries, old.next_row) == (new.canaries, new.next_row)
    options = {name: value for name, value in new.header["options"].items() if name != "accuracy" or version > 2}
    assert old.header == new.header | {"schema_version": version, "options": options}


def test_the_golden_run_has_what_the_newest_version_added():
    rows = read_run(GOLDEN).rows
    assert {r.process for row in rows for r in row.rounds} == {0, 1}
    assert {row.key.accuracy for row in rows if row.key.algorithm == "auto"} == {1e-6}
    assert {row.key.accuracy for row in rows if row.key.algorithm != "auto"} == {None}
    assert [row.phases_s for row in rows if row.phases] == [(0.0005, 0.0011)]
    assert [row.floor_s for row in rows] == [2.5e-5] + [None] * 8
    assert [(row.notes, row.build_s) for row in rows if row.notes] == [(("TENSOR_CORE", "RUNTIME_COMPILATION"), 0.125)]
    assert [row.meter("power_w") for row in rows] == [400.0] + [None] * 8
    assert [row.key.workspace_limit_bytes for row in rows if row.key.backend == "gpu"] == [1 << 20]


def test_each_old_version_has_its_step_and_its_golden_file():
    assert set(UPGRADES) == set(range(1, SCHEMA_VERSION))
    for version in range(1, SCHEMA_VERSION + 1):
        path = GOLDEN.parent / f"run-v{version}.jsonl"
        assert json.loads(path.read_bytes().splitlines()[0])["schema_version"] == version
        assert read_run(path).rows


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "file/below.jsonl"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^cannot read "):
        read_run(tmp_path / name)


def test_an_empty_file_holds_no_run(tmp_path):
    (tmp_path / "run.jsonl").touch()
    with pytest.raises(InputError, match=r"run\.jsonl holds no run: it has no header line"):
        read_run(tmp_path / "run.jsonl")


# Texts for a terminal


EVIL = "one\n\x1b[31mtwo\r\x07\u202e\u2028\x9b"
CLEAN = r"one \x1b[31mtwo \x07\u202e \x9b"


def test_texts_of_a_file_are_printable():
    row = replace(ROW, reason=EVIL, resolved=EVIL, verification=VERIFICATION | {"reason": EVIL},
                  work=Work((replace(WORK.phases[0], name=EVIL),)))  # fmt: skip
    row = replace(row, notes=(EVIL,))
    flagged = Round(1, (Sample(1.0, None, (EVIL,)),), meters={EVIL: 1.0})
    header = HEADER | {"created": EVIL, "suites": [{"name": EVIL, "title": EVIL, "sha256": "0"}], EVIL: [EVIL]}
    other = replace(row, key=replace(KEY, threads=2))
    run = written(case_line(0, row), round_line(0, 0, flagged, EVIL), case_line(1, other),
                  failure_line(1, Status.FAILED, EVIL), header=header)  # fmt: skip
    first, second = run.rows
    assert (first.reason, first.resolved, first.stop_reason, second.reason) == (CLEAN,) * 4
    assert first.verification["reason"] == first.work.phases[0].name == first.rounds[0].samples[0].flags[0] == CLEAN
    assert (first.notes, first.rounds[0].meters) == ((CLEAN,), {CLEAN: 1.0})
    assert run.header["suites"][0]["name"] == run.header["created"] == CLEAN
    assert run.header[CLEAN] == [CLEAN]
    for output_format in ("table", "json", "csv", "markdown"):
        text = render([rows_table(run), backends_table(run)], output_format, width=100)
        assert text.replace("\n", "").isprintable()


def metered(rounds, window_s=0.3, energy_j=90.0, seconds=0.29, status=Status.OK):
    """A row of rounds of 29 runs each, at 300 W."""
    meters = {"window_s": window_s, "energy_j": energy_j}
    return replace(ROW, status=status, rounds=(Round(29, (Sample(seconds),), meters=meters),) * rounds)


def test_energy_of_a_run_is_its_time_at_the_mean_power():
    assert metered(4).energy_j == pytest.approx(0.01 * 300)
    mixed = metered(4)
    assert row_facts(mixed)["effective_flop_per_j"] == pytest.approx(nominal_flops(PROBLEM) / 3)
    assert row_facts(ROW)["effective_flop_per_j"] is None
    cooler = replace(mixed, rounds=(*mixed.rounds[:2], *metered(2, energy_j=60.0).rounds))
    assert cooler.energy_j == pytest.approx(0.01 * 250)


@pytest.mark.parametrize("row", [
    ROW, metered(3),  # 0.9 s
    metered(4, window_s=0.4),  # samples are less than 80 % of it
    metered(4, status=Status.WRONG),
    replace(metered(4), rounds=(Round(29, (Sample(0.29),), meters={"power_w": 300.0}),) * 4),
])  # fmt: skip
def test_energy_that_is_not_known(row):
    assert row.energy_j is None


def test_a_meter_is_the_median_of_the_rounds_that_have_it():
    rounds = [Round(1, (Sample(1.0),), meters=meters) for meters in ({"power_w": 1.0}, {}, {"power_w": 5.0})]
    assert replace(ROW, rounds=(*rounds, *rounds[:1])).meter("power_w") == 1.0
    assert ROW.meter("power_w") is None


def test_names_that_cannot_be_printed_are_refused_when_written(tmp_path):
    journal = Journal.create(tmp_path / "run.jsonl", HEADER)
    with pytest.raises(InputError, match=r"the name 'evil\\x1b\[0m' cannot be printed"):
        journal.append(case_line(0, replace(ROW, key=replace(KEY, backend="evil\x1b[0m"))))
    journal.close()


def test_verifications_keep_all_their_fields():
    found = Verification(passed=False, reason="r", max_error=1.5, rms_error=1.25, bound_share=2.0, compared=9,
                         contracted_axis="k", contracted_length=3)  # fmt: skip
    found = {name: 1e-5 if value is None else value for name, value in found.to_dict().items()}
    assert written(case_line(0, replace(ROW, verification=found))).rows[0].verification == found


def test_half_a_surrogate_pair_in_a_reason_is_written_as_text():
    row = replace(ROW, status=Status.SKIPPED, reason="no \ud800")
    assert written(case_line(0, row)).rows[0].reason == r"no \ud800"


def test_half_a_surrogate_pair_is_damage():
    broken = CONTENT.replace(b'"backend":"cpu"', rb'"backend":"\ud800"', 1)
    assert broken != CONTENT
    with pytest.raises(InputError, match="damaged line"):
        fold(broken, "run.jsonl")

"""Rows of a run under the ceilings in its header: which can be placed, why others cannot, and what may explain them."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.backends import Sample
from convbench.ceilings import Ceiling, Ceilings
from convbench.errors import InputError
from convbench.journal import fold
from convbench.placement import placed_row, placed_rows, run_ceilings
from convbench.problem import Case, ConvPass, Dtype, MathMode, Problem
from convbench.render import render
from convbench.render.bounds import bounds_table
from convbench.render.results import rows_table, totals_table
from convbench.result import COLD, Row, RowKey, Status
from convbench.roofline import Bound, Flag
from convbench.timing import Round
from convbench.work import Phase, Work, nominal_work

HEADER = json.loads((Path(__file__).parent / "data" / "run-v4.jsonl").read_bytes().splitlines()[0])
PROBLEM = Problem(batch=4, in_channels=64, out_channels=64, input_size=(28, 28), filter_size=(3, 3),
                  padding=((1, 1), (1, 1)))  # fmt: skip
CASE = Case(suite="net", name="a", problem=PROBLEM, conv_pass=ConvPass.FPROP)


def measured(value, sigma=0.0):
    return Ceiling(value=value, kind="measured", sigma=sigma)


CEILINGS = Ceilings(
    compute={"fp32": measured(1e11), "fp64": measured(5e10)},
    bandwidth={"l2": measured(5e10), "l3": measured(3e10), "dram": measured(1e10)},
    capacity_bytes={"l2": 1 << 19, "l3": 1 << 25}, launch=measured(5e-7), threads=2,
)  # fmt: skip


def phase(name, flops, moved, launches=1, footprint=1 << 30):
    return Phase(name=name, flops=flops, bytes_read=moved, bytes_written=0, footprint_bytes=footprint,
                 launches=launches)  # fmt: skip


PRODUCT = Work((phase("product", 10**9, 10**6),))  # 10 ms of arithmetic, 0.1 ms of memory


def row(seconds, work=PRODUCT, cpu_s=2.0, algorithm="gemm", phases=(), floor_s=None, problem=PROBLEM, **key):
    """Of a time in seconds, of which each thread worked cpu_s/2 of it."""
    case = replace(CASE, problem=problem, **{k: key.pop(k) for k in ("dtype", "math_mode", "name") if k in key})
    made = RowKey(case=case, backend="cpu", algorithm=algorithm, device="cpu", threads=2, **key)
    rounds = (Round(1, (Sample(seconds, cpu_s * seconds),)),) * 6
    return Row(key=made, status=Status.OK, resolved=algorithm, work=work, rounds=rounds, phases=phases, floor_s=floor_s)


def run_of(*rows, ceilings=None, **devices):
    of = {"machine": {"os": "Linux", "arch": "x86_64", "cpu_model": "Test CPU"}, "fingerprint": ""}
    found = {"cpu": of | {"ceilings": (ceilings or CEILINGS).to_dict()}} | devices
    return replace(fold(json.dumps(HEADER | {"devices": found}).encode() + b"\n", "x"), rows=rows)


def hint(*arguments, **options):
    return placed_row(row(*arguments, **options), CEILINGS).hint


# What is placed


def test_a_row_is_placed_by_its_own_work_and_its_floor():
    placed = placed_row(row(20e-3), CEILINGS)
    assert (placed.nominal, placed.work) == (False, PRODUCT)
    assert placed.placement.compute_s == pytest.approx(10e-3)
    assert placed.judgement.attained == pytest.approx((10e-3 + 5e-7) / 20e-3)
    assert placed.to_win_s == pytest.approx(20e-3 - 10e-3 - 5e-7)
    assert placed.intensity == 1000
    with_floor = placed_row(row(20e-3, floor_s=11e-3), CEILINGS)
    assert with_floor.placement.latency_s == 11e-3
    assert with_floor.judgement.bound is Bound.LATENCY


def test_an_empty_batch_has_no_floor():
    work = Work((phase("product", 0, 0),))
    assert placed_row(row(1e-5, work, floor_s=1e-4), CEILINGS).placement.latency_s == 5e-7


def test_unknown_work_is_that_of_the_definition():
    placed = placed_row(row(1.0, work=None), CEILINGS)
    assert (placed.nominal, placed.work) == (True, nominal_work(replace(CASE, problem=PROBLEM)))


def test_a_cold_row_comes_from_main_memory():
    work = Work((phase("product", 10**6, 10**7, footprint=1000),))
    assert placed_row(row(1.0, work), CEILINGS).placement.level == "l2"
    assert placed_row(row(1.0, work, cache=COLD), CEILINGS).placement.level == "dram"


def test_above_the_roof_nothing_is_clamped_and_nothing_is_to_win():
    placed = placed_row(row(5e-3), CEILINGS)
    assert placed.judgement.flag is Flag.ABOVE_ROOF
    assert placed.judgement.attained == pytest.approx(2, rel=1e-3)
    assert (placed.to_win_s, placed.hint) == (0.0, "")


def test_rows_that_cannot_be_placed_are_counted_by_reason():
    good, refused = row(20e-3), replace(row(1.0), status=Status.UNSUPPORTED, rounds=())
    half = row(1.0, dtype=Dtype.BF16, math_mode=MathMode.BF16_TC)
    elsewhere = row(1.0)
    elsewhere = replace(elsewhere, key=replace(elsewhere.key, device="cuda:0"))
    threads = replace(good, key=replace(good.key, threads=3))
    found, reasons = placed_rows(run_of(good, refused, half, elsewhere, elsewhere, threads, row(0.0)))
    assert [placed.row for placed in found] == [good]
    assert list(reasons.values()) == [1, 2, 1, 1]
    texts = list(reasons)
    assert texts[0] == "no compute ceiling for math mode bf16-tc; this machine has fp32, fp64"
    assert texts[1].startswith("no ceilings of cuda:0 in this run: `convbench machine --measure`")
    assert texts[2].startswith("the ceilings of cpu hold for 2 threads, not 3")
    assert texts[3].startswith("time_s must be a number above 0")


def test_a_run_without_rows():
    assert placed_rows(run_of()) == ([], {})
    with pytest.raises(InputError, match=r"^no bounds: no row has a time$"):
        bounds_table(run_of())


def test_devices_of_one_machine_share_a_run_and_those_of_two_do_not():
    here = run_of().header["devices"]["cpu"]
    gpu = copy.deepcopy(here)
    gpu["machine"]["gpu_name"] = "GPU"
    assert set(run_ceilings(run_of(gpu=gpu))) == {"cpu", "gpu"}
    gpu["machine"]["cpu_model"] = "Other CPU"
    with pytest.raises(InputError, match=r"of different machines: cpu of 'Test CPU', gpu of 'Other CPU'$"):
        run_ceilings(run_of(gpu=gpu))
    assert set(run_ceilings(run_of(gpu=gpu | {"ceilings": None}))) == {"cpu"}


JUNK = st.sampled_from([None, 0, -1, 1e308, 1e-308, "", "x", [], [1], {}, {"a": 1}, True, 10**400])


@given(st.data())
def test_damaged_ceilings_are_one_line_and_no_bounds(data):
    run = run_of(row(20e-3), row(30e-3, algorithm="fft"))
    place = fields = run.header["devices"]["cpu"]
    key = "ceilings"
    while isinstance(fields[key], dict) and fields[key] and data.draw(st.booleans()):
        place = fields = fields[key]
        key = data.draw(st.sampled_from(sorted(fields)))
    place[key] = data.draw(JUNK)
    tables = [rows_table(run), totals_table(run)]
    assert len(tables[0].rows) == 2
    for output_format in ("table", "json"):
        assert "nan" not in render(tables, output_format).lower()
    assert all("\n" not in note for note in tables[0].notes)


# Hints


def test_a_row_that_the_model_explains_needs_no_hint():
    assert hint(12e-3) == ""


def test_a_slow_phase():
    work = Work((phase("gather", 0, 10**8), phase("product", 10**9, 10**6)))  # 10 ms each
    phases = ((0.08, 0.02),)
    assert hint(0.1, work, phases=phases) == "gather: 80% of the time, at 13% of its roof"
    assert hint(0.1, work, phases=((0.015, 0.085),)) == "product: 85% of the time, at 12% of its roof"
    thin = replace(PROBLEM, out_channels=3)
    assert hint(0.1, work, phases=((0.015, 0.085),), problem=thin) == "skinny product: 3 filters, 85% of the time"
    assert hint(0.1, work, phases=((0.05, 0.05),)) == ""  # neither


def test_slow_transforms():
    """Of 90 ms above the floors of 10 ms each, neither transform makes up half, but both together do."""
    names = ("transform x", "product", "inverse y")
    work = Work(tuple(phase(name, 10**9, 10**6) for name in names))
    assert hint(0.12, work, phases=((0.04, 0.05, 0.03),)) == "transforms: 58% of the time, at 29% of their roof"
    assert hint(0.12, work, phases=((0.028, 0.06, 0.032),)) == "product: 50% of the time, at 17% of its roof"


def test_waiting_threads():
    assert hint(0.1, cpu_s=1.1) == "threads wait: 1.1 of 2 busy"
    assert hint(0.1, cpu_s=1.3) == ""
    device = replace(row(0.1), rounds=(Round(1, (Sample(0.1, None),)),) * 6)
    assert placed_row(device, CEILINGS).hint == ""


def test_dispatch():
    work = Work((phase("product", 10**9, 10**6, launches=20_000),))
    assert hint(35e-3, work) == "dispatch: 29% of the time, 20000 calls"
    assert placed_row(row(35e-3, work), CEILINGS).judgement.bound is Bound.COMPUTE
    assert "dispatch" not in hint(60e-3, work)


def test_phases_in_turn():
    work = Work((phase("gather", 0, 10**8), phase("product", 12 * 10**8, 10**6)))
    assert hint(30e-3, work) == "phases in turn: 1.8× the floor"
    assert hint(60e-3, work) == ""


@pytest.mark.parametrize(("algorithm", "changes", "expected"), [
    ("gemm", {"in_channels": 3, "filter_size": (3, 3)}, "skinny product: 27 channels × taps"),
    ("winograd-4x3", {"in_channels": 3}, "skinny product: 3 channels"),
    ("gemm", {"in_channels": 4, "filter_size": (3, 3)}, ""),
    ("gemm", {"out_channels": 32}, "skinny product: 32 filters"),
    ("gemm", {"out_channels": 33}, ""),
    ("gemm", {"groups": 64}, "skinny product: 1 filters a group"),
    ("gemm", {"batch": 1, "input_size": (4, 4)}, "skinny product: 16 outputs"),
])  # fmt: skip
def test_skinny_products(algorithm, changes, expected):
    assert hint(0.1, algorithm=algorithm, problem=replace(PROBLEM, **changes)) == expected


def test_transforms_and_unknown_work():
    work = Work((phase("transform x", 6 * 10**8, 10**6), phase("product", 10**8, 10**6), phase("inverse y", 10**8, 0)))
    assert hint(0.1, work) == "transforms: 88% of the flops"
    assert hint(1.0, None) == "work: nominal"


def test_a_poor_row_has_a_hint_though_its_bound_is_ambiguous():
    work = Work((phase("product", 10**9, 9 * 10**7),))
    placed = placed_row(row(0.1, work, cpu_s=0.5), CEILINGS)
    assert placed.judgement.flag is Flag.AMBIGUOUS
    assert placed.hint == "threads wait: 0.5 of 2 busy"


# Tables


def test_rows_show_bound_attained_and_flag():
    run = run_of(row(12e-3), row(5e-3, algorithm="fft"), row(0.1, algorithm="mec", cpu_s=1.0))
    table = rows_table(run)
    text = render([table], "table", width=140)
    for word in ("compute", "83%", "200%", "above_roof", "threads wait: 1.0 of 2 busy", "attained: ", "flag: "):
        assert word in text
    assert any("cpu:fft" in note and "above the roof" in note for note in table.notes)
    first = json.loads(render([table], "json"))["rows"][0]
    assert (first["bound"], first["level"], first["flag"], first["hint"], first["work"]) == (
        "compute", "dram", None, None, "executed",
    )  # fmt: skip
    assert first["floor_s"] == pytest.approx(10e-3 + 5e-7)
    assert (first["compute_s"], first["memory_s"], first["latency_s"]) == pytest.approx((10e-3, 1e-4, 5e-7))
    assert (first["confidence"], first["row_floor_s"]) == (1.0, None)


def test_without_ceilings_there_are_no_columns_and_one_note():
    run = run_of(row(12e-3), row(0.1, algorithm="fft"))
    run.header["devices"]["cpu"]["ceilings"] = None
    table = rows_table(run)
    text = render([table], "table")
    assert "attained" not in text
    assert [note for note in table.notes if "ceilings" in note] == [
        "no bounds: no ceilings of cpu in this run: `convbench machine --measure`, then run again"
    ]
    assert json.loads(render([table], "json"))["rows"][0]["bound"] is None
    assert "to win" not in render([totals_table(run)], "table")


def test_what_is_odd_about_the_ceilings_is_a_note():
    odd = replace(CEILINGS, contended="load 3", warnings=("dram is slower than its datasheet",))
    notes = "\n".join(rows_table(run_of(row(0.1, work=None), ceilings=odd)).notes)
    assert "ceilings of cpu: dram is slower than its datasheet" in notes
    assert "not quiet: load 3" in notes
    assert "work: nominal: what cpu:gemm does is not known" in notes


def test_what_a_network_has_to_win():
    first, second = row(20e-3), row(30e-3, name="b")
    second = replace(second, key=replace(second.key, case=replace(second.key.case, repeat=3)))
    (fact,) = totals_table(run_of(first, second)).rows
    floor = 10e-3 + 5e-7
    assert fact["total_s"] == pytest.approx(110e-3)
    assert fact["to_win_s"] == pytest.approx(110e-3 - 4 * floor)
    assert fact["to_win_share"] == pytest.approx(1 - 4 * floor / 110e-3)
    unplaced = replace(second, key=replace(second.key, threads=1))
    assert {f["to_win_s"] for f in totals_table(run_of(first, unplaced)).rows} == {None}


def test_counts_by_bound_flag_and_hint():
    rows = [row(12e-3, name="a"), row(5e-3, name="b"), row(0.1, name="c", cpu_s=1.0), row(0.1, work=None, name="d"),
            row(12e-3, algorithm="fft", floor_s=9e-3)]  # fmt: skip
    gemm, fft = bounds_table(run_of(*rows)).rows
    assert (gemm["rows"], gemm["compute"], gemm["latency"], gemm["above_roof"], gemm["implementation"]) == (
        4, 4, 0, 1, 2,
    )  # fmt: skip
    assert gemm["hints"] == "threads wait 1, work 1"
    assert (fft["rows"], fft["latency"], fft["hints"]) == (1, 1, None)
    assert math.isclose(sum(gemm[bound] for bound in Bound), gemm["rows"])

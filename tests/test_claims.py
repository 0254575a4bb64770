"""The talk's claims: each conclusion follows the numbers, and says what is missing where they are."""

import json
import random
from dataclasses import replace

import pytest

from convbench.backends import Sample
from convbench.ceilings import Ceiling, Ceilings
from convbench.claims import QUESTIONS, claims_from, claims_markdown, claims_table, with_ceilings
from convbench.claims.shapes import family, is_copy
from convbench.errors import InputError
from convbench.problem import PRECISIONS, ConvPass, Dtype, Epilogue, Layout
from convbench.render import FORMATS, render
from convbench.result import COLD, Row, RowKey, Run, Status
from convbench.suite import load_suite
from convbench.tasks import Selection
from convbench.timing import Round
from convbench.work import Phase, Work, nominal_flops, nominal_work

FPROP = (ConvPass.FPROP,)
SELECTIONS = {
    "layouts": Selection(passes=FPROP, layouts=tuple(Layout)),
    "operands": Selection(layouts=tuple(Layout)),
    "epilogue": Selection(passes=FPROP, epilogues=(Epilogue.NONE, Epilogue.BIAS_RELU)),
    "precision": Selection(passes=FPROP, precisions=(PRECISIONS["fp32"], PRECISIONS["fp64"])),
    "deep": Selection(passes=FPROP, batch=1),
}
ALGORITHMS = {"filters": ("gemm", "winograd", "fft"), "epilogue": ("auto", "direct")}


def ceiling(value):
    return Ceiling(value=value, kind="measured")


def ceilings(flop_per_s=1e11, bytes_per_s=1e10, launch_s=1e-6, contended=""):
    compute = {"fp32": ceiling(flop_per_s), "fp64": ceiling(flop_per_s / 2)}
    memory = ceiling(bytes_per_s)
    return Ceilings(compute=compute, bandwidth={"dram": memory}, mixes={"dram": {"copy": memory}},
                    launch=ceiling(launch_s), contended=contended)  # fmt: skip


BOUNDS = ceilings()


def header(of=BOUNDS, cpu="Fake CPU", threads=2, fingerprint="f"):
    machine = {"os": "Linux", "arch": "x86_64", "cpu_model": cpu}
    device = {"machine": machine, "fingerprint": fingerprint, "ceilings": of and of.to_dict()}
    return {"devices": {"cpu": device}, "options": {"threads": threads}}


def rounds(seconds, count=7):
    return tuple(Round(1, (Sample(seconds),)) for _ in range(count))


def by_flops(case, algorithm):
    return 1e-5 + nominal_flops(case.problem) / 5e10


def row(case, algorithm, seconds, phases=None, **changes):
    """A row with a time, or one that is refused where there is none."""
    key = RowKey(case=case, backend="cpu", algorithm=algorithm, device="cpu", **changes)
    if seconds is None:
        return Row(key=key, status=Status.UNSUPPORTED, reason="not here")
    work, taken = nominal_work(case), ()
    if phases is not None:
        made = phases(case, algorithm)
        work = Work(tuple(Phase(name=name, flops=flops, bytes_read=8, bytes_written=8, footprint_bytes=8)
                          for name, flops, _ in made))  # fmt: skip
        taken = (tuple(took for *_, took in made),)
    return Row(key=key, status=Status.OK, rounds=rounds(seconds), work=work, phases=taken, resolved=algorithm)


def run(key, time=by_flops, of=BOUNDS, phases=None, **header_fields):
    question = QUESTIONS[key]
    cases = SELECTIONS.get(key, Selection(passes=FPROP)).cases([load_suite(question.suite)])
    rows = [row(case, algorithm, time(case, algorithm), phases)
            for case in cases for algorithm in ALGORITHMS.get(key, ("auto",))]  # fmt: skip
    return Run(header=header(of, **header_fields), rows=tuple(rows))


def says(key, *runs):
    (claim,) = claims_from({key: runs})
    return claim.conclusion


def made(key, *args, **options):
    """The conclusion from one synthetic run."""
    return says(key, run(key, *args, **options))


def table(key, number, *runs):
    (claim,) = claims_from({key: runs})
    return claim.tables[number]


# Each conclusion follows the numbers


@pytest.mark.parametrize(("slower", "said"), [(2.0, "reaches 2.00 times"), (0.5, "reaches 0.500 times")])
def test_batch(slower, said):
    def time(case, algorithm):
        n = case.problem.batch
        return nominal_flops(case.problem) / 5e10 * (slower if n == 1 else 1)

    conclusion = made("batch", time)
    assert f"cpu:auto: batch 128 {said} the effective rate of batch 1, geometric mean over 5 layers" in conclusion


@pytest.mark.parametrize("best", Layout)
def test_layouts(best):
    def time(case, algorithm):
        return by_flops(case, algorithm) * (1 if case.layout is best else 3)

    conclusion = made("layouts", time)
    assert f"fastest is {best} in 5 (conv1, conv2, conv3, conv4, conv5)" in conclusion
    assert "the slowest layout takes 3.00 times the fastest" in conclusion


def test_layouts_change_with_depth():
    def time(case, algorithm):
        best = Layout.CHWN if case.name == "conv1" else Layout.NHWC
        return 1e-3 if case.layout is best else 2e-3

    assert "fastest is nhwc in 4 (conv2, conv3, conv4, conv5), chwn in 1 (conv1)" in made("layouts", time)


@pytest.mark.parametrize(
    ("gather_s", "said"),
    [(1e-3, "50.0 % in nhwc, 0 % in chwn of a row's time at the median; 12 of 36 rows copy nothing"),
     (3e-3, "75.0 % in nhwc, 0 % in chwn"), (0.0, "0 % in nhwc, 0 % in chwn of a row's time at the median; 36 of 36")],
)  # fmt: skip
def test_operands(gather_s, said):
    def phases(case, algorithm):
        copies = [] if case.layout is Layout.CHWN else [("gather", 0, gather_s)]
        return [*copies, ("product", 10**9, 1e-3)]

    assert said in made("operands", phases=phases)


def test_operands_without_phases():
    def time(case, algorithm):
        return 3e-3 if case.layout is Layout.CHWN else 1e-3

    assert made("operands", time) == (
        "cpu:auto: its phases were not timed, so what copies take is not known; the slowest layout takes 3.00 times "
        "the fastest, geometric mean over 12 problems and passes"
    )
    layouts = table("operands", 0, run("operands", time)).rows
    assert {fact["copy_share"] for fact in layouts} == {None}
    assert [fact["to_fastest"] for fact in layouts if fact["layout"] is Layout.CHWN] == [pytest.approx(3.0)] * 3


def test_operands_of_a_backend_with_phases_beside_one_without():
    timed = run("operands", phases=lambda case, algorithm: [("gather", 0, 1e-3), ("product", 10**9, 1e-3)])
    bare = run("operands")
    other = [replace(row, key=replace(row.key, backend="other")) for row in bare.rows]
    both = replace(timed, rows=(*timed.rows, *other))
    (claim,) = claims_from({"operands": [both]})
    first, second = claim.conclusion.split("; other:auto: ")
    assert "50.0 % in nchw" in first
    assert second.startswith("its phases were not timed")


def test_what_is_counted_by_the_definition_is_called_so():
    whole = run("reuse")
    rows = [replace(row, work=nominal_work(row.key.case)) for row in whole.rows]
    assert (
        "flop/B, counted by the definition" in claims_from({"reuse": [replace(whole, rows=tuple(rows))]})[0].conclusion
    )


def test_a_phase_that_adds_each_element_up_is_a_copy_and_a_transform_is_none():
    phase = Phase(name="scatter", flops=100, bytes_read=400, bytes_written=400, footprint_bytes=400)
    assert is_copy(phase, 4)
    assert is_copy(replace(phase, flops=0), 4)
    assert not is_copy(replace(phase, flops=101), 4)


def epilogue_phases(case, algorithm):
    apart = [("epilogue", 10**6, 1e-3)] if algorithm == "direct" and case.epilogue is Epilogue.BIAS_RELU else []
    return [("product", 10**9, 1e-2), *apart]


@pytest.mark.parametrize(
    ("added", "said"),
    [(1.0, "adds 0 %, a pass of its own over the output 10.0 %: one call saves 9.09 %, geometric mean over 6 layers, "
      "of which 6 gain"),
     (1.2, "adds 20.0 %, a pass of its own over the output 10.0 %: one call costs 9.09 %, geometric mean over 6 "
      "layers, of which 0 gain")],
)  # fmt: skip
def test_epilogue(added, said):
    def time(case, algorithm):
        return 1e-2 * (added if case.epilogue is Epilogue.BIAS_RELU else 1)

    conclusion = made("epilogue", time, phases=epilogue_phases)
    assert said in conclusion
    assert "direct" not in conclusion  # it fuses nothing


def test_epilogue_without_a_pass_of_its_own():
    def time(case, algorithm):
        return None if algorithm == "direct" else by_flops(case, algorithm)

    assert "no algorithm here has a pass of its own" in made("epilogue", time)
    assert "–" in render([table("epilogue", 0, run("epilogue", time))], "table")


def test_the_least_time_of_a_pass_is_its_traffic_at_the_copy_bandwidth():
    (found,) = {fact["least_s"] for fact in table("epilogue", 0, run("epilogue")).rows if fact["layer"] == "conv5"}
    assert found == pytest.approx(2 * 16 * 256 * 13 * 13 * 4 / 1e10)


@pytest.mark.parametrize(("ratio", "said"), [(2, "takes 2.00 times as long"), (0.5, "takes 0.500 times as long")])
def test_precision(ratio, said):
    def time(case, algorithm):
        return by_flops(case, algorithm) * (ratio if case.dtype is Dtype.FP64 else 1)

    conclusion = made("precision", time)
    assert said in conclusion
    assert "where the peaks differ by 2.00" in conclusion
    assert "fp32 is bound by compute in 9" in conclusion


def test_precision_on_a_machine_with_little_bandwidth():
    assert "fp32 is bound by bandwidth in 9" in made("precision", of=ceilings(bytes_per_s=1e7))


def filter_times(winograd_until, fft_from):
    def time(case, algorithm):
        taps = case.problem.filter_size[0]
        if algorithm == "winograd":
            return None if taps > 9 else 1e-3 if taps <= winograd_until else 9e-3
        return {"gemm": 2e-3, "fft": 1e-3 if taps >= fft_from else 3e-3}[algorithm]

    return time


def test_filters():
    conclusion = made("filters", filter_times(5, 9))
    assert conclusion.startswith(
        "cpu: 64 maps of 32×32: Winograd overtakes direct at 3×3, 5×5 only (9×9 is the largest"
    )
    assert "8 maps of 32×32: " in conclusion
    assert conclusion.count("FFT overtakes direct from 9×9 on") == 3
    everywhere = made("filters", filter_times(13, 3))
    assert (
        "Winograd overtakes direct from 3×3 on (9×9 is the largest that it does), FFT overtakes direct from 3×3 on"
        in (everywhere)
    )
    nowhere = made("filters", filter_times(1, 99))
    assert "Winograd nowhere up to 9×9" in nowhere
    assert "FFT nowhere up to 13×13" in nowhere


def test_filters_need_two_families():
    def only_gemm(case, algorithm):
        return 1e-3 if algorithm == "gemm" else None

    assert made("filters", only_gemm).startswith(
        "not answered: no problem of talk-filters has a time by the definition"
    )


@pytest.mark.parametrize(
    ("resolved", "found"),
    [("winograd-4x3", "Winograd"), ("fft-32", "FFT"), ("dft-6x3", "FFT"), ("gemm", "direct"), ("onednn", "direct"),
     ("nnpack", "FFT")],
)  # fmt: skip
def test_families(resolved, found):
    (case, *_) = Selection(passes=FPROP, globs=("m64_p8_k5",)).cases([load_suite("talk-filters")])
    assert family(replace(row(case, "auto", 1e-3), resolved=resolved)) == found


def test_small():
    def slow_launch(case, algorithm):
        return 1e-3 + nominal_flops(case.problem) / 1e12

    conclusion = made("small", slow_launch)
    assert "the smallest problem takes 1.00 ms; of 8 small problems 8 spend half of their time or more" in conclusion
    assert "of 8 small problems 0 spend" in made("small", lambda case, _: 1e-9 + nominal_flops(case.problem) / 1e10)
    assert "of the peak" in conclusion
    assert "no ceilings" in made("small", slow_launch, of=None)


def test_deep():
    conclusion = made("deep")
    assert "of 57 layers at batch 1 half have no more than" in conclusion
    assert "bound by compute in 54, bandwidth in 3" in conclusion
    assert "bandwidth in 57" in made("deep", of=ceilings(bytes_per_s=1e6))
    assert "latency in 57" in made("deep", of=ceilings(launch_s=1.0))
    assert "what binds them is not known" in made("deep", of=None)


def test_reuse():
    conclusion = made("reuse")
    assert conclusion.startswith(
        "13.493 G multiply-adds: 119 flop/B with each operand read once, 0.250 without reuse, 175"
    )
    assert "the output is 148.7 MB, 2.33 times the slide's 63.7 MB" in conclusion
    assert "the ridge is at 10.0 flop/B, so bound by compute with reuse and by bandwidth without" in conclusion
    assert "bound by bandwidth with reuse and by bandwidth without" in made("reuse", of=ceilings(bytes_per_s=1e8))
    assert "bound by compute with reuse and by compute without" in made("reuse", of=ceilings(bytes_per_s=1e12))
    assert "whether that binds is not known (no ceilings in the run)" in made("reuse", of=None)


def test_reuse_needs_no_time():
    conclusion = made("reuse", lambda case, algorithm: None)
    assert "119 flop/B" in conclusion
    assert "not measured" in conclusion


def test_boundaries():
    def steps(case, algorithm):
        n = case.problem.in_channels if case.name.startswith("channels") else case.problem.output_size[0]
        return nominal_flops(case.problem) / 1e10 * {1: 1.5, 3: 1.1}.get(n % 4, 1.0)

    conclusion = made("machines", steps)
    assert (
        "cpu:auto: a flop takes 1.50 times as long one beyond a multiple of 4, 1.10 times one short of it" in conclusion
    )
    assert "median over 8 boundaries; at worst 1.50 times at " in conclusion
    assert "a flop takes 1.00 times" in made("machines", lambda case, _: nominal_flops(case.problem) / 1e10)


def test_one_machine():
    said = "Fake CPU, 2 threads: fp32 100 Gflop/s, fp64 50.0 Gflop/s, main memory 10.0 GB/s, launch latency 1.00 µs"
    assert made("machines").startswith(said)


@pytest.mark.parametrize(("second", "wins"), [(3e11, "New"), (2.5e10, "Old")])
def test_who_wins(second, wins):
    new = run("machines", of=ceilings(second, launch_s=1e-5), cpu="New", fingerprint="g")
    conclusion = says("machines", run("machines", cpu="Old"), new)
    assert f"fp32: {wins}, 2 threads wins" in conclusion
    assert f"{3 if wins == 'New' else 4}.00 times better than the next" in conclusion
    assert "launch latency: Old, 2 threads wins with 1.00 µs, 10.0 times better" in conclusion
    assert "cpu:auto on Old, 2 threads: a flop" in conclusion


def test_machines_of_one_name_are_numbered():
    both = table("machines", 0, run("machines"), run("machines"))
    assert [fact["machine"] for fact in both.rows] == ["Fake CPU, 2 threads #1", "Fake CPU, 2 threads #2"]


def test_several_machines_in_every_claim():
    slow = {key: run(key, lambda case, a: 2 * by_flops(case, a), cpu="Slow", fingerprint="g") for key in QUESTIONS}
    for claim in claims_from({key: [run(key, phases=epilogue_phases), slow[key]] for key in QUESTIONS}):
        assert "Fake CPU" in claim.conclusion
        assert "Slow" in claim.conclusion or claim.key == "operands"  # which has no phases there


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_some_per_cent_turns_no_conclusion(seed):
    draw = random.Random(seed)

    def noisy(time):
        return lambda case, a: time(case, a) and time(case, a) * draw.lognormvariate(0, 0.03)

    assert made("filters", noisy(filter_times(5, 9))).count("FFT overtakes direct from 9×9 on") == 3
    assert "fastest is nhwc in 5" in made(
        "layouts", noisy(lambda case, _: 1e-3 if case.layout is Layout.NHWC else 2e-3)
    )
    assert "one call saves" in made("epilogue", noisy(lambda case, _: 1e-2), phases=epilogue_phases)


# What is missing is said


@pytest.mark.parametrize("key", QUESTIONS)
def test_no_run(key):
    assert says(key).startswith("not answered: no run of ")


@pytest.mark.parametrize("key", QUESTIONS)
def test_an_empty_run(key):
    conclusion = says(key, Run(header=header(), rows=()))
    assert "the run has no rows of" in conclusion or "no row of talk-example's" in conclusion


@pytest.mark.parametrize("key", QUESTIONS)
def test_rows_of_another_suite(key):
    other = run("layouts" if key != "layouts" else "batch")
    assert "no rows of" in says(key, other) or "no row of" in says(key, other)


@pytest.mark.parametrize("key", [key for key in QUESTIONS if key != "reuse"])
def test_rows_without_a_time(key):
    conclusion = made(key, lambda case, algorithm: None)
    assert "has a time: " in conclusion
    assert "unsupported (not here)" in conclusion


@pytest.mark.parametrize("key", [key for key in QUESTIONS if key != "reuse"])
def test_cold_rows_are_not_asked(key):
    cold = run(key)
    cold = replace(cold, rows=tuple(replace(r, key=replace(r.key, cache=COLD)) for r in cold.rows))
    assert "measured cold only" in says(key, cold)


@pytest.mark.parametrize("key", QUESTIONS)
@pytest.mark.parametrize("of", [BOUNDS, None])
def test_one_row(key, of):
    whole = run(key, of=of, phases=epilogue_phases)
    (claim,) = claims_from({key: [replace(whole, rows=whole.rows[:1])]})
    assert claim.conclusion
    render([claims_table([claim]), *claim.tables], "table")


@pytest.mark.parametrize(
    "key", [k for k in QUESTIONS if k not in {"layouts", "batch", "filters", "epilogue", "operands"}]
)
def test_no_ceilings(key):
    assert "no ceilings" in made(key, of=None)


def test_damaged_ceilings_are_one_line():
    broken = run("small")
    broken.header["devices"]["cpu"]["ceilings"] = {"compute": {}}
    with pytest.raises(InputError, match="not a set of ceilings"):
        says("small", broken)


def test_contended_ceilings_are_said():
    assert any(
        "contended: others" in note for note in table("small", 0, run("small", of=ceilings(contended="others"))).notes
    )


def test_few_rounds_are_said():
    short = run("batch")
    short = replace(short, rows=tuple(replace(r, rounds=r.rounds[:3]) for r in short.rows))
    assert "10 of 10 rows have fewer than 6 rounds, too few for an interval" in table("batch", 0, short).notes


BAD = tuple(Round(1, (Sample(1e-3, 1e-3, ("switched",)),)) for _ in range(7))
LONGER, QUIETER = "with a longer --max-time", "on a quieter machine"


@pytest.mark.parametrize(
    ("few", "disturbed", "doubt"),
    [
        (0, 0, ""), (0, 2, ""), (2, 0, ""),
        (0, 3, f"of 10 rows 3 disturbed; measure again {QUIETER}"),
        (3, 0, f"of 10 rows 3 with fewer than 6 rounds; measure again {LONGER}"),
        (2, 1, f"of 10 rows 2 with fewer than 6 rounds, 1 disturbed; measure again {LONGER}, {QUIETER}"),
    ],
)  # fmt: skip
def test_a_conclusion_says_that_many_of_its_rows_are_doubtful(few, disturbed, doubt):
    whole = run("batch")
    bad = [replace(r, rounds=r.rounds[:3]) for r in whole.rows[:few]]
    bad += [replace(r, rounds=BAD) for r in whole.rows[few : few + disturbed]]
    conclusion = says("batch", replace(whole, rows=(*bad, *whole.rows[few + disturbed :])))
    assert conclusion.partition(". Doubtful: ")[2] == doubt


@pytest.mark.parametrize("key", QUESTIONS)
def test_every_claim_says_that_its_rows_have_too_few_rounds(key):
    whole = run(key, phases=epilogue_phases)
    whole = replace(whole, rows=tuple(replace(r, rounds=r.rounds[:1]) for r in whole.rows))
    count = len(whole.rows)
    assert f". Doubtful: of {count} rows {count} with fewer than 6 rounds; measure again {LONGER}" in says(key, whole)


def test_ceilings_of_the_same_machine_stand_in():
    first, second = with_ceilings([run("small", of=None), run("batch")])
    assert first.header == second.header
    other = with_ceilings([run("small", of=None), run("batch", fingerprint="other"), run("deep", threads=1)])[0]
    assert other.header["devices"]["cpu"]["ceilings"] is None


# As text


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_table_is_rendered(output_format):
    claims = claims_from({key: [run(key, phases=epilogue_phases)] for key in QUESTIONS})
    text = render([claims_table(claims), *(t for claim in claims for t in claim.tables)], output_format)
    assert "machines" in text
    if output_format == "json":
        keys = [t.key for claim in claims for t in claim.tables]
        assert [*json.loads(text)] == ["claims", *keys]
        assert len({*keys}) == len(keys)


def test_no_two_columns_of_a_table_have_the_same_header():
    for claim in claims_from({key: [run(key, phases=epilogue_phases)] for key in QUESTIONS}):
        for shown in claim.tables:
            headers = [column.header for column in shown.shown()]
            assert len({*headers}) == len(headers), shown.key


def test_markdown_has_a_section_per_claim():
    claims = claims_from({key: [run(key)] for key in QUESTIONS})
    text = claims_markdown(claims)
    assert text.count("\n## ") == len(QUESTIONS)
    assert all(claim.conclusion in text for claim in claims)

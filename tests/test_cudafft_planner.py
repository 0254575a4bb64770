"""The cudafft backend's planning: chunks, work, estimates, what is declined and listed."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from cudafft_arrays import HostCudafft
from test_cufft import make_case, problem

from convbench.backends import AUTO, PlanOptions
from convbench.backends import cuda as cuda_module
from convbench.backends.cudafft import NAMES, CudafftBackend, planner
from convbench.backends.cudafft.kernels import TRANSFORMS
from convbench.backends.cudafft.planner import CudafftPlanner, planners
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Epilogue, Layout, Problem

BY_NAME = {transform.name: transform for transform in TRANSFORMS}


class Unasked(CudafftBackend):
    """The backend where there is no GPU, also where there is one."""

    def probe(self):
        return "no GPU"


def made(case, size, **fields):
    return CudafftPlanner(case, BY_NAME[size], **fields)


# Chunks and memory

ALEXNET = Problem(batch=128, in_channels=64, out_channels=192, input_size=(27, 27), filter_size=(5, 5),
                  padding=((2, 2), (2, 2)))  # fmt: skip


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_chunks_for_l2_are_the_most_images_whose_spectra_it_holds(conv_pass):
    case = make_case(ALEXNET, conv_pass)
    assert made(case, "16x16").chunk == 128
    for size, chunk in ((20_000_000, 2), (30_000_000, 4), (50_000_000, 8), (120_000_000, 32), (10**9, 128)):
        of = made(case, "16x16", variant="l2", cache_bytes=size)
        # 14.2 MB of filters, and 2.65 MB of each image in 9 tiles
        assert of.chunk == chunk
        assert of._spectra_bytes(chunk) <= size < of._spectra_bytes(2 * chunk) or chunk == 128


def test_chunks_for_l2_are_offered_where_they_are_smaller_and_there_are_some():
    offered = [each.algorithm for each in planners(make_case(ALEXNET)) if each.variant == "l2"]
    assert offered == ["fft-8x8-l2", "fft-16x16-l2", "fft-32x32-l2"]  # on more points the filters alone take more
    assert not [each for each in planners(make_case(replace(ALEXNET, batch=1))) if each.variant == "l2"]
    assert not [each for each in planners(make_case(ALEXNET), 10**9) if each.variant == "l2"]


def test_spectra_in_l2_are_estimated_to_be_quicker_and_launches_to_take_time():
    whole, cut = (made(make_case(ALEXNET), "16x16", variant=variant) for variant in ("", "l2"))
    launches = [sum(phase.launches for phase in of.work().phases) for of in (whole, cut)]
    assert launches == [4, 3 * 8 + 1]
    assert cut.seconds - 2e-6 * launches[1] < whole.seconds - 2e-6 * launches[0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_limit_on_workspace_cuts_the_batch_and_then_declines(fused):
    shape = problem(batch=12, in_channels=4, out_channels=4, groups=4) if fused else problem(batch=12)
    case = make_case(shape)
    of = made(case, "16x16", fused=fused)
    assert of.chunk == 12
    assert made(case, "16x16", fused=fused, limit_bytes=of.workspace_bytes).chunk == 12
    less = made(case, "16x16", fused=fused, limit_bytes=of._workspace(6))
    assert less.chunk == (12 if fused else 6)  # of a fused one, the batch has no spectra
    one = of._workspace(1)
    declined = made(case, "16x16", fused=fused, limit_bytes=one - 1)
    assert declined.reason == f"{one} bytes of workspace for one image at a time, the limit is {one - 1}"
    options = PlanOptions(workspace_limit_bytes=1)
    with pytest.raises(UnsupportedError, match="for one image at a time, the limit is 1"):
        HostCudafft().plan(case, AUTO, Operands(shape, case.dtype, 1), options)
    assert all(c.reason for c in Unasked().algorithms(case, options))


# Work


def test_work_by_hand():
    # 2 images of 3 × 12 → 4 filters of 5 taps on 16 points: one tile; digits 8 and 2 have 5 · 2 bins.
    shape = Problem(batch=2, in_channels=3, out_channels=6, input_size=(12,), filter_size=(5,))
    first, second, product, last = made(make_case(shape, epilogue=Epilogue.BIAS), "16").work().phases
    assert [phase.name for phase in (first, second, product, last)] == [
        "transform x", "transform w", "product", "inverse y",
    ]  # fmt: skip
    transform = round(2.5 * 16 * math.log2(16))
    assert (first.flops, second.flops) == (transform * 6, transform * 18)
    assert last.flops == transform * 12 + 2 * 6 * 8
    assert product.flops == 8 * (2 * 3 * 6) * 10
    assert (first.bytes_read, first.bytes_written) == (4 * 2 * 3 * 12, 8 * 6 * 10)
    assert (second.bytes_read, second.bytes_written) == (4 * 3 * 6 * 5, 8 * 18 * 10)
    assert (product.bytes_read, product.bytes_written) == (8 * 10 * (6 + 18), 8 * 10 * 12)
    assert (last.bytes_read, last.bytes_written) == (8 * 10 * 12 + 4 * 6, 4 * 2 * 6 * 8)
    assert [phase.launches for phase in (first, second, product, last)] == [1] * 4


def test_three_real_products_for_one_complex_save_a_quarter_of_the_flops():
    case = make_case(ALEXNET)
    plain, three = (made(case, "16x16", variant=variant) for variant in ("", "3m"))
    assert 4 * three.work().phases[2].flops == 3 * plain.work().phases[2].flops
    assert three.accuracy > plain.accuracy


def test_phases_say_what_they_compute_in():
    def modes(precision, **fields):
        return [
            phase.math_mode for phase in made(make_case(ALEXNET, precision=precision), "16x16", **fields).work().phases
        ]

    assert modes("fp32") == [""] * 4
    assert modes("tf32") == ["fp32", "fp32", "", "fp32"]
    assert modes("fp32", variant="3xtf32") == ["", "", "tf32", ""]


def test_phases_are_named_for_the_pass():
    names = {
        ConvPass.FPROP: ["transform x", "transform w", "product", "inverse y"],
        ConvPass.DGRAD: ["transform dy", "transform w", "product", "inverse dx"],
        ConvPass.WGRAD: ["transform dy", "transform x", "product", "inverse dw"],
    }
    for conv_pass in ConvPass:
        assert [phase.name for phase in made(make_case(problem(), conv_pass), "8x8").work().phases] == names[conv_pass]
    depthwise = problem(in_channels=4, out_channels=4, groups=4)
    for conv_pass, name in ((ConvPass.FPROP, "fused y"), (ConvPass.DGRAD, "fused dx")):
        of = made(make_case(depthwise, conv_pass), "8x8", fused=True)
        assert [phase.name for phase in of.work().phases] == ["transform w", name]


def test_time_is_that_of_the_slower_of_flops_and_bytes_with_launches():
    of = made(make_case(ALEXNET, precision="tf32"), "32x32")
    assert of._spectra_bytes(of.chunk) > planner.L2_BYTES  # so all bytes count alike
    rates = [66.9e12, 66.9e12, 494.7e12, 66.9e12]
    due = sum(
        max(phase.flops / rate, phase.traffic_bytes / 4.8e12) + 2e-6 * phase.launches
        for phase, rate in zip(of.work().phases, rates, strict=True)
    )
    assert of.seconds == pytest.approx(due)


# What is declined


def test_sizes_that_cannot_do_a_case_say_why():
    shape = problem(input_size=(40, 40), filter_size=(11, 3))
    by_name = {c.algorithm: c for c in Unasked().algorithms(make_case(shape))}
    assert by_name["fft-8x8"].reason == "8x8 points do not hold the filter"
    assert by_name["fft-16x16"].reason is None
    many = problem(input_size=(99, 99), filter_size=(40, 40), stride=(40, 40))
    assert "1600 phases, more than 1024" in Unasked().algorithms(make_case(many))[0].reason
    long = Problem(batch=1, in_channels=1, out_channels=1, input_size=(10**6,), filter_size=(9,))
    reasons = {c.algorithm: c.reason for c in Unasked().algorithms(make_case(long))}
    assert reasons["fft-64"] == "an axis has 17857 tiles of 64, more than 4096"
    assert reasons["fft-1024"] is None
    groups = Problem(batch=1, in_channels=65536, out_channels=65536, groups=65536, input_size=(9,), filter_size=(3,))
    assert Unasked().algorithms(make_case(groups))[0].reason == "a grid has at most 65535 groups, not 65536"
    wide = Problem(batch=1, in_channels=2**20, out_channels=1, input_size=(4, 4096), filter_size=(3, 3))
    case = make_case(wide, layout=Layout.NHWC)
    assert Unasked().algorithms(case)[1].reason.startswith("an offset along an axis of x is 12884901888 elem")
    assert all(c.reason for c in Unasked().algorithms(case))


def test_more_planes_than_are_counted_are_cut_or_declined(monkeypatch):
    case = make_case(problem(batch=32, out_channels=1))
    monkeypatch.setattr(planner, "MOST", 64)  # the offset of the last row, too
    assert made(case, "8x8").chunk == 8  # images of 2 tiles of 4 channels
    assert made(case, "8x8").reason is None
    monkeypatch.setattr(planner, "MOST", 39)
    case = make_case(problem(batch=32, input_size=(4, 8), filter_size=(3, 3)))
    assert made(case, "8x8").reason == "one launch would take 40 planes or products, more than 32 bits count"


@pytest.mark.parametrize("precision", ["fp64", "fp16", "bf16"])
def test_other_precisions_are_declined(precision):
    found = Unasked().algorithms(make_case(problem(), precision=precision))
    assert [c.algorithm for c in found] == [AUTO, "fft", "fused"]
    assert {c.reason for c in found} == {
        f"the kernels of cudafft compute in fp32, their products in fp32 or tf32, not in {precision}"
    }
    case = make_case(problem(), precision=precision)
    with pytest.raises(UnsupportedError, match=f"not in {precision}"):
        Unasked().plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())


# What is listed


def listed(shape, precision="fp32", conv_pass=ConvPass.FPROP):
    return {c.algorithm: c for c in Unasked().algorithms(make_case(shape, conv_pass, precision))}


def test_sizes_are_offered_by_name_and_the_quickest_taken():
    found = listed(ALEXNET)
    sizes = ["8x8", "16x16", "32x32", "64x64"]
    plain = [*(f"fft-{s}" for s in sizes), "fft-8x8-l2", "fft-16x16-l2", "fft-32x32-l2"]
    others = [f"fft-{s}-{variant}" for variant in ("3m", "3xtf32") for s in sizes]
    assert [*found] == [AUTO, "fft", "fused", *plain, *others]
    best = min(plain, key=lambda name: found[name].estimated_s)
    assert found[AUTO].resolves_to == found[AUTO].resolved == found["fft"].resolved == best
    assert found[AUTO].estimated_s is found["fft"].estimated_s is None
    assert found["fused"].reason.startswith("only fprop and dgrad of one channel")
    assert set(found) <= NAMES
    assert {found[name].accuracy for name in others} == {1e-5}


def test_what_is_offered_depends_on_precision_channels_and_pass():
    assert not any(name.endswith(("-3m", "-3xtf32")) for name in listed(ALEXNET, "tf32"))
    depthwise = problem(in_channels=8, out_channels=8, groups=8, input_size=(30, 30))
    found = listed(depthwise)
    assert not any(name.endswith(("-3m", "-3xtf32")) for name in found)
    assert found["fused"].resolved == found[AUTO].resolves_to
    assert found["fused"].resolved.startswith("fused-")
    assert "fused-16x16" not in listed(depthwise, conv_pass=ConvPass.WGRAD)
    assert "fused-16x16" not in listed(replace(depthwise, stride=(2, 2)))
    assert "fused-16x16" in listed(depthwise, "tf32", ConvPass.DGRAD)


def test_few_products_are_made_by_kernels():
    few, more = (made(make_case(problem(in_channels=4, out_channels=n)), "8x8") for n in (4, 5))
    assert (few.by_cublas, more.by_cublas) == (False, True)


def test_chunks_are_cut_for_the_l2_that_the_gpu_has():
    class Large(CudafftBackend):
        def probe(self):
            return None

        def device(self):
            return self

        def cache_bytes(self):
            return 10**9

    assert any(c.algorithm.endswith("-l2") for c in Unasked().algorithms(make_case(ALEXNET)))
    assert not any(c.algorithm.endswith("-l2") for c in Large().algorithms(make_case(ALEXNET)))


def test_tf32_is_estimated_to_be_quicker_where_products_take_the_time():
    large = replace(ALEXNET, in_channels=512, out_channels=512)
    assert listed(large, "tf32")["fft-16x16"].estimated_s < listed(large)["fft-16x16-3m"].estimated_s
    assert listed(large)["fft-16x16-3m"].estimated_s < listed(large)["fft-16x16"].estimated_s


def test_names():
    backend, case = Unasked(), make_case(problem())
    names = ("auto", "fft", "fused-8x8", "fft-16x16x16-3m", "fft-8x8-3xtf32", "fft-256", "fft-16-l2")
    assert all(map(backend.names, names))
    assert not backend.names("fft-24x24")
    operands = Operands(case.problem, case.dtype, 1)
    with pytest.raises(InputError, match="unknown algorithm 'fft-24x24' of backend cudafft"):
        backend.plan(case, "fft-24x24", operands, PlanOptions())
    for name, reason in (
        ("fft-256", "a transform of 256 points has 1 axes, the problem 2"), ("fused", "only fprop and dgrad of one ch"),
        ("fused-8x8", "only fprop and dgrad of one channel"), ("fft-8x8-l2", "L2 holds the spectra of plain chunks"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=reason):
            backend.plan(case, name, operands, PlanOptions())
    with pytest.raises(UnsupportedError, match="only products of strict fp32 are made otherwise"):
        backend.plan(make_case(problem(), precision="tf32"), "fft-8x8-3m", operands, PlanOptions())
    with pytest.raises(UnsupportedError, match="do not hold the filter"):
        backend.plan(make_case(problem(filter_size=(9, 2))), "fft-8x8", operands, PlanOptions())


def test_without_a_gpu_algorithms_are_listed_and_plans_say_why_there_are_none(monkeypatch):
    monkeypatch.setattr(cuda_module, "unusable", lambda: "no driver")
    backend, case = CudafftBackend(), make_case(problem())
    assert backend.probe() == "no driver"
    assert backend.listed_for() == "cudafft's algorithms are those for an H200; none can run here: no driver"
    assert backend.algorithms(case)[0].reason is None
    with pytest.raises(UnsupportedError, match=r"^no driver$"):
        backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())


def test_estimates_and_the_cache_come_from_the_case_alone():
    case = make_case(ALEXNET)
    again = Case(**{**{f: getattr(case, f) for f in case.__dataclass_fields__}, "name": "other", "repeat": 3})
    options = PlanOptions()
    assert Unasked()._planners(case, options) is Unasked()._planners(again, options)
    assert len(planners(case)) == 15


def test_importing_and_listing_are_light():
    script = (
        "import sys, convbench.backends.cudafft as c\n"
        "from convbench.problem import *\n"
        "p = Problem(batch=1, in_channels=1, out_channels=1, input_size=(99, 99), filter_size=(3, 3))\n"
        "c.CudafftBackend().algorithms(Case(suite='', name='', problem=p, conv_pass=ConvPass.FPROP))\n"
        "print(*({'numpy', 'scipy', 'cupy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == ""

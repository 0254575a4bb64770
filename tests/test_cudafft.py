"""The cudafft backend on the CPU, its kernels by NumPy: results, errors, counts of work, memory, faults."""

import contextlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from cudafft_arrays import ContractArrays, HostCudafft, addresses, structure
from hypothesis import given
from hypothesis import strategies as st
from test_cufft import CountingClock, make_case, problem

from convbench import verify
from convbench.backends import AUTO, PlanOptions
from convbench.backends.cudafft import kernels
from convbench.backends.cudafft.convolution import CudafftPlan
from convbench.backends.cudafft.kernels import TRANSFORMS
from convbench.backends.cudafft.planner import SPLIT, CudafftPlanner
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, ConvPass, Epilogue, Problem
from convbench.testing import check_backend, random_cases, random_problem
from convbench.work import real_fft_flops

BY_NAME = {transform.name: transform for transform in TRANSFORMS}
FP32, TF32 = PRECISIONS["fp32"], PRECISIONS["tf32"]


def in_fp32(case):
    return replace(case, dtype=FP32[0], math_mode=FP32[1])


def depthwise(case):
    """The same without strides, and with a channel and a filter a group."""
    p = case.problem
    alone = replace(p, out_channels=p.in_channels, groups=p.in_channels, stride=(1,) * p.ndim)
    return replace(case, problem=alone, epilogue=Epilogue.NONE)


def random_planner(rng, case):
    """A size that fits, fused at times where that can be, in chunks of a random part of the batch; or None."""
    p = case.problem
    sizes = [CudafftPlanner(case, t) for t in TRANSFORMS if t.ndim == p.ndim and t.points <= 4096]
    sizes = [of for of in sizes if of.reason is None]
    if not sizes:
        return None
    of = rng.choice([sizes[0], *sizes])  # mostly small ones, so that there are tiles
    images = rng.choice([each for each in range(1, 9) if p.batch % each == 0])
    alone = case.conv_pass is not ConvPass.WGRAD and of.channels * of.filters == 1
    of = replace(of, fused=alone and rng.random() < 0.6)
    if of.by_cublas and rng.random() < 0.3:
        of = replace(of, variant=SPLIT)
    return replace(of, limit_bytes=of._workspace(min(images, p.batch)))


def random_plans(seed, count, arrays=ContractArrays, max_macs=8000):
    """(case, operands, plan) of random linear cases."""
    rng = random.Random(seed)
    for case in random_cases(seed, count, max_macs):
        linear = replace(in_fp32(case), epilogue=Epilogue.NONE)
        if rng.random() < 0.2:
            linear = depthwise(linear)
        if of := random_planner(rng, linear):
            operands = Operands(linear.problem, linear.dtype, seed=1)
            yield linear, operands, CudafftPlan(of, operands, arrays())


def test_random_cases_of_every_algorithm_equal_the_reference():
    """All passes, layouts, epilogues, groups, strides, dilations, paddings."""
    assert check_backend(HostCudafft(), count=50, seed=7, max_macs=8000) == []


def test_random_sizes_and_chunks_equal_the_reference():
    seen = set()
    for case, operands, plan in random_plans(71, 350, max_macs=30_000):
        result = verify.verify(case, plan, operands, seed=0)
        of = plan._planner
        assert result.passed, f"{case.label()} {case.problem.describe()} {of.algorithm} {of.chunk}: {result.reason}"
        whole = of.tiles == 1
        seen.add((case.conv_pass, case.problem.ndim, whole, of.chunks > 1, of.by_cublas, of.fused))
    passes, dimensions, both = [*ConvPass], (1, 2, 3), (False, True)
    assert {key[:3] for key in seen} == {(p, n, whole) for p in passes for n in dimensions for whole in both}
    assert {(key[0], key[3]) for key in seen} == {(p, chunked) for p in passes for chunked in both}
    assert {(key[0], key[4]) for key in seen} == {(p, by_cublas) for p in passes for by_cublas in both}
    assert {(key[0], key[1]) for key in seen if key[5]} == {(p, n) for p in passes[:2] for n in dimensions}


@given(st.integers(0, 10**6))
def test_dgrad_is_the_adjoint_of_fprop_and_wgrad_of_both(seed):
    """⟨y(x, w), dy⟩ = ⟨x, dx(dy, w)⟩ = ⟨w, dw(dy, x)⟩, each pass on a size of its own."""
    rng = random.Random(seed)
    shape = random_problem(rng, 3000)
    products, scale = [], 1.0
    for conv_pass, other in zip(ConvPass, ("dy", "x", "w"), strict=True):
        case = make_case(shape, conv_pass)
        operands = Operands(shape, case.dtype, seed)
        if (of := random_planner(rng, case)) is None:
            return
        plan = CudafftPlan(of, operands, ContractArrays())
        plan.run()
        result, factor = (a.astype(np.float64) for a in (plan.output(), getattr(operands, other)))
        products.append(float(np.vdot(result, factor)))
        scale = max(scale, np.linalg.norm(result) * np.linalg.norm(factor))
    assert np.ptp(products) <= 3e-6 * scale


def test_a_second_run_gives_the_same_and_poison_is_overwritten():
    for case, _, plan in random_plans(73, 40):
        plan.run()
        first = plan.output()
        plan.poison()
        assert np.isnan(plan.output()).all()
        plan.run()
        np.testing.assert_array_equal(plan.output(), first, err_msg=case.problem.describe())


@pytest.mark.parametrize("conv_pass", ConvPass)
def test_an_empty_batch_does_nothing_but_the_zeros_of_dw(conv_pass):
    case = make_case(problem(batch=0), conv_pass)
    plan = HostCudafft().plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())
    plan.run()
    assert not plan.output().any()
    assert (plan.work.executed_flops, plan.workspace_bytes) == (0, 0)
    assert sum(phase.launches for phase in plan.work.phases) == (conv_pass is ConvPass.WGRAD)


def test_inputs_that_no_tap_touches_have_gradients_of_zero():
    # All outputs lie in the padding after: x is not read at all, and there is nothing to transform.
    shape = Problem(batch=2, in_channels=2, out_channels=3, input_size=(2,), filter_size=(1,), stride=(40,),
                    padding=((5, 0),))  # fmt: skip
    case = make_case(shape, ConvPass.DGRAD)
    plan = HostCudafft().plan(case, "fft-16", Operands(shape, case.dtype, 1), PlanOptions())
    plan.run()
    assert not plan.output().any()
    assert plan.work.executed_flops == 0


# tf32, and products otherwise in strict fp32


class RoundedArrays(ContractArrays):
    """cuBLAS' products as other modes have them: of operands rounded to so many bits; of three real products."""

    bits = 11

    def product(self, conv_pass, first, second, out, scale, add, mode):
        if mode == "tf32":
            first, second = self._rounded(first), self._rounded(second)
        elif mode == "fp32-3m":
            return self._three(conv_pass, first, second, out, scale, add)
        return super().product(conv_pass, first, second, out, scale, add, mode)

    def _rounded(self, array):
        parts = array.view(np.float32)
        mantissa, exponent = np.frexp(parts)
        cut = np.ldexp(np.trunc(np.ldexp(mantissa, self.bits)), exponent - self.bits)
        return cut.astype(np.float32).view(np.complex64)

    def _three(self, conv_pass, first, second, out, scale, add):
        """(a + ib)(c + id) from c(a + b), a(d - c) and b(c + d), in fp32."""
        if conv_pass is ConvPass.FPROP:
            second = second.conj().swapaxes(1, 2)
        elif conv_pass is ConvPass.WGRAD:
            first = first.conj().swapaxes(1, 2)
        a, b, c, d = first.real, first.imag, second.real, second.imag
        one, two, three = (a + b) @ c, a @ (d - c), b @ (c + d)
        found = np.float32(scale) * ((one - three) + 1j * (one + two))
        assert found.dtype == np.complex64
        out[...] = found + (out if add else 0)


class CoarseArrays(RoundedArrays):
    """bf16 where tf32 is asked for."""

    bits = 8


WIDE = {
    1: Problem(batch=4, in_channels=12, out_channels=8, input_size=(120,), filter_size=(9,)),
    2: Problem(batch=4, in_channels=12, out_channels=8, input_size=(25, 25), filter_size=(5, 5), padding=((2, 2),) * 2),
    3: Problem(batch=4, in_channels=12, out_channels=8, input_size=(12,) * 3, filter_size=(3, 3, 3)),
}


@pytest.mark.parametrize("ndim", WIDE)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_tf32_is_within_its_bound_and_less_is_not(conv_pass, ndim):
    case = make_case(WIDE[ndim], conv_pass, "tf32")
    operands = Operands(case.problem, case.dtype, 1)
    for name in [c.algorithm for c in HostCudafft().algorithms(case) if c.reason is None]:
        plan = HostCudafft(RoundedArrays).plan(case, name, operands, PlanOptions())
        assert (result := verify.verify(case, plan, operands, seed=0, accuracy=1e-6)).passed, f"{name} {result.reason}"
        assert result.rms_error > 3e-5  # it is rounded
        coarse = HostCudafft(CoarseArrays).plan(case, name, operands, PlanOptions())
        assert not verify.verify(case, coarse, operands, seed=0).passed
    strict = make_case(WIDE[ndim], conv_pass)
    assert not verify.verify(strict, plan, operands, seed=0).passed  # its bound is tf32's, not fp32's


@pytest.mark.parametrize("ndim", WIDE)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_other_products_keep_their_tier(conv_pass, ndim):
    case = make_case(WIDE[ndim], conv_pass)
    operands = Operands(case.problem, case.dtype, 1)
    found = [c for c in HostCudafft().algorithms(case) if c.algorithm.endswith(("-3m", "-3xtf32")) and c.reason is None]
    assert len(found) > 2
    for candidate in found:
        plan = HostCudafft(RoundedArrays).plan(case, candidate.algorithm, operands, PlanOptions())
        result = verify.verify(case, plan, operands, seed=0, accuracy=candidate.accuracy)
        assert result.passed, f"{candidate.algorithm} {result.reason}"


def test_numbers_split_in_two_keep_what_fp32_does_and_not_in_fewer_bits():
    case = make_case(WIDE[2])
    operands = Operands(case.problem, case.dtype, 1)
    errors = {}
    for arrays in (RoundedArrays, CoarseArrays):
        plan = HostCudafft(arrays).plan(case, "fft-16x16-3xtf32", operands, PlanOptions())
        errors[arrays] = verify.verify(case, plan, operands, seed=0)
    plain = HostCudafft(RoundedArrays).plan(case, "fft-16x16", operands, PlanOptions())
    assert errors[RoundedArrays].rms_error < 4 * verify.verify(case, plain, operands, seed=0).rms_error
    assert not errors[CoarseArrays].passed


# Counts


class Counting(ContractArrays):
    """Counts flops, bytes and launches by what kernels are given, phase by phase."""

    def __init__(self):
        self.counts = {"flops": 0, "read": 0, "written": 0, "launches": 0}

    def _count(self, flops, read, written):
        for name, number in zip(self.counts, (flops, read, written, 1), strict=True):
            self.counts[name] += number

    def fill(self, array, value):
        self._count(0, 0, array.nbytes)
        super().fill(array, value)

    def product(self, conv_pass, first, second, out, scale, add, mode):
        summed = first.shape[1] if conv_pass is ConvPass.WGRAD else first.shape[2]
        self._count(8 * out.size * summed, first.nbytes + second.nbytes + add * out.nbytes, out.nbytes)
        super().product(conv_pass, first, second, out, scale, add, mode)

    def kernel(self, source, name, options):
        run = super().kernel(source, name, options)
        transform = next((t for t in TRANSFORMS if kernels.options(t) == options), None)

        def counted(grid, block, arguments, shared_bytes):
            if transform:
                self._count(*getattr(self, f"_{name}")(transform, grid[1], *arguments))
            elif name == "split":
                numbers, low, count = arguments
                self._count(2 * int(count), numbers.nbytes, numbers.nbytes + low.nbytes)
            else:
                first, second, out, matrices, rows, channels, filters, _, add = arguments
                multiplies = math.prod(map(int, (matrices, rows, channels, filters)))
                self._count(8 * multiplies, first.nbytes + second.nbytes + add * out.nbytes, out.nbytes)
            run(grid, block, arguments, shared_bytes)

        return counted

    @staticmethod
    def _elements(transform, groups, where, offsets):
        return np.count_nonzero(addresses(transform, where, offsets, groups) >= 0)

    def _flops(self, transform, groups, where):
        return groups * int(structure(where)["planes"]) * real_fft_flops(transform.points)

    def _forward(self, transform, groups, tensor, spectra, where, offsets):
        loaded = self._elements(transform, groups, where, offsets)
        return self._flops(transform, groups, where), 4 * loaded, spectra.nbytes

    def _inverse(self, transform, groups, spectra, tensor, where, offsets, bias, relu):
        stored, biased = self._elements(transform, groups, where, offsets), isinstance(bias, np.ndarray)
        flops = self._flops(transform, groups, where) + (biased + int(relu)) * stored
        return flops, spectra.nbytes + (bias.nbytes if biased else 0), 4 * stored

    def _fused(self, transform, groups, source, filters, target, where, offsets, to, to_offsets, conjugate, scale, bias,
               relu):  # fmt: skip
        flops, read, written = self._inverse(transform, groups, filters, target, to, to_offsets, bias, relu)
        multiplies = groups * int(structure(where)["planes"]) * transform.bins
        loaded = self._elements(transform, groups, where, offsets)
        return flops + self._flops(transform, groups, where) + 8 * multiplies, read + 4 * loaded, written


def test_the_work_of_each_phase_is_what_the_kernels_are_given():
    rng, seen = random.Random(5), set()
    for case in map(in_fp32, random_cases(seed=52, count=250, max_macs=8000)):
        if (of := random_planner(rng, case)) is None:
            continue
        arrays = Counting()
        plan = CudafftPlan(of, Operands(case.problem, case.dtype, 1), arrays)
        done = [dict.fromkeys(arrays.counts, 0) for _ in plan.work.phases]
        for phase, step in plan._steps:
            arrays.counts = done[phase]
            step()
        stated = [
            {"flops": phase.flops, "read": phase.bytes_read, "written": phase.bytes_written, "launches": phase.launches}
            for phase in plan.work.phases
        ]
        assert done == stated, f"{case.label()} {case.problem.describe()} {of.algorithm} {of.chunk}"
        seen.add((case.conv_pass, of.fused, of.by_cublas, of.split, of.chunks > 1, case.epilogue))
    assert len(seen) > 15


def test_phases_are_timed_in_the_order_of_the_work():
    for conv_pass in ConvPass:
        case = make_case(problem(batch=4), conv_pass)
        of = CudafftPlanner(case, BY_NAME["8x8"])
        of = replace(of, limit_bytes=of._workspace(2))
        plan = CudafftPlan(of, Operands(case.problem, case.dtype, 1), ContractArrays())
        plan.run()
        expected = plan.output()
        plan.poison()
        seconds = plan.run_phases(CountingClock())
        np.testing.assert_array_equal(plan.output(), expected)
        # Two chunks; the filter is transformed once, and dw once transformed back.
        assert seconds == ([2, 2, 2, 1] if conv_pass is ConvPass.WGRAD else [2, 1, 2, 2])


def test_the_workspace_is_what_is_allocated_beside_tensors():
    class Allocating(ContractArrays):
        def __init__(self):
            self.arrays = []

        def upload(self, array):
            self.arrays.append(super().upload(array))
            return self.arrays[-1]

        def zeros(self, shape, dtype):
            self.arrays.append(super().zeros(shape, dtype))
            return self.arrays[-1]

    made = []

    def arrays():
        made.append(Allocating())
        return made[-1]

    for case, _, plan in random_plans(77, 60, arrays):
        p = case.problem
        tensors = 4 * sum(map(math.prod, (p.x_shape, p.w_shape, p.y_shape)))
        assert plan.workspace_bytes == sum(array.nbytes for array in made[-1].arrays) - tensors, p.describe()
        assert plan.workspace_bytes <= plan._planner.limit_bytes


# Faults


def plan_on(arrays, algorithm=AUTO):
    case = make_case(problem())
    return HostCudafft(arrays).plan(case, algorithm, Operands(case.problem, case.dtype, 1), PlanOptions())


def test_a_kernel_that_does_not_compile_is_a_reason():
    class Old(ContractArrays):
        def kernel(self, source, name, options):
            raise UnsupportedError(f"kernel {name} does not compile for this GPU: too old")

    with pytest.raises(UnsupportedError, match="kernel forward does not compile for this GPU"):
        plan_on(Old)


def test_short_memory_is_a_memory_error():
    class Small(ContractArrays):
        @contextlib.contextmanager
        def active(self):
            yield

        def zeros(self, shape, dtype):
            if len(shape) == 3:
                raise MemoryError("out of memory")
            return super().zeros(shape, dtype)

    with pytest.raises(MemoryError):
        plan_on(Small)


def test_a_plan_runs_once_before_it_may_be_captured():
    launched = []

    class Watched(ContractArrays):
        def kernel(self, source, name, options):
            run = super().kernel(source, name, options)

            def launch(*given):
                launched.append(name)
                run(*given)

            return launch

    plan = plan_on(Watched, "fft-8x8")
    assert launched == ["forward", "forward", "inverse"]
    assert np.isnan(plan.output()).all()
    assert plan.build_s > 0


def test_a_plan_says_how_it_is_cut_and_who_multiplies():
    assert plan_on(ContractArrays, "fft-8x8").notes == (
        "tiles 2×1", "chunks 1 of 2 images", "products by cuBLAS in fp32",
    )  # fmt: skip
    shape = problem(in_channels=4, out_channels=4, groups=4)
    notes = {}
    for name in ("fft-16x16", "fused-16x16"):
        case = make_case(shape, precision="tf32")
        plan = HostCudafft().plan(case, name, Operands(shape, case.dtype, 1), PlanOptions())
        notes[name] = plan.notes[2:]
    assert notes == {"fft-16x16": ("products by kernels in fp32",), "fused-16x16": ()}

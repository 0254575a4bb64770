"""The torch backend: what it says without torch, and every algorithm against the reference with it."""

import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import fused, verify
from convbench.backends import AUTO, ErrorBound, PlanOptions
from convbench.backends import torch as backend_module
from convbench.backends.torch import ALGORITHMS, LIBRARY_BYTES, TorchBackend, scratch_bytes, split_padding
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Axis, Case, ConvPass, Dtype, Epilogue, Layout, Problem
from convbench.recheck import linear_plan, poisoned
from convbench.testing import check_backend, random_cases
from convbench.work import nominal_work


def problem(batch, channels, filters, size, taps, **rest):
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=size, filter_size=taps, **rest)


PROBLEMS = {
    "pointwise": problem(16, 8, 12, (9, 7), (1, 1)),
    "alexnet conv1, small": problem(2, 3, 8, (35, 35), (11, 11), stride=(4, 4), padding=((2, 2), (2, 2))),
    "vgg, small": problem(2, 16, 16, (14, 14), (3, 3), padding=((1, 1), (1, 1))),
    "depthwise": problem(3, 32, 32, (12, 9), (3, 3), groups=32, padding=((1, 1), (1, 1))),
    "groups": problem(2, 12, 18, (8, 7), (3, 2), groups=3, padding=((1, 0), (0, 1))),
    "same, even filter": problem(2, 3, 4, (10, 11), (4, 2), padding=((1, 2), (0, 1))),
    "same, stride 2": problem(2, 3, 4, (12, 13), (3, 5), stride=(2, 2), padding=((0, 1), (1, 2))),
    "cropped": problem(2, 3, 4, (10, 10), (3, 3), padding=((0, -3), (2, -2))),
    "cropped into the padding": problem(2, 3, 4, (3, 4), (2, 2), padding=((6, -4), (1, 0))),
    "one-dimensional": problem(4, 6, 7, (50,), (7,), dilation=(3,), padding=((9, 9),)),
    "one-dimensional, one channel": problem(2, 1, 3, (20,), (3,), padding=((1, 1),)),
    "three-dimensional": problem(2, 3, 4, (5, 9, 8), (3, 3, 3), padding=((1, 1),) * 3, stride=(1, 2, 1)),
    "three-dimensional, blocked": problem(2, 16, 32, (4, 6, 5), (3, 3, 3), padding=((1, 1),) * 3),
    "empty batch": problem(0, 3, 4, (8, 8), (3, 3)),
}
NNPACK = {
    "one tile": problem(2, 4, 6, (13, 13), (3, 3), padding=((1, 1), (1, 1))),
    "several tiles of 8": problem(2, 8, 4, (30, 25), (3, 3), padding=((0, 0), (2, 2))),
    "5×5": problem(1, 3, 5, (27, 27), (5, 5), padding=((2, 2), (2, 2))),
    "13×13": problem(2, 4, 4, (32, 40), (13, 13), padding=((6, 6), (6, 6))),
    "16×16": problem(1, 2, 3, (20, 16), (16, 16)),
    "1×1": problem(2, 8, 4, (6, 7), (1, 1)),
}


def make_case(shape, conv_pass=ConvPass.FPROP, layout=Layout.NCHW, precision="fp32", epilogue=Epilogue.NONE):
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, layout=layout, dtype=dtype,
                math_mode=math_mode, epilogue=epilogue)  # fmt: skip


def reasons(case, threads=1):
    found = TorchBackend().algorithms(case, PlanOptions(threads=threads))
    return {candidate.algorithm: candidate.reason for candidate in found}


# Without torch


def test_probe_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what cannot be imported
    assert TorchBackend().probe() == 'PyTorch is not installed: pip install "convbench[torch]"'
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", lambda name: object())
    assert TorchBackend().probe() is None


def test_torch_is_loaded_by_plan_only():
    script = (
        "import sys; from convbench.backends.torch import TorchBackend; from convbench.testing import random_cases\n"
        "b = TorchBackend(); b.probe(), b.device(), [b.algorithms(case) for case in random_cases(0, 20)]\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "False"


def test_it_shares_the_device_of_the_cpu_backend():
    assert TorchBackend().device().name == "cpu"


SQUARE = PROBLEMS["vgg, small"]


@pytest.mark.parametrize(
    ("case", "able", "text"),
    [
        (make_case(SQUARE), {AUTO, *ALGORITHMS}, ""),
        (make_case(SQUARE, layout=Layout.NHWC), {AUTO, "onednn", "onednn-blocked", "native"}, "2-D in nchw"),
        (make_case(SQUARE, layout=Layout.CHWN), set(), "no layout with the batch innermost"),
        (make_case(SQUARE, precision="fp64"), {AUTO, "native"}, "f"),
        (
            make_case(problem(1, 8, 8, (6, 6), (1, 1))),
            {AUTO, "onednn-blocked", "native", "nnpack"},
            "own kernels for this",
        ),
        (make_case(SQUARE, precision="bf16"), set(), "in fp32 and fp64, not in bf16"),
        (make_case(SQUARE, precision="tf32"), set(), "not in tf32"),
        (make_case(SQUARE, ConvPass.DGRAD), {AUTO, "onednn", "native"}, "is for fprop"),
        (make_case(PROBLEMS["same, even filter"]), {AUTO, "onednn", "native"}, "the same padding on both sides"),
        (make_case(PROBLEMS["empty batch"]), {AUTO, "native"}, ""),
        (make_case(PROBLEMS["groups"]), {AUTO, "onednn", "native"}, "is for fprop"),
        (make_case(PROBLEMS["depthwise"]), {AUTO, "onednn", "onednn-blocked", "native"}, "one group"),
        (make_case(problem(1, 1, 1, (20, 20), (17, 17))), {AUTO, "onednn", "onednn-blocked", "native"}, "up to 16"),
    ],
)
def test_what_it_can_and_why_not(case, able, text):
    found = reasons(case)
    assert {name for name, reason in found.items() if reason is None} == able
    assert all(text in reason for reason in found.values() if reason)
    for name in found.keys() - able:
        with pytest.raises(UnsupportedError, match=re.escape(found[name])):
            TorchBackend().plan(case, name, Operands(case.problem, Dtype.FP32, 0), PlanOptions())


def test_auto_is_onednn_where_that_has_the_type():
    for precision, chosen in (("fp32", "onednn"), ("fp64", "native")):
        found = {c.algorithm: c for c in TorchBackend().algorithms(make_case(SQUARE, precision=precision))}
        assert found[AUTO] == replace(found[chosen], algorithm=AUTO, resolves_to=chosen)


def test_an_unknown_algorithm_is_named():
    with pytest.raises(InputError, match="unknown algorithm 'oneddn' of backend torch; did you mean 'onednn'"):
        TorchBackend().plan(make_case(SQUARE), "oneddn", Operands(SQUARE, Dtype.FP32, 0), PlanOptions())


def test_memory_of_native_holds_the_gathered_windows():
    assert scratch_bytes("native", make_case(SQUARE)) == 4 * (2 * 16 * 14 * 14 * 2 + 9 * 2 * 16 * 14 * 14)
    halves = replace(SQUARE, groups=2)
    assert scratch_bytes("native", make_case(halves)) == 4 * (2 * 16 * 14 * 14 * 2 + 9 * 2 * 8 * 14 * 14)


def test_memory_counts_what_the_allocator_keeps():
    for case in (make_case(SQUARE), make_case(replace(SQUARE, groups=8))):
        tensors = 4 * (2 * 16 * 14 * 14 * 2 + math.prod(case.problem.w_shape))
        found = {c.algorithm: c for c in TorchBackend().algorithms(case) if c.reason is None}
        for name, candidate in found.items():
            blocks = max(3, case.problem.groups) if name == "native" else 3
            kept = blocks * scratch_bytes("onednn" if name == AUTO else name, case)
            assert candidate.transient_bytes == kept
            assert candidate.memory_bytes == tensors + kept + LIBRARY_BYTES


axes = st.builds(
    Axis,
    input=st.integers(1, 12),
    filter=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    before=st.integers(0, 7),
    after=st.integers(-8, 7),
).filter(lambda a: a.input + a.before + a.after > a.reach)


@given(axes)
def test_padding_is_split_without_moving_an_output(axis):
    """Each output reads the same inputs, where the convolution pads both sides alike and the rest is added before."""
    both, (before, after) = split_padding(axis)
    assert both >= 0
    assert both + before == axis.before
    alike = Axis(axis.input + before + after, axis.filter, axis.stride, axis.dilation, both, both)
    assert alike.output == axis.output
    first_unread = (axis.output - 1) * axis.stride + axis.reach + 1 - axis.before
    assert both + after >= axis.after or first_unread <= axis.input + axis.after  # what is cropped is not read
    if axis.after < 0:
        assert first_unread <= axis.input + min(0, after) + max(0, both + min(0, after)) or both == axis.before


@pytest.mark.parametrize(
    ("axis", "split"),
    [
        (Axis(14, 3, 1, 1, 1, 1), (1, (0, 0))),
        (Axis(14, 4, 1, 1, 1, 2), (1, (0, 1))),
        (Axis(14, 4, 1, 1, 2, 1), (1, (1, 0))),
        (Axis(12, 3, 2, 1, 0, 1), (0, (0, 1))),
        (Axis(13, 3, 2, 1, 1, 0), (0, (1, 0))),
        (Axis(12, 3, 2, 1, 1, 0), (1, (0, 0))),
        (Axis(10, 3, 1, 1, 2, -2), (0, (2, -2))),
    ],
)
def test_split_padding(axis, split):
    assert split_padding(axis) == split


# With torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def make_plan(case, algorithm, threads=1):
    operands = Operands(case.problem, case.dtype, seed=1)
    return TorchBackend().plan(case, algorithm, operands, PlanOptions(threads=threads)), operands


def assert_right(case, algorithm, threads=1):
    """The plan, verified in its tier."""
    operands = Operands(case.problem, case.dtype, seed=1)
    options = PlanOptions(threads=threads)
    linear_case = replace(case, epilogue=Epilogue.NONE)
    candidate = next(c for c in TorchBackend().algorithms(case, options) if c.algorithm == algorithm)
    plan = TorchBackend().plan(case, algorithm, operands, options)
    linear = linear_plan(TorchBackend(), case, plan, algorithm, operands, options)
    result = verify.verify(linear_case, linear, operands, 0, candidate.accuracy)
    where = f"{algorithm} {case.label()} {case.problem.describe()}"
    assert result.passed, f"{where}: {result.reason}"
    if case.epilogue is not Epilogue.NONE:
        plan.run()
        assert poisoned(plan) is None, where
        plan.run()
        reason = fused.check_epilogue(case, linear.output(), plan.output(), operands, plan.error_bound)
        assert reason is None, where
    return plan


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_equals_the_reference(torch, shape, conv_pass, layout):
    planned = set()
    for precision, epilogue in itertools.product(("fp32", "fp64"), Epilogue):
        if epilogue is Epilogue.NONE or conv_pass is ConvPass.FPROP:
            case = make_case(shape, conv_pass, layout, precision, epilogue)
            for name in (name for name, reason in reasons(case).items() if reason is None):
                assert_right(case, name)
                planned.add(name)
    assert {AUTO, "native"} <= planned
    assert ("onednn" in planned) == (shape.batch > 0)


@pytest.mark.parametrize("epilogue", Epilogue)
@pytest.mark.parametrize("shape", NNPACK.values(), ids=NNPACK)
def test_nnpack_equals_the_reference(torch, shape, epilogue):
    if not torch._nnpack_available():
        pytest.skip("this torch has no NNPACK here")
    plan = assert_right(make_case(shape, epilogue=epilogue), "nnpack")
    assert plan.error_bound.transform_points == 256


def test_random_cases(torch):
    assert check_backend(TorchBackend(), count=400, max_macs=50_000) == []


def test_torchs_own_choice_is_known_beforehand(torch):
    seen = set()
    for case in random_cases(seed=3, count=300):
        for threads in (1, 2):
            plan, options = None, PlanOptions(threads=threads)
            auto = TorchBackend().algorithms(case, options)[0]
            if auto.reason is None:
                plan = TorchBackend().plan(case, AUTO, Operands(case.problem, case.dtype, 1), options)
                assert plan.algorithm == auto.resolves_to
                seen.add((plan.algorithm, threads))
    assert len(seen) == 4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("size", "chosen"),
    [((10, 20, 40), "native"), ((32, 216, 3), "onednn"), ((32, 213, 9), "native"), ((150, 140), "onednn")],
)
def test_of_three_axes_torch_multiplies_the_first_two(torch, size, chosen, threads):
    case = make_case(problem(1, 3 if len(size) == 3 else 1, 2, size, (3,) * len(size)))
    options = PlanOptions(threads=threads)
    assert TorchBackend().algorithms(case, options)[0].resolves_to == chosen
    assert TorchBackend().plan(case, AUTO, Operands(case.problem, case.dtype, 1), options).algorithm == chosen


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_leaves_nothing_of_a_poisoned_output_and_of_torchs_settings(torch, algorithm):
    settings = torch._C._get_mkldnn_enabled(), torch._C._get_nnpack_enabled()
    for layout in (Layout.NCHW, Layout.NHWC):
        case = make_case(SQUARE, layout=layout)
        if reasons(case)[algorithm]:
            continue
        plan, _ = make_plan(case, algorithm)
        assert np.isnan(plan.output()).all()
        plan.run()
        assert np.isfinite(plan.output()).all()
        assert plan.output().shape == case.output_shape
        assert plan.work == nominal_work(case)
        assert poisoned(plan) is None
        first = plan.output().copy()
        plan.run()
        assert np.isfinite(plan.output()).all()
        assert np.isnan(first).all()
    assert (torch._C._get_mkldnn_enabled(), torch._C._get_nnpack_enabled()) == settings


def test_native_sets_back_what_it_switches_off_when_it_breaks(torch):
    plan, _ = make_plan(make_case(SQUARE), "native")
    plan._w = plan._w[:, :3]
    with pytest.raises(RuntimeError):
        plan.run()
    assert torch._C._get_mkldnn_enabled()
    assert torch._C._get_nnpack_enabled()


def test_sums_in_one_chain_are_allowed_more(torch):
    bounds = {
        name: make_plan(make_case(SQUARE), name)[0].error_bound for name in ("onednn", "onednn-blocked", "native")
    }
    assert set(bounds.values()) == {ErrorBound(growth=2.0)}


def test_threads_are_those_of_the_plan(torch):
    one, _ = make_plan(make_case(SQUARE), "onednn", threads=1)
    two, _ = make_plan(make_case(SQUARE), "onednn", threads=2)
    for plan, threads in ((one, 1), (two, 2), (one, 1)):
        plan.run()
        assert torch.get_num_threads() == threads


def test_a_torch_that_chooses_otherwise_is_believed(torch, monkeypatch):
    case = make_case(problem(1, 8, 8, (6, 6), (1, 1)))
    monkeypatch.setattr(backend_module, "takes_onednn", lambda case, threads: True)
    with pytest.raises(UnsupportedError, match=r"this version of torch takes its own kernel \(Slow2d\) for this case"):
        make_plan(case, "onednn")
    assert make_plan(case, AUTO)[0].algorithm == "native"


def test_freed_memory_is_kept_for_the_next_output(torch):
    case = make_case(problem(1, 8, 64, (256, 256), (3, 3), padding=((1, 1), (1, 1))))
    plan, _ = make_plan(case, "onednn")
    found = set()
    for _ in range(6):
        plan.run()
        found.add(plan.output().ctypes.data)
    assert len(found) <= 2


def test_it_shows_a_peak(torch):
    """Of as many flops as it says: by the definition, a convolution of 8 images a thread."""
    (probe,) = TorchBackend().peaks(2)
    assert (probe.kind, probe.name) == ("compute", "fp32")
    assert probe.amount == 2 * 16 * 128 * 128 * 28**2 * 9
    probe.run(2)

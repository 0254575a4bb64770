"""What a case is predicted to need in memory, beside what it takes."""

import tracemalloc
from dataclasses import replace

import pytest

from convbench import verify
from convbench.backends import ErrorBound
from convbench.memory import operand_bytes, transfer_bytes, verification_bytes
from convbench.operands import Operands, decode, encode, from_layout, to_layout
from convbench.problem import PRECISIONS, Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.testing import reference_output

PROBLEM = Problem(batch=2, in_channels=2, out_channels=3, input_size=(6, 6), filter_size=(3, 3))


def test_operand_bytes_are_what_the_pass_reads():
    # x 2·2·6·6 = 144, w 3·2·3·3 = 54, y 2·3·4·4 = 96 elements of 4 bytes
    fprop, dgrad, wgrad = (Case(suite="s", name="p", problem=PROBLEM, conv_pass=p) for p in ConvPass)
    assert operand_bytes(fprop) == 4 * (144 + 54)
    assert operand_bytes(dgrad) == 4 * (96 + 54)
    assert operand_bytes(wgrad) == 4 * (144 + 96)
    assert operand_bytes(replace(fprop, dtype=Dtype.FP64, math_mode=MathMode.FP64)) == 8 * (144 + 54)


SHAPES = {
    "a huge input of few products": Problem(batch=64, in_channels=1, out_channels=1, input_size=(100_000,),
                                            filter_size=(1,), stride=(1000,)),
    "depthwise": Problem(batch=4, in_channels=64, out_channels=64, groups=64, input_size=(56, 56), filter_size=(3, 3),
                         padding=((1, 1), (1, 1))),
    "dense": Problem(batch=8, in_channels=64, out_channels=64, input_size=(28, 28), filter_size=(3, 3)),
    "one image": Problem(batch=1, in_channels=3, out_channels=16, input_size=(200, 200), filter_size=(7, 7)),
    "very many taps": Problem(batch=2, in_channels=2, out_channels=2, input_size=(300, 300), filter_size=(100, 100)),
}  # fmt: skip


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_checking_stays_within_the_prediction_and_near_it(shape, conv_pass):
    """NumPy's own memory; benchmarks/memory.py measures the process."""
    case = Case(suite="s", name="p", problem=shape, conv_pass=conv_pass)
    operands = Operands(shape, Dtype.FP32, 0)
    output = reference_output(case, operands)
    tracemalloc.start()
    try:
        assert verify.check(case, output, operands, ErrorBound(), seed=0).passed
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.4 * verification_bytes(case) <= peak <= 1.1 * verification_bytes(case) + (1 << 20)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_on_their_way_to_a_device_stay_within_the_prediction(precision, layout):
    dtype, math_mode = PRECISIONS[precision]
    case = Case(suite="s", name="p", problem=SHAPES["dense"], conv_pass=ConvPass.FPROP, dtype=dtype,
                math_mode=math_mode, layout=layout)  # fmt: skip
    x = Operands(case.problem, dtype, 0).x
    tracemalloc.start()
    try:
        stored = to_layout(encode(x, dtype), layout)
        there = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert from_layout(decode(stored.copy(), dtype), layout).shape == x.shape
        back = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(there, back) <= transfer_bytes(case) + (1 << 16)


def test_an_epilogue_is_verified_beside_a_second_output():
    case = Case(suite="s", name="p", problem=PROBLEM, conv_pass=ConvPass.FPROP)
    fused = replace(case, epilogue=Epilogue.BIAS)
    assert transfer_bytes(case) == 3 * 4 * 144
    assert transfer_bytes(fused) - transfer_bytes(case) == 4 * 96

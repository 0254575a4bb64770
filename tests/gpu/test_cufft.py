"""cuFFT and cuBLAS on a real GPU: pytest -m gpu. It has not run yet: no GPU was there when it was written."""

import numpy as np
import pytest

from convbench.backends import AUTO, PlanOptions
from convbench.backends.cuda.arrays import CudaArrays
from convbench.backends.cuda.cublas import ProductMode
from convbench.backends.cufft import CufftBackend
from convbench.backends.cufft.planner import CufftPlanner, tiled_planner, whole_planner
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Problem
from convbench.testing import check_backend

pytestmark = pytest.mark.gpu

SHAPES = {
    "dense": Problem(batch=4, in_channels=16, out_channels=32, input_size=(60, 60), filter_size=(5, 5),
                     padding=((2, 2),) * 2),
    "strides": Problem(batch=4, in_channels=3, out_channels=16, input_size=(99, 99), filter_size=(11, 11),
                       stride=(4, 4)),
    "depthwise": Problem(batch=4, in_channels=32, out_channels=32, groups=32, input_size=(60, 60), filter_size=(7, 7)),
    "a row": Problem(batch=4, in_channels=8, out_channels=8, input_size=(5000,), filter_size=(33,)),
    "three axes": Problem(batch=4, in_channels=4, out_channels=4, input_size=(40,) * 3, filter_size=(3,) * 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    found = CufftBackend()
    if reason := found.probe():
        pytest.skip(reason)
    return found


def make_case(shape, conv_pass, precision="fp32"):
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=shape, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode)


def test_random_cases(backend):
    assert check_backend(backend, count=100, max_macs=100_000) == []


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_graph_of_tiles_in_chunks_equals_whole_planes(backend, shape, conv_pass, precision):
    case = make_case(shape, conv_pass, precision)
    operands = Operands(shape, case.dtype, 1)
    whole = backend.plan(case, "fft-whole", operands, PlanOptions())
    whole.run()
    made = CufftPlanner(case, tiled_planner(case).steps)
    limit = made._workspace(2)
    tiles = backend.plan(case, "fft-tiled", operands, PlanOptions(workspace_limit_bytes=limit))
    tiles.run()
    tiles.poison()
    replay = backend.device().cuda.capture(tiles.run)
    replay()
    tolerance = 1e-3 if precision == "fp32" else 1e-10
    np.testing.assert_allclose(tiles.output(), whole.output(), rtol=0, atol=tolerance * np.abs(whole.output()).max())


def test_phases_add_up_to_about_a_run(backend):
    case = make_case(SHAPES["dense"], ConvPass.FPROP)
    plan = backend.plan(case, AUTO, Operands(case.problem, case.dtype, 1), PlanOptions())
    plan.run()
    clock = backend.device().clock(1)
    once = min(clock.sample(plan.run, 1).wall_s for _ in range(5))
    assert 0.5 * once < sum(plan.run_phases(clock)) < 3 * once


@pytest.mark.parametrize("conv_pass", ConvPass)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cufft_asks_for_no_more_than_was_guessed(backend, shape, conv_pass):
    case = make_case(shape, conv_pass)
    plan = backend.plan(case, "fft-whole", Operands(shape, case.dtype, 1), PlanOptions())
    assert plan.workspace_bytes <= whole_planner(case).workspace_bytes


# Arrays

TOLERANCES = {ProductMode.FP64: 1e-13, ProductMode.FP32: 1e-5, ProductMode.FP32_3M: 1e-4, ProductMode.TF32: 1e-2}
KERNEL = """
extern "C" __global__ void add(const float* first, const float* second, float* sum, int count, float scale) {
    extern __shared__ float buffer[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer[threadIdx.x + OFFSET] = i < count ? first[i] : 0;
    __syncthreads();
    if (i < count) sum[i] = scale * (buffer[threadIdx.x + OFFSET] + (second ? second[i] : 0));
}
"""


@pytest.mark.parametrize("extents", [(70_000, 3, 4, 5), (33, 64, 48, 40), (2, 1, 200, 1)])
@pytest.mark.parametrize("mode", ProductMode)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_products_in_a_graph(backend, conv_pass, mode, extents):
    arrays, rng = CudaArrays(backend.device()), np.random.default_rng(0)
    batch, images, channels, filters = extents

    def drawn(*shape):
        values = rng.standard_normal((2, batch, *shape))
        return (values[0] + 1j * values[1]).astype(np.complex128 if mode is ProductMode.FP64 else np.complex64)

    x, w, y = drawn(images, channels), drawn(filters, channels), drawn(images, filters)
    first, second, before, due = {
        ConvPass.FPROP: (x, w, y, x @ w.conj().swapaxes(1, 2)),
        ConvPass.DGRAD: (y, w, x, y @ w),
        ConvPass.WGRAD: (y, x, w, y.conj().swapaxes(1, 2) @ x),
    }[conv_pass]
    with arrays.active():
        a, b, out = map(arrays.upload, (first, second, before))

        def work():
            arrays.product(conv_pass, a, b, out, 0.5, False, mode)
            arrays.product(conv_pass, a, b, out, 0.25, True, mode)

        work()
        arrays.fill(out, np.nan)
        backend.device().cuda.capture(work)()
        found = arrays.download(out)
    np.testing.assert_allclose(found, 0.75 * due, rtol=0, atol=TOLERANCES[mode] * np.abs(due).max())


@pytest.mark.parametrize("offset", [0, 20_000])
def test_a_kernel_with_little_and_much_shared_memory(backend, offset):
    arrays = CudaArrays(backend.device())
    with arrays.active():
        launch = arrays.kernel(KERNEL, "add", ("-std=c++17", f"-DOFFSET={offset}"))
        first = arrays.upload(np.arange(1000, dtype=np.float32))
        out = arrays.zeros((1000,), np.float32)
        launch((8,), (128,), (first[10:], 0, out[10:], 990, np.float32(3)), 4 * (offset + 128))
        found = arrays.download(out)
    np.testing.assert_array_equal(found, np.where(np.arange(1000) < 10, 0, 3 * np.arange(1000)))


def test_kernels_that_do_not_compile_or_want_too_much(backend):
    arrays = CudaArrays(backend.device())
    with arrays.active():
        with pytest.raises(UnsupportedError, match=r"kernel add does not compile for this GPU: .*OFFSET"):
            arrays.kernel(KERNEL, "add", ("-std=c++17",))
        launch = arrays.kernel(KERNEL, "add", ("-std=c++17", "-DOFFSET=0"))
        with pytest.raises(UnsupportedError, match="wants 1048576 bytes of shared memory"):
            launch((1,), (128,), (0, 0, 0, 0, np.float32(1)), 1 << 20)

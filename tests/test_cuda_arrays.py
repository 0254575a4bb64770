"""Arrays on a GPU: products through cuBLAS and kernels through NVRTC, on stand-ins that check what they are given."""

import ctypes
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import CudaError
from fake_cupy import OUT_OF_MEMORY, FakeKernel, fake_gpu

from convbench.backends.cuda import cublas
from convbench.backends.cuda.arrays import CudaArrays
from convbench.backends.cuda.cublas import WORKSPACE_BYTES, ProductMode, gemm, library
from convbench.errors import UnsupportedError
from convbench.problem import PRECISIONS, ConvPass

TYPES = {
    ProductMode.FP64: (np.complex128, 70),
    ProductMode.FP32: (np.complex64, 68),
    ProductMode.FP32_3M: (np.complex64, "3m"),
    ProductMode.TF32: (np.complex64, 77),
}
SHAPES = [(5, 3, 4, 6), (1, 1, 1, 1), (2, 7, 1, 3), (3, 1, 5, 2)]


def drawn(module, dtype, *shape):
    rng = np.random.default_rng(0)
    return module.array(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), "C").astype(dtype)


# Products


@pytest.mark.parametrize("extents", SHAPES)
@pytest.mark.parametrize("mode", ProductMode)
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_the_product_of_each_pass(monkeypatch, conv_pass, mode, extents):
    device, module, _ = fake_gpu(monkeypatch)
    arrays, (dtype, arithmetic) = CudaArrays(device), TYPES[mode]
    batch, images, channels, filters = extents
    x = drawn(module, dtype, batch, images, channels)
    w = drawn(module, dtype, batch, filters, channels)
    y = drawn(module, dtype, batch, images, filters)
    first, second, out, formula = {
        ConvPass.FPROP: (x, w, y, lambda: np.einsum("bnc,bkc->bnk", x, w.conj())),
        ConvPass.DGRAD: (y, w, x, lambda: np.einsum("bnk,bkc->bnc", y, w)),
        ConvPass.WGRAD: (y, x, w, lambda: np.einsum("bnk,bnc->bkc", y.conj(), x)),
    }[conv_pass]
    expected, before = formula(), np.array(out)
    arrays.product(conv_pass, first, second, out, 0.5, True, mode)
    np.testing.assert_allclose(out, before + 0.5 * expected, rtol=1e-4)
    out.fill(np.nan)
    arrays.product(conv_pass, first, second, out, 2.0, False, mode)
    np.testing.assert_allclose(out, 2 * expected, rtol=1e-4)
    assert module.cublas.modes == [arithmetic] * 2


def test_one_handle_serves_all_products_of_a_gpu_and_they_can_be_captured(monkeypatch):
    """CuPy's own calls cannot: they set the stream, which it refuses then."""
    device, module, fake = fake_gpu(monkeypatch)
    x = drawn(module, np.complex64, 2, 3, 4)
    w = drawn(module, np.complex64, 2, 5, 4)
    y = drawn(module, np.complex64, 2, 3, 5)
    for _ in range(2):
        CudaArrays(device).product(ConvPass.FPROP, x, w, y, 1.0, False, ProductMode.FP32)
    assert module.cublas.has == {"handles": 1, "stream": fake.stream.ptr, "workspace": WORKSPACE_BYTES}
    fake.capture(lambda: CudaArrays(device).product(ConvPass.FPROP, x, w, y, 1.0, False, ProductMode.FP32_3M))
    assert fake.log[-1] == "capture 1"


def test_a_product_of_nothing_keeps_leading_dimensions_above_zero(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch)
    x, w = drawn(module, np.complex64, 2, 3, 0), drawn(module, np.complex64, 2, 5, 0)
    y = drawn(module, np.complex64, 2, 3, 5)
    CudaArrays(device).product(ConvPass.FPROP, x, w, y, 1.0, False, ProductMode.FP32)
    assert not y.any()


def test_more_than_cublas_counts_is_declined(monkeypatch):
    device, _, _ = fake_gpu(monkeypatch)
    shapes = [SimpleNamespace(shape=shape) for shape in ((1, 2**31, 1), (1, 1, 1), (1, 2**31, 1))]
    with pytest.raises(UnsupportedError, match="counts in 32 bits"):
        CudaArrays(device).product(ConvPass.FPROP, *shapes, 1.0, False, ProductMode.FP32)


def test_a_library_without_the_function_is_told(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch)
    del module.cublas.symbols.cublasCgemm3mStridedBatched
    x = drawn(module, np.complex64, 1, 1, 1)
    with pytest.raises(UnsupportedError, match=r"^this cuBLAS has no cublasCgemm3mStridedBatched$"):
        CudaArrays(device).product(ConvPass.FPROP, x, x, x, 1.0, False, ProductMode.FP32_3M)


def test_what_cublas_answers_is_raised(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch, fails={"gemm": 14})
    x = drawn(module, np.complex64, 1, 1, 1)
    with pytest.raises(CudaError, match="CUBLAS_STATUS_14"):
        CudaArrays(device).product(ConvPass.FPROP, x, x, x, 1.0, False, ProductMode.FP32)


def test_every_precision_that_is_multiplied_has_a_mode():
    assert {ProductMode(name) for name in PRECISIONS if name in set(ProductMode)} == set(ProductMode) - {"fp32-3m"}


def test_the_arguments_of_each_function_are_as_many_as_are_passed(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch)
    x = drawn(module, np.complex64, 1, 1, 1)
    for mode in (ProductMode.FP32, ProductMode.FP32_3M):
        CudaArrays(device).product(ConvPass.FPROP, x, x, x, 1.0, False, mode)
    of = module.cublas.symbols
    assert len(of.cublasGemmStridedBatchedEx.argtypes) == 23
    assert len(of.cublasCgemm3mStridedBatched.argtypes) == 18
    assert of.cublasGemmStridedBatchedEx.argtypes[10] is of.cublasCgemm3mStridedBatched.argtypes[9] is ctypes.c_longlong


def test_a_symbol_is_found_in_what_an_extension_is_linked_with():
    """As CuPy's cuBLAS module is linked with the library: here Python's own, with OpenSSL."""
    module = pytest.importorskip("_hashlib")
    assert hashlib.sha256
    if not hasattr(module, "__file__"):
        pytest.skip("_hashlib is built in")
    assert library(module).EVP_sha256


def test_gemm_counts_columns():
    assert gemm(ConvPass.FPROP, (9, 3, 4), (9, 6, 4)) == (2, 0, 6, 3, 4)
    assert gemm(ConvPass.DGRAD, (9, 3, 6), (9, 6, 4)) == (0, 0, 4, 3, 6)
    assert gemm(ConvPass.WGRAD, (9, 3, 6), (9, 3, 4)) == (0, 2, 4, 6, 3)


# Kernels


class CompileException(Exception):
    """As CuPy's."""


LOG = """/cache/kernel.cu(12): warning #177-D: variable "i" was declared but never referenced

/cache/kernel.cu(14): error: identifier "half_warp" is undefined

1 error detected in the compilation of "/cache/kernel.cu"."""


def test_a_kernel_is_compiled_with_its_options_and_launched(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch)
    launch = CudaArrays(device).kernel("source", "forward", ("-DSIZE=8",))
    launch((3, 2), (64,), ("x", 0), 1 << 10)
    launch((3,), (64,), ("x", 0), 100 << 10)
    launch((3,), (64,), ("x", 0), 90 << 10)
    assert module.compiled == [("source", ("-DSIZE=8",))]
    assert [(grid, shared) for _, grid, _, _, shared in module.launches] == [
        ((3, 2), 1 << 10),
        ((3,), 100 << 10),
        ((3,), 90 << 10),
    ]


def test_too_much_shared_memory_is_declined(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch)
    launch = CudaArrays(device).kernel("source", "forward", ())
    with pytest.raises(UnsupportedError, match=r"^kernel forward wants 233472 bytes of shared memory, more than this"):
        launch((1,), (32,), (), FakeKernel.max_bytes + 1024)
    assert not module.launches


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CompileException(LOG), '/cache/kernel.cu(14): error: identifier "half_warp" is undefined'),
        (CompileException(""), "CompileException"),
        (CudaError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available"), "CUDA_ERROR_NO_BINARY_FOR_GPU: no"),
        (CudaError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX"), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
    ],
)
def test_a_kernel_that_does_not_compile_or_load(monkeypatch, error, reason):
    device, _, _ = fake_gpu(monkeypatch, fails={"compile": error})
    with pytest.raises(UnsupportedError) as caught:
        CudaArrays(device).kernel("source", "forward", ())
    text = str(caught.value)
    assert text.startswith(f"kernel forward does not compile for this GPU: {reason}")
    assert "\n" not in text


def test_other_faults_stay_what_they_are(monkeypatch):
    device, module, _ = fake_gpu(monkeypatch, fails={"compile": OUT_OF_MEMORY})
    arrays = CudaArrays(device)
    with pytest.raises(MemoryError), arrays.active():
        arrays.kernel("source", "forward", ())
    module.fails["compile"] = CudaError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
        arrays.kernel("source", "forward", ())


# Arrays


def test_structures_are_uploaded_as_bytes(monkeypatch):
    device, _, _ = fake_gpu(monkeypatch)
    structure = np.zeros(2, [("stride", np.int64), ("tiles", np.int32, 3)])
    structure["stride"] = 5
    sent = CudaArrays(device).upload(structure)
    assert sent.dtype == np.uint8
    assert sent.tobytes() == structure.tobytes()


def test_what_is_uploaded_is_a_copy_in_order(monkeypatch):
    device, _, _ = fake_gpu(monkeypatch)
    array = np.arange(6.0).reshape(2, 3).T
    sent = CudaArrays(device).upload(array)
    assert sent.flags.c_contiguous
    array[0, 0] = 9
    assert CudaArrays(device).download(sent)[0, 0] == 0
    assert not CudaArrays(device).zeros((2, 2), np.float32).any()
    assert cublas.GEMM_DEFAULT == -1

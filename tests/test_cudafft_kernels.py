"""The kernels of cudafft as they stand, on the CPU, against NumPy's transforms in float64."""

import functools
import mmap

import numpy as np
import pytest
from cudafft_check import (
    Buffer,
    Launcher,
    Tensor,
    assert_close,
    check_forward,
    check_fused,
    check_inverse,
    spectra_of,
    unset,
)
from simt import ORDERS, CpuModule, needs_compiler, run_sanitized

from convbench.backends.cudafft import kernels
from convbench.backends.cudafft.kernels import BANKS, TRANSFORMS

NCHW, NHWC, CHWN = (0, 1, 2, 3, 4, 5), (1, 3, 4, 5, 0, 2), (0, 2, 3, 4, 5, 1)
"""Axes of a tensor (group, image, channel, spatial axes) from the outermost to the innermost in memory."""
SEEDS = range(3)
by_transform = pytest.mark.parametrize(
    "transform", TRANSFORMS, ids=lambda transform: f"{transform.ndim}d-{transform.name}"
)


def launcher(transform, order="asc", seed=0):
    return Launcher(CpuModule(kernels.source(), kernels.options(transform)), transform, order, seed)


def cuts(rng, transform):
    """One or two tiles, or phases, of each axis, but only of one axis of large planes."""
    found = rng.integers(1, 3, transform.ndim)
    if transform.points >= 256:
        found[np.arange(transform.ndim) != rng.integers(transform.ndim)] = 1
    return tuple(found.tolist())


def in_all_orders(transform, check):
    """A check for each order of threads and, in turn, for each layout and one that nobody has."""
    for seed in SEEDS:
        for order, layout in zip(ORDERS, (NCHW, NHWC, CHWN), strict=True):
            rng = np.random.default_rng(seed)
            check(launcher(transform, order, seed), rng, order=layout if seed else None)


@by_transform
@needs_compiler
def test_forward_makes_the_bins_of_every_plane(transform):
    def check(launch, rng, order):
        few = max(1, transform.planes_per_block // 4)
        given = {"tiles": cuts(rng, transform), "phases": cuts(rng, transform), "order": order}
        check_forward(launch, rng, groups=2, images=2, channels=few, **given)

    in_all_orders(transform, check)


@by_transform
@needs_compiler
def test_inverse_stores_what_lies_in_the_tensor(transform):
    def check(launch, rng, order):
        few = max(1, transform.planes_per_block // 4)
        given = {"tiles": cuts(rng, transform), "phases": cuts(rng, transform), "order": order}
        biased, relu = rng.integers(0, 2, 2)
        check_inverse(launch, rng, bool(biased), bool(relu), groups=2, images=2, channels=few, **given)

    in_all_orders(transform, check)


@by_transform
@needs_compiler
def test_fused_multiplies_between_them(transform):
    def check(launch, rng, order):
        given = {"tiles": cuts(rng, transform), "images": transform.planes_per_block // 2 + 1, "order": order}
        conjugate, biased, relu = map(bool, rng.integers(0, 2, 3))
        check_fused(launch, rng, conjugate, biased, relu, groups=2, **given)

    in_all_orders(transform, check)


@by_transform
@needs_compiler
def test_the_last_block_has_fewer_planes(transform):
    launch, rng = launcher(transform), np.random.default_rng(0)
    for planes in {1, transform.planes_per_block - 1, transform.planes_per_block, transform.planes_per_block + 1}:
        check_forward(launch, rng, images=planes)
        check_inverse(launch, rng, channels=planes)
        check_fused(launch, rng, images=planes)


@by_transform
@needs_compiler
def test_kernels_go_together(transform):
    launch, rng = launcher(transform), np.random.default_rng(0)
    given = {"groups": 2, "images": transform.planes_per_block + 1}
    source, target = Tensor(rng, transform, **given), Tensor(rng, transform, once=True, **given)
    filters = Tensor(rng, transform, groups=2)
    memory, weights = (rng.standard_normal(t.count).astype(np.float32) for t in (source, filters))
    spectra, factors = launch.forward(source, memory), launch.forward(filters, weights)
    back = launch.inverse(target, spectra)
    assert_close(back, target.store(source.load(memory) * transform.points))
    apart = launch.inverse(target, spectra * factors.conj() / transform.points)
    together = launch.fused(source, memory, factors, target, True, 1 / transform.points)
    assert_close(together, apart.astype(np.float64))


@by_transform
def test_every_frequency_is_kept_or_its_mirror_image(transform):
    kept = transform.frequencies()
    assert kept.shape == (transform.bins, transform.ndim)
    both = {tuple(f) for f in kept.tolist()} | {tuple(f) for f in (-kept % transform.size).tolist()}
    assert len(both) == transform.points
    assert len({tuple(f) for f in kept.tolist()}) == transform.bins


def test_transforms_have_names_of_their_own():
    assert len({(transform.ndim, transform.name) for transform in TRANSFORMS}) == len(TRANSFORMS)
    for transform in TRANSFORMS:
        assert transform.planes_per_block * 8 >= 32  # a sector of DRAM and caches
        assert transform.planes_per_block <= transform.threads
        assert transform.threads % 32 == 0


# Shared memory


def conflicts(positions):
    """Most complex numbers of one bank that 16 threads want at a time."""
    return max(np.bincount(np.unique(p) % BANKS).max() for p in np.array_split(positions, len(positions) // BANKS))


@by_transform
def test_threads_meet_different_banks(transform):
    first, *middle, last = transform.digits
    planes, kept, middle = transform.planes_per_block, first // 2 + 1, middle[0] if middle else 1
    by_kept, by_middle, by_last = transform.strides

    column, plane = np.arange(middle * last), np.arange(planes)
    positions = column // last * by_middle + column % last * by_last
    assert conflicts((plane[:, None] + positions).ravel()) == 1  # columns, neighbours along an axis
    assert conflicts((positions[:, None] + plane).ravel()) <= 2  # columns, neighbours across planes
    lines = (np.arange(kept)[:, None] * by_kept + plane).ravel()
    assert conflicts(lines[: len(lines) // BANKS * BANKS]) == 1  # lines
    assert len({*(np.arange(kept)[:, None, None] * by_kept + positions[:, None] + plane).ravel()}) == (
        transform.bins * planes
    )
    assert positions.max() + planes <= by_kept


# Large tensors


def untouched(elements, dtype):
    """Zeros that take memory where they are touched."""
    no_reserve = 0x4000  # MAP_NORESERVE of Linux, which older Pythons do not name
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return np.frombuffer(mmap.mmap(-1, elements * np.dtype(dtype).itemsize, flags=flags), dtype)


@needs_compiler
def test_offsets_have_64_bits():
    transform = next(t for t in TRANSFORMS if t.name == "8x8")
    launch, rng = launcher(transform), np.random.default_rng(0)
    tensor = Tensor(rng, transform, groups=2, images=8, channels=2, order=NCHW, once=True)
    assert tensor.planes == transform.planes_per_block
    memory = rng.standard_normal(tensor.count).astype(np.float32)
    far = {"group": 3 << 30, "image": 1 << 27, "channel": 1 << 26}  # elements: the second group is beyond 32 bits
    near = dict(zip(far, tensor.strides[:3].tolist(), strict=True))
    each = np.arange(near["channel"])
    index = np.indices((2, 8, 2)).reshape(3, -1, 1)
    here, there = (sum(i * s for i, s in zip(index, strides.values(), strict=True)) + each for strides in (near, far))
    large = untouched(2 * far["group"], np.float32)
    large[there] = memory[here]
    for name, stride in far.items():
        tensor.where[name] = stride
    tensor.where["planes"] = wide = 1 << 26  # of which this block has the first ones
    spectra = untouched(2 * transform.bins * wide, np.complex64).reshape(2, transform.bins, wide)

    def launched(name, *args):
        how = {"shared_mem": transform.shared_bytes}
        launch.module.get_function(name)((1, 2), (transform.threads,), args, **how)

    launched("forward", large, spectra, tensor.where, tensor.offsets.array)
    planes = tensor.load(memory)
    assert_close(spectra[:, :, : tensor.planes], spectra_of(transform, planes))
    large[there] = np.nan
    launched("inverse", spectra, large, tensor.where, tensor.offsets.array, 0, np.int32(0))
    back = np.empty_like(memory)
    back[here] = large[there]
    assert_close(back, tensor.store(planes * transform.points))


# Products


PASSES = {
    "fprop": (lambda x, w: x @ w.conj().swapaxes(1, 2), ("rows", "channels"), ("filters", "channels")),
    "dgrad": (lambda y, w: y @ w, ("rows", "filters"), ("filters", "channels")),
    "wgrad": (lambda y, x: y.conj().swapaxes(1, 2) @ x, ("rows", "filters"), ("rows", "channels")),
}


@functools.cache
def products():
    return CpuModule(kernels.product_source(), kernels.product_options())


@needs_compiler
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_products_of_few_channels(name, order, seed):
    product, *shapes = PASSES[name]
    rng = np.random.default_rng(seed)
    matrices = int(rng.integers(1, 20))
    extents = {
        "rows": int(rng.integers(1, 200)),
        "channels": int(rng.integers(1, 6)),
        "filters": int(rng.integers(1, 6)),
    }
    first, second = (gaussian(rng, matrices, *(extents[n] for n in shape)) for shape in shapes)
    expected = 0.25 * product(*(a.array.astype(np.complex128) for a in (first, second)))
    add = seed % 2
    out = Buffer(gaussian(rng, *expected.shape).array) if add else unset(expected.shape, np.complex64)
    if add:
        expected = expected + out.array
    grid = kernels.product_grid(name, matrices, *extents.values())
    counts = map(np.int32, (matrices, *extents.values()))
    kernel = products().get_function(name)
    args = (first.array, second.array, out.array, *counts, np.float32(0.25), np.int32(add))
    kernel(grid, (kernels.PRODUCT_THREADS,), args, order=order, seed=seed)
    assert_close(out.checked(), expected)
    kernel((2, 1), (kernels.PRODUCT_THREADS,), (*args[:-1], np.int32(0)), order=order)  # any grid will do
    assert_close(out.checked(), 0.25 * product(*(a.array.astype(np.complex128) for a in (first, second))))


def gaussian(rng, *shape):
    return Buffer((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64))


def test_splits_are_exact():
    values = np.random.default_rng(4).standard_normal(2 * 3001).astype(np.float32).view(np.complex64)
    values[:3] = [0, -0.0, 1 + 2**-12 - 3j]
    high, low = Buffer(values), unset(values.shape, np.complex64)
    grid = kernels.split_grid(values.size)
    products().get_function("split")(grid, kernels.PRODUCT_THREADS, (high.array, low.array, np.int64(values.size)))
    np.testing.assert_array_equal(high.checked() + low.checked(), values)
    assert not np.any(high.array.view(np.uint32) & 0x1FFF)  # the 13 bits that tf32 has not
    assert np.abs(low.array.view(np.float32)).max() <= 2.0**-11 * np.abs(values.view(np.float32)).max()
    assert [kernels.split_grid(n) for n in (0, 1, 129, 1 << 40)] == [1, 1, 2, kernels.MAX_SPLIT_BLOCKS]


def test_product_grids_are_ones_that_cuda_takes():
    assert kernels.product_grid("fprop", 544, 300, 3, 4) == (544, 3)
    assert kernels.product_grid("dgrad", 544, 3, 3, 4) == (17, 1)
    assert kernels.product_grid("wgrad", 544, 300, 3, 4) == (136, 12)
    assert kernels.product_grid("fprop", 40, 1 << 28, 1, 1) == (40, kernels.MAX_GRID_Y)
    assert kernels.product_grid("fprop", 1, 1, 1, 1) == (1, 1)


# Under the address sanitizer

SANITIZED = """
import numpy as np
from cudafft_check import Launcher, check_forward, check_fused, check_inverse
from simt import CpuModule
from convbench.backends.cudafft.kernels import TRANSFORMS, options, source

for transform in TRANSFORMS:
    if transform.name in {"16", "8x8x8"}:
        module = CpuModule(source(), options(transform), sanitize=True, flags=("-O0",))
        launcher, rng = Launcher(module, transform, "random"), np.random.default_rng(0)
        check_forward(launcher, rng, images=transform.planes_per_block + 1, phases=(2,) * transform.ndim)
        check_inverse(launcher, rng, True, images=3, tiles=(2,) * transform.ndim)
        check_fused(launcher, rng, images=transform.planes_per_block + 1)
print("in bounds")
"""


@needs_compiler
def test_kernels_stay_in_bounds():
    ran = run_sanitized(SANITIZED)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "in bounds\n"

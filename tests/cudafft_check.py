"""What the kernels of cudafft are to do, by NumPy in float64, and tensors of every order to do it with.

Inputs lie between guards of NaN, and outputs are NaN until they are written, so that what is read or written beside
them shows.
"""

import math
from itertools import pairwise

import numpy as np

from convbench.backends.cudafft import kernels

GUARD = 64
"""Elements on both sides of a buffer that nobody may touch."""
TOLERANCE = 1e-6


class Buffer:
    """A C-contiguous array between guards; `checked()` is what it holds if the guards are as they were."""

    def __init__(self, values, guard=np.nan):
        values = np.asarray(values)
        self._all = np.full(values.size + 2 * GUARD, guard, values.dtype)
        self.array = self._all[GUARD : GUARD + values.size].reshape(values.shape)
        self.array[...] = values
        self._guards = self._around()

    def _around(self):
        return self._all[:GUARD].tobytes() + self._all[-GUARD:].tobytes()

    def checked(self):
        assert self._around() == self._guards, "written beside a buffer"
        return self.array


def unset(shape, dtype):
    return Buffer(np.full(shape, np.nan, dtype))


class Tensor:
    """A tensor (groups, images, channels, 3 axes) and its planes: elements of each axis in any order, some left out.

    `order` are its axes from the outermost one to the innermost one in memory; `once` gives no element to two planes.
    """

    def __init__(self, rng, transform, *, groups=1, images=1, channels=1, tiles=(), phases=(), order=None, once=False):
        ndim, absent = transform.ndim, (1,) * (3 - transform.ndim)
        tiles, phases = (*absent, *(tiles or (1,) * ndim)), (*absent, *(phases or (1,) * ndim))
        size = (*absent, *transform.size)
        self.groups, self.images, self.channels, self.tiles, self.phases = groups, images, channels, tiles, phases
        used = [t * p * s for t, p, s in zip(tiles, phases, size, strict=True)]
        extents = [u + 3 if s > 1 else 1 for u, s in zip(used, size, strict=True)]
        self.shape = (groups, images, channels, *extents)
        order = tuple(order or rng.permutation(6))
        strides = np.ones(6, np.int64)
        for outer, inner in reversed([*pairwise(order)]):
            strides[outer] = strides[inner] * self.shape[inner]
        self.strides = strides
        self.places = []  # per axis, elements of the axis [tile, phase, point], negative where there is none
        for t, p, s, extent in zip(tiles, phases, size, extents, strict=True):
            elements = rng.permutation(extent)[: t * p * s] if once else rng.integers(0, extent, t * p * s)
            if s > 1:
                elements[rng.random(elements.size) < 0.2] = -1
            self.places.append(elements.reshape(t, p, s))
        tables = [
            np.where(elements < 0, -1, elements * stride).ravel()
            for elements, stride in zip(self.places, strides[3:], strict=True)
        ]
        starts = np.cumsum([0, *map(len, tables)])[:3]
        self.offsets = Buffer(np.concatenate(tables).astype(np.int32), guard=-1)
        self.rows, self.columns = images * math.prod(tiles), channels * math.prod(phases)
        where = np.zeros(1, np.dtype([*kernels.PLANES]))
        where["group"], where["image"], where["channel"] = strides[:3]
        where["planes"], where["columns"] = self.rows * self.columns, self.columns
        where["tiles"], where["phases"], where["first"] = tiles, phases, starts
        self.where, self.planes = where, self.rows * self.columns

    @property
    def count(self):
        return math.prod(self.shape)

    def addresses(self):
        """Where the points of the planes lie in memory (groups, planes, points), negative where they do not."""
        index = np.ix_(*map(np.arange, (self.groups, self.images, self.channels)))
        base = sum(i * stride for i, stride in zip(index, self.strides[:3], strict=True))
        total = base.reshape(self.groups, self.images, 1, 1, 1, self.channels, 1, 1, 1, 1, 1, 1)
        missing = np.zeros_like(total, bool)
        for axis, elements in enumerate(self.places):
            shape = np.ones(12, int)  # group, image, tiles, channel, phases, points
            shape[[2 + axis, 6 + axis, 9 + axis]] = elements.shape
            total = total + (elements * self.strides[3 + axis]).reshape(shape)
            missing = missing | (elements < 0).reshape(shape)
        return np.where(missing, -1, total).reshape(self.groups, self.planes, -1)

    def load(self, memory):
        """The planes (groups, planes, points) in float64."""
        addresses = self.addresses()
        return np.where(addresses < 0, 0.0, memory.ravel()[addresses].astype(np.float64))

    def store(self, planes):
        """What memory holds, NaN where nothing is stored."""
        memory, addresses = np.full(self.count, np.nan), self.addresses()
        kept = addresses >= 0
        memory[addresses[kept]] = planes[kept]
        return memory


def spectra_of(transform, planes):
    """The bins (groups, bins, planes) of planes (groups, planes, points)."""
    planes = planes.reshape(*planes.shape[:2], *transform.size)
    full = np.fft.fftn(planes, axes=range(2, planes.ndim))
    return full[(slice(None), slice(None), *transform.frequencies().T)].swapaxes(1, 2)


def assert_close(found, expected):
    assert np.isfinite(found).tolist() == np.isfinite(expected).tolist()
    error = np.abs(np.nan_to_num(found.astype(expected.dtype)) - np.nan_to_num(expected)).max(initial=0)
    assert error <= TOLERANCE * np.abs(np.nan_to_num(expected)).max(initial=0), error


class Launcher:
    """The kernels of a transform, built by the emulator, in an order of threads."""

    def __init__(self, module, transform, order="asc", seed=0):
        self.module, self.transform, self.how = module, transform, {"order": order, "seed": seed}

    def _launch(self, name, tensor, args):
        self.module.get_function(name)(
            self.transform.grid(tensor.planes, tensor.groups), (self.transform.threads,), args,
            shared_mem=self.transform.shared_bytes, **self.how,
        )  # fmt: skip

    def forward(self, tensor, memory):
        spectra = unset((tensor.groups, self.transform.bins, tensor.planes), np.complex64)
        source = Buffer(memory)
        self._launch("forward", tensor, (source.array, spectra.array, tensor.where, tensor.offsets.array))
        return spectra.checked()

    def inverse(self, tensor, spectra, bias=None, relu=False):
        target, given = unset(tensor.count, np.float32), Buffer(spectra)
        added = 0 if bias is None else Buffer(bias).array
        args = (given.array, target.array, tensor.where, tensor.offsets.array, added, np.int32(relu))
        self._launch("inverse", tensor, args)
        return target.checked()

    def fused(self, source, memory, filters, target, conjugate, scale, bias=None, relu=False):
        found, given, weights = unset(target.count, np.float32), Buffer(memory), Buffer(filters)
        added = 0 if bias is None else Buffer(bias).array
        args = (
            given.array, weights.array, found.array, source.where, source.offsets.array, target.where,
            target.offsets.array, np.int32(conjugate), np.float32(scale), added, np.int32(relu),
        )  # fmt: skip
        self._launch("fused", source, args)
        return found.checked()


# ---- checks: each asserts what one kernel is to do, of one tensor ----


def check_forward(launcher, rng, **given):
    tensor = Tensor(rng, launcher.transform, **given)
    memory = rng.standard_normal(tensor.count).astype(np.float32)
    assert_close(launcher.forward(tensor, memory), spectra_of(launcher.transform, tensor.load(memory)))


def check_inverse(launcher, rng, biased=False, relu=False, **given):
    transform = launcher.transform
    tensor = Tensor(rng, transform, once=True, **given)
    planes = rng.standard_normal((tensor.groups, tensor.planes, transform.points))
    bias = rng.standard_normal(tensor.groups * tensor.channels).astype(np.float32) * transform.points
    found = launcher.inverse(tensor, spectra_of(transform, planes).astype(np.complex64), bias if biased else None, relu)
    expected = planes * transform.points + (biased and of_planes(tensor, bias))
    assert_close(found, tensor.store(np.maximum(expected, 0) if relu else expected))


def of_planes(tensor, bias):
    """The bias of each plane (groups, planes, 1)."""
    channel = np.arange(tensor.planes) % tensor.columns // math.prod(tensor.phases)
    return bias.astype(np.float64).reshape(tensor.groups, tensor.channels)[:, channel, None]


def check_fused(launcher, rng, conjugate=True, biased=False, relu=False, **given):
    transform = launcher.transform
    source, target = Tensor(rng, transform, **given), Tensor(rng, transform, once=True, **given)
    groups = source.groups
    memory = rng.standard_normal(source.count).astype(np.float32)
    weights = rng.standard_normal((groups, 1, transform.points)) / math.sqrt(transform.points)
    filters = spectra_of(transform, weights)
    bias = rng.standard_normal(groups).astype(np.float32)
    scale = 1 / transform.points
    found = launcher.fused(
        source, memory, filters.astype(np.complex64), target, conjugate, scale, bias if biased else None, relu
    )
    shape = (groups, -1, *transform.size)
    axes = tuple(range(2, 2 + transform.ndim))
    spectra = np.fft.fftn(source.load(memory).reshape(shape), axes=axes)
    factors = np.fft.fftn(weights.reshape(shape), axes=axes)
    planes = np.fft.ifftn(spectra * (factors.conj() if conjugate else factors), axes=axes).real
    expected = planes.reshape(groups, source.planes, -1) + (biased and of_planes(target, bias))
    assert_close(found, target.store(np.maximum(expected, 0) if relu else expected))

"""Tiles, chunks, work and memory of the `cudafft` backend: arithmetic on shapes, without NumPy and without a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from convbench.accuracy import SUM_ACCURACY
from convbench.backends.cpu.phases import MAX_PHASES
from convbench.backends.cuda.cublas import ProductMode
from convbench.backends.cuda.fft_planner import (
    BUFFER_BYTES,
    BYTE_S,
    COMPLEX_MULTIPLY_FLOPS,
    FLOP_S,
    LAUNCH_S,
    MADE_NAMES,
    MOST,
    READ_NAMES,
    SCALE_FLOPS,
    FftPlanner,
)
from convbench.backends.cudafft.kernels import MAX_GRID_Y, TRANSFORMS, Transform
from convbench.backends.cudafft.tables import INDEX_BYTES, MAX_TILES, STRUCT_BYTES, Lying, TransformAxis, transform_axis
from convbench.problem import Case, ConvPass, Epilogue, MathMode
from convbench.work import COMPLEX_MULTIPLY_ADD_FLOPS, Phase, Work, epilogue_flops, real_fft_flops

FFT, FUSED = "fft", "fused"
THREE, SPLIT, L2 = "3m", "3xtf32", "l2"
"""Variants: complex products by three real ones; by three in tf32 of numbers that are split in two, which keep nearly
what fp32 does; chunks of the batch whose spectra L2 holds."""
REAL_BYTES, COMPLEX_BYTES = 4, 8
L2_BYTES = 60 << 20
"""Of a GPU that nobody has asked: an H200's (convbench/machines/h200-sxm.toml)."""
L2_BYTE_S = 1 / 7.6e12
"""Of a byte that L2 holds: published for an H100 (convbench/machines/h100-pcie.toml); an H200's is not known."""
UNITS = 132
"""Multiprocessors of an H200, by its data sheet: fewer blocks leave some of them idle."""
PRODUCT_EXTENT = 64
"""Rows and columns of a product that are assumed to be one block of cuBLAS."""
FEW_PRODUCTS = 16
"""Channels times filters of a group up to which products are made by kernels of our own: cuBLAS' blocks are larger."""
MULTIPLY_ADD_3M_FLOPS = 6
"""Of complex numbers, by three real products; the sums of parts before are not counted."""
SPLIT_PRODUCTS = 3
"""Of two numbers in two parts each: that of the lower parts is left out."""
SPLIT_FLOPS = 2
"""Of a complex number: what its upper parts leave."""
ACCURACIES = {THREE: 1e-5, SPLIT: 1e-5}
"""The tiers of variants that cancel or leave bits out; nobody has measured them on a GPU yet."""


class Counts(NamedTuple):
    """A phase's flops and launches, and bytes of tensors and of spectra, over the whole run.

    `footprint_bytes` and `blocks` are those of one launch.
    """

    name: str
    flops: int
    math_mode: MathMode
    tensor_read: int
    tensor_written: int
    spectra_read: int
    spectra_written: int
    footprint_bytes: int
    blocks: int
    launches: int


@dataclass(frozen=True)
class CudafftPlanner(FftPlanner):
    """Transforms of one size by kernels of our own, a product per bin, and the inverse, for equal chunks of the batch.

    Spectra lie bin-major, (groups, bins, rows, columns), straight from the kernels; tensors are read and written by
    tables of offsets. `fused` makes fprop and dgrad of depthwise cases in one kernel.

    Attributes:
        transform: the size.
        fused: whether all but the filter's transform is one kernel.
        variant: THREE, SPLIT, L2 or none.
        cache_bytes: of the GPU's L2.
        limit_bytes: most workspace; None where there is no limit.
    """

    transform: Transform
    fused: bool = False
    variant: str = ""
    cache_bytes: int = L2_BYTES
    limit_bytes: int | None = None

    @property
    def algorithm(self) -> str:
        """Its name."""
        return "-".join(filter(None, (FUSED if self.fused else FFT, self.transform.name, self.variant)))

    @property
    def three(self) -> bool:
        """Whether complex products are made by three real ones."""
        return self.variant == THREE

    @property
    def split(self) -> bool:
        """Whether numbers are split in two that tf32 holds."""
        return self.variant == SPLIT

    @property
    def accuracy(self) -> float:
        """The tier that it keeps."""
        return ACCURACIES.get(self.variant, SUM_ACCURACY)

    @cached_property
    def axes(self) -> tuple[TransformAxis, ...]:
        """Tiles per axis; fewer axes where the transform does not hold the filter."""
        sizes = zip(self.problem.axes, self.transform.size, strict=True)
        found = (transform_axis(axis, self.case.conv_pass, size) for axis, size in sizes)
        return tuple(axis for axis in found if axis is not None)

    @property
    def mode(self) -> ProductMode:
        """How cuBLAS multiplies."""
        if self.three:
            return ProductMode.FP32_3M
        return ProductMode.TF32 if self.split else ProductMode(self.case.precision)

    @property
    def by_cublas(self) -> bool:
        """Whether cuBLAS makes the products."""
        return not self.fused and self.channels * self.filters > FEW_PRODUCTS

    @property
    def bins(self) -> int:
        """Bins of a plane's spectrum."""
        return self.transform.bins

    @property
    def matrices(self) -> int:
        """Products of a chunk, of all groups and bins."""
        return self.problem.groups * self.bins

    @property
    def notes(self) -> tuple[str, ...]:
        """What a row says of it: tiles, chunks, and who multiplies."""
        cut = "×".join(str(axis.count) for axis in self.axes)
        made = [f"tiles {cut}", f"chunks {self.chunks} of {self.chunk} images"]
        if not self.fused:
            times = f"{SPLIT_PRODUCTS} " if self.split else ""
            made.append(
                f"{times}products by cuBLAS in {self.mode}" if self.by_cublas else "products by kernels in fp32"
            )
        return tuple(made)

    # Tensors, and why a case cannot be done

    def lying(self, name: str) -> Lying:
        """A tensor in memory."""
        p = self.problem
        shape = {"x": p.x_shape, "w": p.w_shape, "y": p.y_shape}[name]
        return Lying(name, shape, self.case.layout, p.groups)

    @cached_property
    def reason(self) -> str | None:
        """Why it cannot run; None if it can."""
        return self._shape_reason() or self._size_reason()

    def _shape_reason(self) -> str | None:
        if (phases := math.prod(self.phase_counts)) > MAX_PHASES:
            return f"the stride splits a plane into {phases} phases, more than {MAX_PHASES}"
        if len(self.axes) < self.problem.ndim:
            return f"{self.transform.name} points do not hold the filter"
        if (tiles := max(axis.count for axis in self.axes)) > MAX_TILES:
            return f"an axis has {tiles} tiles of {self.transform.name}, more than {MAX_TILES}"
        return None

    def _size_reason(self) -> str | None:
        if self.problem.groups > MAX_GRID_Y:
            return f"a grid has at most {MAX_GRID_Y} groups, not {self.problem.groups}"
        for name in "xwy":
            if (most := self.lying(name).most_offset) > MOST:
                return f"an offset along an axis of {name} is {most} elements, more than 32 bits count"
        images = self.chunk
        if (most := max(self._counted(images))) > MOST:
            return f"one launch would take {most} planes or products, more than 32 bits count"
        if self.limit_bytes is not None and self.workspace_bytes > self.limit_bytes:
            return f"{self.workspace_bytes} bytes of workspace for one image at a time, the limit is {self.limit_bytes}"
        return None

    def _counted(self, images: int) -> list[int]:
        """What kernels and cuBLAS count in 32 bits."""
        return [self.matrices, *(math.prod(self.matrix(name, images)) for name in "xwy")]

    # Chunks and memory

    def fits(self, images: int) -> bool:
        """Whether spectra of so many images are within the limit, for L2 within that, and planes counted in 32 bits."""
        limit = BUFFER_BYTES if self.limit_bytes is None else self.limit_bytes
        cached = self.variant != L2 or self._spectra_bytes(images) <= self.cache_bytes
        return cached and self._workspace(images) <= limit and max(self._counted(images)) <= MOST

    @property
    def spectra_names(self) -> str:
        """The tensors whose spectra are kept."""
        return "w" if self.fused else "xwy"

    @property
    def split_names(self) -> tuple[str, ...]:
        """The tensors whose spectra are kept in two parts."""
        return READ_NAMES[self.case.conv_pass] if self.split else ()

    def _spectra_bytes(self, images: int) -> int:
        kept = (*self.spectra_names, *self.split_names)
        return COMPLEX_BYTES * self.bins * sum(self.planes(name, images) for name in kept)

    @cached_property
    def _tables_bytes(self) -> int:
        rows = sum(axis.table_rows(name) * axis.size for name in "xwy" for axis in self.axes)
        return INDEX_BYTES * rows + len("xwy") * STRUCT_BYTES

    def _workspace(self, images: int) -> int:
        return self._spectra_bytes(images) + self._tables_bytes

    @property
    def workspace_bytes(self) -> int:
        """Spectra of one chunk and of the filter, and the tables."""
        return self._workspace(self.chunk) if self.chunk else 0

    # Work

    @cached_property
    def clears(self) -> bool:
        """Whether the output holds elements that nothing is stored to, which are zero."""
        made = MADE_NAMES[self.case.conv_pass]
        return self._elements[made] < math.prod(self.case.output_shape)

    @cached_property
    def _elements(self) -> dict[str, int]:
        """Elements of each tensor that are read, or written, in a run."""
        p = self.problem
        maps = {"x": p.batch * p.in_channels, "w": math.prod(p.w_shape[:2]), "y": p.batch * p.out_channels}
        if not p.batch * self.tiles:
            return dict.fromkeys(maps, 0)
        return {name: each * math.prod(axis.elements(name) for axis in self.axes) for name, each in maps.items()}

    def work(self) -> Work:
        """The phases; tiles and bins are counted whole, elements where there are some, tables and their offsets not."""
        return Work(tuple(
            Phase(name=each.name, flops=each.flops, bytes_read=each.tensor_read + each.spectra_read,
                  bytes_written=each.tensor_written + each.spectra_written, footprint_bytes=each.footprint_bytes,
                  launches=each.launches,
                  math_mode="" if each.math_mode is self.case.math_mode else each.math_mode.value)
            for each in self._counts()
        ))  # fmt: skip

    def _counts(self) -> list[Counts]:
        if self.fused:
            return [self._transform("w"), self._fused()]
        first, second = READ_NAMES[self.case.conv_pass]
        return [self._transform(first), self._transform(second), self._product(), self._inverse()]

    def _blocks(self, name: str) -> int:
        return math.prod(self.transform.grid(math.prod(self.matrix(name, self.chunk)), self.problem.groups))

    def _transform(self, name: str) -> Counts:
        times, planes = self.times(name), self.planes(name, self.chunk)
        loaded, spectra = REAL_BYTES * self._elements[name], COMPLEX_BYTES * self.bins * planes
        return Counts(
            f"transform {self.label(name)}", times * planes * real_fft_flops(self.transform.points),
            MathMode.FP32, loaded, 0, 0, times * spectra, loaded // max(1, times) + spectra, self._blocks(name), times,
        )  # fmt: skip

    def _product(self) -> Counts:
        names, made = READ_NAMES[self.case.conv_pass], MADE_NAMES[self.case.conv_pass]
        first, second, out = (COMPLEX_BYTES * self.bins * self.planes(name, self.chunk) for name in (*names, made))
        products = self.chunks * (SPLIT_PRODUCTS if self.split else 1)
        # Chunks, and products of parts, add to a sum.
        again = max(0, products - 1) if made == "w" else products - self.chunks
        reduced = self.chunk * self.tiles if made == "w" else self.reduced
        each = MULTIPLY_ADD_3M_FLOPS if self.three else COMPLEX_MULTIPLY_ADD_FLOPS
        blocks = [-(-extent // PRODUCT_EXTENT) for extent in self.matrix(made, self.chunk)]
        mode = self.case.math_mode if self.by_cublas else MathMode.FP32
        parted = sum(self.times(name) * self.planes(name, self.chunk) for name in self.split_names) * self.bins
        return Counts(
            "product", each * products * self.planes(made, self.chunk) * reduced * self.bins + SPLIT_FLOPS * parted,
            MathMode.TF32 if self.split else mode, 0, 0,
            products * (first + second) + again * out + COMPLEX_BYTES * parted,
            products * out + 2 * COMPLEX_BYTES * parted,
            first + second + out + COMPLEX_BYTES * self.bins * self._parts,
            self.matrices * math.prod(blocks), products + sum(map(self.times, self.split_names)),
        )  # fmt: skip

    @property
    def _parts(self) -> int:
        """Planes of a chunk whose lower parts are kept."""
        return sum(self.planes(name, self.chunk) for name in self.split_names)

    def _inverse(self) -> Counts:
        made = MADE_NAMES[self.case.conv_pass]
        times, planes = self.times(made), self.planes(made, self.chunk)
        spectra, stored = COMPLEX_BYTES * self.bins * planes, REAL_BYTES * self._elements[made]
        cleared = REAL_BYTES * math.prod(self.case.output_shape) if self.clears else 0
        return Counts(
            f"inverse {self.label(made)}",
            times * planes * real_fft_flops(self.transform.points) + epilogue_flops(self.case),
            MathMode.FP32, times * self._bias_bytes, stored + cleared, times * spectra, 0,
            spectra + stored // max(1, times), self._blocks(made), times + bool(cleared),
        )  # fmt: skip

    def _fused(self) -> Counts:
        (first, _), made = READ_NAMES[self.case.conv_pass], MADE_NAMES[self.case.conv_pass]
        times, planes = self.chunks, self.planes(made, self.chunk)
        each = 2 * real_fft_flops(self.transform.points) + (COMPLEX_MULTIPLY_FLOPS + SCALE_FLOPS) * self.bins
        loaded, stored = (REAL_BYTES * self._elements[name] for name in (first, made))
        cleared = REAL_BYTES * math.prod(self.case.output_shape) if self.clears else 0
        filters = COMPLEX_BYTES * self.bins * self.planes("w", self.chunk)
        return Counts(
            f"fused {self.label(made)}", times * planes * each + epilogue_flops(self.case), MathMode.FP32,
            loaded + times * self._bias_bytes, stored + cleared, times * filters, 0,
            (loaded + stored) // max(1, times) + filters, self._blocks(made), times + bool(cleared),
        )  # fmt: skip

    @property
    def _bias_bytes(self) -> int:
        """That a launch reads."""
        return 0 if self.case.epilogue is Epilogue.NONE else REAL_BYTES * self.problem.out_channels

    @cached_property
    def seconds(self) -> float:
        """Rough time of a run, by which sizes are chosen.

        Each phase takes as long as its flops or its bytes, longer where its blocks are few, and then its launches.
        Spectra are read and written at the rate of L2 if those of a chunk fit there.
        """
        spectra_s = L2_BYTE_S if self._spectra_bytes(self.chunk) <= self.cache_bytes else BYTE_S
        total = 0.0
        for each in self._counts():
            moved = BYTE_S * (each.tensor_read + each.tensor_written)
            moved += spectra_s * (each.spectra_read + each.spectra_written)
            total += max(FLOP_S[each.math_mode] * each.flops, moved) * max(1.0, UNITS / max(1, each.blocks))
            total += LAUNCH_S * each.launches
        return total


def _for_l2(plain: CudafftPlanner) -> CudafftPlanner | None:
    """In smaller chunks; None where L2 does not hold the spectra of one image, or holds those of the chunks anyway."""
    if plain.reason:
        return None
    found = replace(plain, variant=L2)
    cached = found.chunk and found._spectra_bytes(found.chunk) <= found.cache_bytes
    return found if cached and found.chunk < plain.chunk else None


def unusable(case: Case) -> str | None:
    """Why no transform can do a case; None if one may."""
    if case.precision not in {"fp32", "tf32"}:
        return f"the kernels of cudafft compute in fp32, their products in fp32 or tf32, not in {case.precision}"
    return None


@lru_cache(maxsize=256)
def planners(case: Case, cache_bytes: int = L2_BYTES, limit_bytes: int | None = None) -> tuple[CudafftPlanner, ...]:
    """Every size, plain; for L2 where that cuts the batch; by other products in strict fp32; fused where it can be."""
    plain = [
        CudafftPlanner(case, transform, cache_bytes=cache_bytes, limit_bytes=limit_bytes)
        for transform in TRANSFORMS
        if transform.ndim == case.problem.ndim
    ]
    cached = [smaller for each in plain if (smaller := _for_l2(each))]
    strict = [each for each in plain if case.precision == "fp32" and each.by_cublas]
    others = [replace(each, variant=variant) for variant in (THREE, SPLIT) for each in strict]
    alone = case.conv_pass is not ConvPass.WGRAD and plain[0].channels * plain[0].filters == 1
    return (*plain, *cached, *others, *(replace(each, fused=True) for each in plain if alone))

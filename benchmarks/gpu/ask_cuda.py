"""Questions to CUDA, cuFFT, cuBLAS and our own kernels; `questions.py` runs them. GPU alone, and not run on one yet."""

from __future__ import annotations

import functools
import itertools
import math
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from answers import Answer
from cases import made_case, usable
from nodes import kernels_of
from timer import EventTimer

from convbench.backends import AUTO, PlanOptions
from convbench.operands import Operands
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convbench.backends.cuda.gpu import CudaDevice

SAMPLES = 15
LAUNCHES = 50
BINS, ROWS, CHANNELS = 544, 64, 64
"""Complex products of the size that 32 × 32 transforms of 64 images and 64 maps give."""
TILES, TILE, STEP = 4096, 32, 28
SMALL_BYTES = 4 << 20


def event_timer(device: CudaDevice) -> EventTimer:
    """The timer of timer.py on the device's stream."""
    import cupy

    device.activate()
    return EventTimer(cupy, device.cuda.stream)


def microseconds(sample: Callable[[], float], count: int = SAMPLES) -> float:
    """Median of samples."""
    return median(sample() for _ in range(count)) * 1e6


def floor(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Events around nothing, around an empty kernel, and around a graph of many."""
    empty = functools.partial(device.cuda.launch, "empty", 1, 1)
    empty()
    nothing = [timer.between_s(lambda: None) for _ in range(20 * SAMPLES)]
    values = sorted(set(nothing))
    steps = [later - former for former, later in itertools.pairwise(values)]
    data = {
        "nothing_us": median(nothing) * 1e6, "smallest_step_us": min(steps, default=0.0) * 1e6,
        "empty_kernel_us": microseconds(lambda: timer.between_s(empty)),
        "empty_in_graph_us": microseconds(timer.repeated(empty, LAUNCHES)),
        "convbench_overhead_us": device.clock(1).overhead_s * 1e6,
    }  # fmt: skip
    yield Answer(
        question=3, program="floor", data=data,
        sentence=f"Around nothing {data['nothing_us']:.2f} µs, in steps of {data['smallest_step_us']:.2f} µs; around "
        f"one empty kernel {data['empty_kernel_us']:.2f} µs; {LAUNCHES} in a graph take "
        f"{data['empty_in_graph_us']:.2f} µs each.",
    )  # fmt: skip


def products(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Complex batched products in each mode that convbench knows: time, and error against double precision."""
    from convbench.backends.cuda.arrays import CudaArrays
    from convbench.backends.cuda.cublas import ProductMode

    arrays, rng = CudaArrays(device), np.random.default_rng(0)

    def spectra(*shape: int) -> Any:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)

    x, w = spectra(BINS, ROWS, CHANNELS), spectra(BINS, CHANNELS, CHANNELS)
    expected = x.astype(np.complex128) @ w.astype(np.complex128).conj().swapaxes(1, 2)
    flops = 8 * BINS * ROWS * CHANNELS * CHANNELS
    data: dict[str, Any] = {}
    with arrays.active():
        first, second, out = arrays.upload(x), arrays.upload(w), arrays.zeros(expected.shape, np.complex64)
        for mode in (ProductMode.FP32, ProductMode.FP32_3M, ProductMode.TF32):
            run = functools.partial(arrays.product, ConvPass.FPROP, first, second, out, 1.0, False, mode)
            try:
                run()
                error = np.linalg.norm(arrays.download(out) - expected) / np.linalg.norm(expected)
                taken_us = microseconds(timer.warm(run))
            except Exception as refusal:  # noqa: BLE001  the other modes go on
                data[mode] = {"refused": f"{type(refusal).__name__}: {refusal}".splitlines()[0]}
                continue
            data[mode] = {"us": taken_us, "tflop_per_s": flops / taken_us / 1e6, "error": float(error)}
    told = [
        f"{mode} {of['us']:.1f} µs ({of['tflop_per_s']:.1f} Tflop/s), error {of['error']:.1e}" if "us" in of
        else f"{mode} is refused ({of['refused']})"
        for mode, of in data.items()
    ]  # fmt: skip
    yield Answer(
        question=6, program="products", data=data,
        sentence=f"{BINS} products of {ROWS}×{CHANNELS} by {CHANNELS}×{CHANNELS}: {'; '.join(told)}.",
    )  # fmt: skip


def transforms(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Kernels that cuFFT launches for a batch of small tiles: apart, by bins, and of tiles that overlap."""
    import cupy

    cufft, half = cupy.cuda.cufft, TILE // 2 + 1
    rng = np.random.default_rng(0)
    row = TILE + (TILES - 1) * STEP
    wide = rng.standard_normal((TILE, row)).astype(np.float32)
    tiles = np.lib.stride_tricks.sliding_window_view(wide, TILE, 1)[:, ::STEP].swapaxes(0, 1)  # (tile, y, x)
    expected = np.fft.rfft2(tiles).astype(np.complex64)
    data: dict[str, Any] = {}
    with device.cuda.stream:
        apart, overlapping = cupy.asarray(np.ascontiguousarray(tiles)), cupy.asarray(wide)
        variants = {
            "plain": (apart, (TILE, TILE), TILE * TILE, (1, TILE * half)),
            "by bins": (apart, (TILE, TILE), TILE * TILE, (TILES, 1)),
            "overlapping": (overlapping, (TILE, row), STEP, (1, TILE * half)),
        }
        for name, (source, embedding, distance, (out_stride, out_distance)) in variants.items():
            out = cupy.full(TILES * TILE * half, np.nan, np.complex64)
            plan = cufft.PlanNd(
                (TILE, TILE), embedding, 1, distance, (TILE, half), out_stride, out_distance, cufft.CUFFT_R2C, TILES,
                "C", 1, TILE,
            )  # fmt: skip
            run = functools.partial(plan.fft, source, out, cufft.CUFFT_FORWARD)
            run()
            found = out.get().reshape((TILE, half, TILES) if out_stride > 1 else (TILES, TILE, half))
            found = np.moveaxis(found, -1, 0) if out_stride > 1 else found
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            data[name] = {
                "error": float(error), "kernels": _counted(timer, run), "us": microseconds(timer.warm(run)),
                "work_bytes": int(plan.work_area.mem.size),
            }  # fmt: skip
    told = [
        f"{name} {of['kernels']}, {of['us']:.1f} µs{'' if of['error'] < 1e-5 else ', WRONG'}"
        for name, of in data.items()
    ]
    yield Answer(
        question=8, program="transforms", data=data,
        sentence=f"{TILES} real transforms of {TILE}×{TILE}: {'; '.join(told)}.",
    )  # fmt: skip


def _counted(timer: EventTimer, run: Callable[[], object]) -> str:
    """How many kernels a run launches, and which."""
    try:
        names = kernels_of(timer, run)
    except RuntimeError as error:
        return f"an unknown number of kernels ({error})"
    return f"{len(names)} kernels ({', '.join(names)})"


def own_kernels(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Phases of cudafft and of cufft on one layer: what each has to move, beside the bandwidth of a copy."""
    case = made_case(batch=64, padding=((2, 2),) * 2, filter_size=(5, 5))
    operands, clock = Operands(case.problem, case.dtype, 0), device.clock(1)
    data: dict[str, dict[str, dict[str, float]]] = {}
    told: list[str] = []
    copied = _copy_bytes_per_s(device, timer)
    for backend in usable():
        if backend.name not in {"cudafft", "cufft"}:
            continue
        plan: Any = backend.plan(case, AUTO, operands, PlanOptions())
        plan.run()
        runs = [plan.run_phases(clock) for _ in range(SAMPLES)]
        seconds = map(median, zip(*runs, strict=True))
        data[backend.name] = {
            phase.name: {"us": taken * 1e6, "of_copy": phase.traffic_bytes / taken / copied}
            for phase, taken in zip(plan.work.phases, seconds, strict=True)
        }
        phases = (f"{name} {of['us']:.0f} µs at {of['of_copy']:.0%}" for name, of in data[backend.name].items())
        told.append(f"{backend.name} ({plan.algorithm}): {', '.join(phases)}")
    sentence = f"Time of a phase, and its traffic as a share of a copy's {copied / 1e12:.2f} TB/s: {'; '.join(told)}."
    yield Answer(
        question=7, program="own-kernels", data=data, sentence=sentence if told else "No FFT backend can be used."
    )


def _copy_bytes_per_s(device: CudaDevice, timer: EventTimer) -> float:
    """Bytes read and written a second by the copy of probes.py, from DRAM."""
    from convbench.backends.cuda.probes import Team

    team = Team(device.cuda, device.properties.units)
    each = (1 << 30) // team.grain_bytes
    buffer = team.filled(2 * each * team.grain_bytes)
    source, target = buffer[: buffer.nbytes // 2], buffer[buffer.nbytes // 2 :]
    taken_us = microseconds(timer.warm(functools.partial(team.move, "copy", (source, target, target), each, 1)), 5)
    return float(buffer.nbytes / taken_us * 1e6)


def sweep(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Cold times of a small kernel after L2 was written over, and after it was read over."""
    from convbench.backends.cuda.probes import Team

    team = Team(device.cuda, device.properties.units)
    each = max(1, SMALL_BYTES // team.grain_bytes)
    small = team.filled(each * team.grain_bytes)
    large = team.filled(math.ceil(4 * device.cache_bytes() / team.grain_bytes) * team.grain_bytes)
    kernel = functools.partial(team.move, "read", (small, small, small), each, 1)
    reading = functools.partial(team.move, "read", (large, large, large), large.nbytes // team.grain_bytes, 1)
    kernel()

    def after(sweeping: Callable[[], object]) -> float:
        sweeping()
        return timer.between_s(kernel)

    data = {
        "warm_us": microseconds(lambda: after(lambda: None)),
        "after_writes_us": microseconds(lambda: after(lambda: device.sweep_cache(1))),
        "after_reads_us": microseconds(lambda: after(reading)),
    }
    change = data["after_writes_us"] / data["after_reads_us"]
    yield Answer(
        question=10, program="sweep", data=data,
        sentence=f"A read of {small.nbytes / 1e6:.1f} MB takes {data['warm_us']:.1f} µs warm, "
        f"{data['after_writes_us']:.1f} µs after writes over twice the L2, {data['after_reads_us']:.1f} µs after reads "
        f"over four times the L2: writes cost {change:.2f} of reads.",
    )  # fmt: skip

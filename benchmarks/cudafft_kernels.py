"""What cudafft's kernels take of a GPU, compiled by NVRTC without one: a table in Markdown, as in docs/cudafft.md.

    python benchmarks/cudafft_kernels.py [sm_90 ...]

Registers and bytes spilled to memory are ptxas' word; blocks are those that registers and shared memory leave room for
on a multiprocessor; instructions are counted in the machine code where nvidia-cuda-nvdisasm is installed, each once,
loops over planes not unrolled. From them follows, for an H200, how fast a kernel could move its tensor and its spectra
if nothing but the issue of instructions held it back: a prediction, too low for small sizes, since not all warps find
places.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from nvrtc import compiled, report  # noqa: E402  of the tests

from convbench.backends.cudafft import kernels  # noqa: E402

SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}
"""Of a multiprocessor; a block costs 1 KiB beside its own (CUDA programming guide)."""
PARTITION_REGISTERS = 16384
"""Of each of the four partitions of a multiprocessor, in units of 8 for each of a warp's 32 threads."""
COLUMNS = (
    "points", "threads", "planes", "shared KiB", "kernel", "for", "registers", "spilled bytes", "blocks",
    "instructions", "TB/s",
)  # fmt: skip
WARPS = 16
"""Of a partition."""
H200_ISSUE_PER_S = 132 * 4 * 1.98e9
"""Instructions of warps: multiprocessors, partitions that issue one a clock, clocks per second (boost)."""


def blocks(architecture: str, transform: kernels.Transform, registers: int) -> int:
    """Blocks of a multiprocessor at a time."""
    warps = -(-transform.threads // 32)
    in_a_partition = min(WARPS, PARTITION_REGISTERS // (32 * -(-registers // 8) * 8))
    return min(4 * in_a_partition // warps, SHARED_BYTES[architecture] // (transform.shared_bytes + 1024))


def instructions(image: bytes) -> dict[str, list[int]]:
    """Machine instructions by kernel, from barrier to barrier; none where there is no disassembler."""
    found = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm"))
    if not found:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image + b"\0" * (-len(image) % 8))  # the last bytes, which are zeros, were cut off
        file.flush()
        text = subprocess.run([found[-1], "-c", file.name], capture_output=True, text=True, check=True).stdout
    counts: dict[str, list[int]] = {}
    kernel = ""
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            kernel = section[1]
            counts[kernel] = [0]
        elif kernel and re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S", line):
            counts[kernel][-1] += 1
            if "BAR.SYNC" in line:
                counts[kernel].append(0)
    return counts


def warps(transform: kernels.Transform, kernel: str) -> list[int]:
    """Warps that go through each of these parts, for the planes of one block: one for each 32 columns or lines."""
    first, *middle, last = transform.digits

    def of(threads: int) -> int:
        return -(-threads // 32)

    planes = transform.planes_per_block
    places, columns = of(transform.threads), of(transform.points // first * planes)
    lines, within = of(transform.bins // last * planes), [of(transform.bins // digit * planes) for digit in middle]
    if kernel == "inverse":
        return [*([places] if transform.ndim == 1 else []), lines, *within, columns]
    return [places, columns, *within, lines, *([*within, columns] if kernel == "fused" else [])]


def at_most(transform: kernels.Transform, kernel: str, parts: list[int]) -> float:
    """Bytes per second of the planes, and of their bins, that an H200's issue of instructions allows."""
    issued = sum(count * of for count, of in zip(parts, warps(transform, kernel), strict=True))
    moved = 8 * transform.points if kernel == "fused" else 4 * transform.points + 8 * transform.bins
    return transform.planes_per_block * moved / issued * H200_ISSUE_PER_S


def main() -> None:
    """Compiles, and prints."""
    architectures = sys.argv[1:] or ["sm_90"]
    for architecture in architectures:
        if architecture not in SHARED_BYTES:
            raise SystemExit(f"{architecture} is not known; allowed are {', '.join(SHARED_BYTES)}")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---|---:|---:|---:|---|---|---:|---:|---:|---:|---:|")
    for transform in kernels.TRANSFORMS:
        for architecture in architectures:
            image, log = compiled(kernels.source(), architecture, kernels.options(transform))
            found, counted = report(log), instructions(image)
            for kernel in kernels.KERNELS:
                of, parts = found[kernel], counted.get(kernel)
                rate = f"{at_most(transform, kernel, parts) / 1e12:.1f}" if parts and architecture == "sm_90" else "–"
                cells = [
                    transform.name, transform.threads, transform.planes_per_block,
                    f"{transform.shared_bytes / 1024:.1f}", kernel, architecture, of["registers"], of["spilled_bytes"],
                    blocks(architecture, transform, of["registers"]), sum(parts) if parts else "–", rate,
                ]  # fmt: skip
                print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()

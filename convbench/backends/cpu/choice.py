"""What `auto` chooses by: a rough time of an algorithm, from its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convbench.work import Work

LARGE_PRODUCT_FLOP_PER_S = 90e9
SMALL_PRODUCT_FLOP_PER_S = 40e9
TRANSFORM_FLOP_PER_S = 2.5e9
BANDWIDTH_BYTES_PER_S = 8e9
SECONDS_PER_LAUNCH = 5e-6


def estimated_seconds(algorithm: str, work: Work, threads: int) -> float:
    """A rough time for choosing between gemm and fft: each phase at the slower of an assumed rate and bandwidth.

    Round figures for one core, near the best of a grid on the layers of four suites on an AVX-512 server; all but the
    bandwidth grow with the threads. fft has small complex products, one per frequency; copies are in its transforms.
    Only their ratios matter, and nothing that is reported rests on them.
    """
    total = 0.0
    for phase in work.phases:
        if phase.name != "product":
            rate = TRANSFORM_FLOP_PER_S * threads
        else:
            rate = (LARGE_PRODUCT_FLOP_PER_S if algorithm == "gemm" else SMALL_PRODUCT_FLOP_PER_S) * threads
        total += max(phase.flops / rate, phase.traffic_bytes / BANDWIDTH_BYTES_PER_S)
        total += SECONDS_PER_LAUNCH * phase.launches
    return total

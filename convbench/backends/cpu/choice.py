"""What `auto` chooses by: a rough time of an algorithm, from its work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convbench.work import Work


class Rates(NamedTuple):
    """Seconds of one thread: per flop and byte of the product, per byte of the filter's transform, and others.

    The others are per flop and byte of all other phases, and per launch.
    """

    product_flop: float
    product_byte: float
    filter_byte: float
    other_flop: float
    other_byte: float
    launch: float


CONSTANTS = {
    "gemm": Rates(1.02e-11, 2.3e-11, 0, 2.1e-10, 3.7e-11, 4.2e-6),
    "mec": Rates(9.4e-12, 2.6e-11, 0, 0, 6.8e-11, 5.2e-6),
    "depthwise": Rates(8e-11, 0, 0, 0, 9.9e-12, 1.7e-5),
    "fft": Rates(1.3e-11, 8.1e-11, 1.17e-10, 1.21e-10, 1.5e-11, 2e-5),
    "dft": Rates(7.7e-12, 4.2e-11, 6.1e-11, 1.5e-11, 0, 1.4e-5),
    "winograd-1e-6": Rates(9.1e-12, 1.08e-10, 2.7e-11, 0, 0, 1.76e-5),
    "winograd": Rates(1.15e-11, 5.1e-11, 3.3e-11, 1.64e-11, 0, 1.72e-5),
    "winograd-1e-4": Rates(1.21e-11, 4.2e-11, 3.2e-11, 1.33e-11, 4.5e-12, 1.7e-5),
}
"""Fitted to the plans of all built-in suites at batch 1 on an AVX-512 server (benchmarks/regret.py --fit); those of
`fft`, whose tiles go far beyond these, to 191 of them and 28 plans of longer rows and larger planes, with a complex
product's flops at the rate of BLAS: at batch 1, where each byte serves one flop, no fit can see them."""


FILTER_PHASES = {"transform w", "inverse dw"}


def counts(work: Work) -> tuple[int, ...]:
    """What each of the `Rates` is multiplied by."""
    product = [phase for phase in work.phases if phase.name == "product"]
    filters = [phase for phase in work.phases if phase.name in FILTER_PHASES]
    others = [phase for phase in work.phases if phase.name not in {"product", *FILTER_PHASES}]
    return (
        sum(phase.flops for phase in product),
        sum(phase.traffic_bytes for phase in product),
        sum(phase.traffic_bytes for phase in filters),
        sum(phase.flops for phase in others),
        sum(phase.traffic_bytes for phase in others),
        sum(phase.launches for phase in work.phases),
    )


def estimated_seconds(algorithm: str, work: Work, threads: int) -> float:
    """A rough time for choosing between algorithms; all but the launches are shared among the threads."""
    *shared, launches = (rate * count for rate, count in zip(CONSTANTS[algorithm], counts(work), strict=True))
    return sum(shared) / threads + launches

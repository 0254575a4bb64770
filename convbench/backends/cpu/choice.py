"""What `auto` chooses by: a rough time of an algorithm, from its work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convbench.work import Work


class Rates(NamedTuple):
    """Seconds of one thread per flop and per byte of the product, per flop and byte of all other phases, per launch."""

    product_flop: float
    product_byte: float
    other_flop: float
    other_byte: float
    launch: float


CONSTANTS: dict[str, Rates] = {
    "gemm": Rates(1.1e-11, 0, 0, 1.2e-10, 5e-6),
    "mec": Rates(1.1e-11, 0, 0, 1.2e-10, 5e-6),
    "depthwise": Rates(1e-10, 0, 0, 1.2e-10, 5e-6),
    "fft": Rates(2.5e-11, 0, 4e-10, 0, 5e-6),
    "dft": Rates(1.2e-11, 0, 1.5e-11, 1e-10, 5e-6),
    "winograd-1e-6": Rates(1.2e-11, 0, 1.5e-11, 1e-10, 5e-6),
    "winograd": Rates(1.2e-11, 0, 1.5e-11, 1e-10, 5e-6),
    "winograd-1e-4": Rates(1.2e-11, 0, 1.5e-11, 1e-10, 5e-6),
}


def counts(work: Work) -> tuple[int, int, int, int, int]:
    """What each of the `Rates` is multiplied by."""
    product = [phase for phase in work.phases if phase.name == "product"]
    others = [phase for phase in work.phases if phase.name != "product"]
    return (
        sum(phase.flops for phase in product),
        sum(phase.traffic_bytes for phase in product),
        sum(phase.flops for phase in others),
        sum(phase.traffic_bytes for phase in others),
        sum(phase.launches for phase in work.phases),
    )


def estimated_seconds(algorithm: str, work: Work, threads: int) -> float:
    """A rough time for choosing between algorithms; all but the launches are shared among the threads."""
    *shared, launches = (rate * count for rate, count in zip(CONSTANTS[algorithm], counts(work), strict=True))
    return sum(shared) / threads + launches

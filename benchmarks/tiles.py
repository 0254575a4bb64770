"""What the tiles of `winograd` and `dft` are chosen by: fits the constants of `tiling.py`, and prints errors.

    python benchmarks/tiles.py [--layers alexnet-conv2 …] [--each 4]

Runs plans of layers from 5×5 to 1-D and 3-D, each pass with the best tiles by the estimate and with others from its
neighbourhood, on one thread and by processor time. Prints the seconds of each, the constants of least relative error
(non-negative least squares), how far the choices of the present constants are from the fastest of what ran, and the
largest relative L2 error by growth.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import scipy.optimize

from convbench import verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import tiled_planner, tiling
from convbench.backends.cpu.threads import blas_threads
from convbench.backends.cpu.tiled import TiledPlan
from convbench.backends.cpu.tiling import Tiling
from convbench.backends.cpu.transforms import Transform, Winograd
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Layout, Problem


def layer(
    batch: int, channels: int, filters: int, size: tuple[int, ...], taps: int, pad: int, step: int = 1
) -> Problem:
    """A layer with square filters."""
    ndim = len(size)
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=size, filter_size=(taps,) * ndim,
                   padding=((pad, pad),) * ndim, stride=(step,) * ndim)  # fmt: skip


LAYERS = {
    "alexnet-conv1": layer(16, 3, 64, (224, 224), 11, 2, 4),
    "alexnet-conv2": layer(16, 64, 192, (27, 27), 5, 2),
    "alexnet-conv3": layer(32, 192, 384, (13, 13), 3, 1),
    "vgg-conv3-2": layer(2, 256, 256, (56, 56), 3, 1),
    "vgg-conv5-1": layer(8, 512, 512, (14, 14), 3, 1),
    "seven": layer(16, 64, 64, (32, 32), 7, 3),
    "nine": layer(16, 64, 64, (32, 32), 9, 4),
    "thirteen": layer(16, 64, 64, (32, 32), 13, 6),
    "c3d-conv2a": layer(1, 64, 128, (16, 56, 56), 3, 1),
    "charcnn-7": layer(8, 256, 256, (1014,), 7, 0),
    "charcnn-3": layer(8, 256, 256, (334,), 3, 0),
}
CONSTANTS = ("PRODUCT_S", "TRANSFORM_S", "MOVE_S", "COPY_S", "FILTER_MOVE_S", "FILTER_READ_S")


@dataclass(frozen=True, slots=True)
class Measured:
    """One plan: its tiles, least seconds, estimate, counts by constant, growth and relative L2 error."""

    group: tuple[str, str, str]
    name: str
    seconds: float
    estimate: float
    counts: tuple[float, ...]
    growth: float
    error: float


def counts(transform: Transform, axes: tuple[tiling.TileAxis, ...], size: tiling.Size) -> tuple[float, ...]:
    """What each constant is multiplied by: the estimate with that constant 1 and the others 0."""
    found = []
    for name in CONSTANTS:
        with patch.multiple(tiling, **dict.fromkeys(CONSTANTS, 0.0) | {name: 1.0}):
            found.append(tiling.seconds(transform, axes, size))
    return tuple(found)


def measure(name: str, case: Case, each: int, draw: random.Random) -> list[Measured]:
    """Plans of a case."""
    found = []
    axes, size = tiling.correlation(case), tiling.size_of(case)
    operands = Operands(case.problem, case.dtype, seed=1)
    for family in ("winograd-1e-4", "dft"):
        offered = [
            t for t in tiling.transforms(axes, size, family) if t.points * size.filters * 4 <= tiling.FILTER_BYTES
        ]
        offered.sort(key=lambda transform: tiling.seconds(transform, axes, size))
        for transform in offered[:2] + draw.sample(offered[2:20], min(each - 2, len(offered[2:20]))):
            estimate = tiling.seconds(transform, axes, size)
            with patch.object(tiled_planner, "best_tiling", return_value=Tiling(transform, 1e-4, estimate)):
                plan = TiledPlan(case, operands, PlanOptions(threads=1), family)
            outcome = verify.verify(case, plan, operands, seed=1)
            if not outcome.passed:
                raise SystemExit(f"{name} {case.conv_pass} {plan.algorithm}: {outcome.reason}")
            growth = transform.growth if isinstance(transform, Winograd) else 0.0
            found.append(Measured((name, str(case.conv_pass), family), plan.algorithm, least_seconds(plan), estimate,
                                  counts(transform, axes, size), growth, outcome.rms_error or 0.0))  # fmt: skip
            last = found[-1]
            print(f"{name:14} {case.conv_pass} {last.name:20} {last.seconds * 1e3:8.2f} ms, "
                  f"estimated {estimate * 1e3:8.2f}, error {last.error:.1e}", flush=True)  # fmt: skip
    return found


def least_seconds(plan: TiledPlan) -> float:
    """Of three to ten runs."""
    taken: list[float] = []
    with blas_threads(1):
        while len(taken) < 3 or (sum(taken) < 0.15 and len(taken) < 10):
            start = time.thread_time()
            plan.run()
            taken.append(time.thread_time() - start)
    return min(taken)


def report(found: list[Measured]) -> None:
    """The fit, the regret of the choices, and the errors."""
    seconds = np.array([m.seconds for m in found])
    matrix = np.array([m.counts for m in found]) / seconds[:, None]
    constants, _ = scipy.optimize.nnls(matrix, np.ones(len(found)))
    spread = np.std(np.log(matrix @ constants))
    print(f"\n{len(found)} plans; fitted constants (relative error {spread:.0%}), in ns, beside those of tiling.py")
    for name, value in zip(CONSTANTS, constants, strict=True):
        print(f"  {name:14} {value * 1e9:7.4f} {getattr(tiling, name) * 1e9:7.4f}")
    groups = defaultdict(list)
    for m in found:
        groups[m.group].append(m)
    regrets = {
        group: min(ms, key=lambda m: m.estimate).seconds / min(m.seconds for m in ms) for group, ms in groups.items()
    }
    worst = max(regrets, key=lambda group: regrets[group])
    print(f"regret of the tiles chosen: geometric mean {np.exp(np.mean(np.log(list(regrets.values())))):.3f}, "
          f"worst {regrets[worst]:.2f} ({' '.join(worst)})")  # fmt: skip
    print("growth      plans  largest relative L2 error")
    for least, most in ((0, 0), (0.1, 6), (6.1, 24), (24.1, 120), (120.1, 1000)):
        errors = [m.error for m in found if least <= m.growth <= most]
        if errors:
            print(f"up to {most:<5g} {len(errors):5}  {max(errors):.1e}")


def main() -> None:
    """Measures, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="*", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--each", type=int, default=4, help="tiles per layer, pass and family [4]")
    arguments = parser.parse_args()
    draw = random.Random(1)
    found = []
    for name in arguments.layers:
        for conv_pass in ConvPass:
            case = Case(suite="tiles", name=name, problem=LAYERS[name], conv_pass=conv_pass, layout=Layout.NHWC)
            found += measure(name, case, arguments.each, draw)
    report(found)


if __name__ == "__main__":
    main()

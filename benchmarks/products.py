"""`gemm`, `mec` and `depthwise` of the cpu backend beside each other, layer by layer: ratios of processor times.

One thread, so that processor time, which other load hardly touches, is the measure. All plans of a layer and pass run
in turn, in random order, in one process; a figure is the quotient of least times. `of peak` is the time that gemm's
flops would take at the rate of one large matrix product, measured in the same turns, over gemm's time. The other
columns are times over gemm's: below 1 they are faster; for dgrad both ways that gemm chooses from are among them.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np

from convbench import verify
from convbench.backends import Plan, PlanOptions
from convbench.backends.cpu import depthwise_planner, gemm_planner
from convbench.backends.cpu.depthwise import DepthwisePlan
from convbench.backends.cpu.gemm import GemmPlan
from convbench.backends.cpu.mec import MecPlan
from convbench.backends.cpu.threads import blas_threads
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Layout, Problem

ONE = PlanOptions(threads=1)
PEAK_SIZE = 768
"""Rows and columns of the large product."""
LEAST_S = 0.01
"""Runs are repeated for so long."""


def layer(batch: int, channels: int, filters: int, size: int, taps: int, **rest: int) -> Problem:
    """A layer of square planes and filters."""
    padding = rest.get("padding", 0)
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=(size,) * 2,
                   filter_size=(taps,) * 2, stride=(rest.get("stride", 1),) * 2, padding=((padding, padding),) * 2,
                   groups=rest.get("groups", 1))  # fmt: skip


LAYERS = {
    "alexnet conv1 b8": layer(8, 3, 64, 224, 11, stride=4, padding=2),
    "alexnet conv2 b8": layer(8, 64, 192, 27, 5, padding=2),
    "alexnet conv3 b1": layer(1, 192, 384, 13, 3, padding=1),
    "alexnet conv3 b16": layer(16, 192, 384, 13, 3, padding=1),
    "vgg conv1_1 b1": layer(1, 3, 64, 224, 3, padding=1),
    "vgg conv3_2 b1": layer(1, 256, 256, 56, 3, padding=1),
    "vgg conv5_1 b4": layer(4, 512, 512, 14, 3, padding=1),
    "resnet conv1 b4": layer(4, 3, 64, 224, 7, stride=2, padding=3),
    "3x3 stride 2 b8": layer(8, 128, 128, 56, 3, stride=2, padding=1),
    "1x1 28 b16": layer(16, 192, 64, 28, 1),
    "1x1 stride 2 b8": layer(8, 256, 512, 56, 1, stride=2),
    "13x13 b4": layer(4, 64, 64, 32, 13),
    "groups of 4 b8": layer(8, 128, 128, 56, 3, padding=1, groups=32),
    "depthwise 3x3 b8": layer(8, 128, 128, 56, 3, padding=1, groups=128),
    "depthwise 3x3 /2 b8": layer(8, 128, 128, 56, 3, stride=2, padding=1, groups=128),
    "depthwise 7x7 b2": layer(2, 96, 96, 56, 7, padding=3, groups=96),
}


def plans(case: Case, operands: Operands) -> dict[str, Plan]:
    """The plan of gemm first, and what else can do the case."""
    found: dict[str, Plan] = {"gemm": GemmPlan(case, operands, ONE)}
    if gemm_planner.mec_reason(case) is None:
        found["mec"] = MecPlan(case, operands, ONE)
    if depthwise_planner.reason(case) is None:
        found["depthwise"] = DepthwisePlan(case, operands, ONE)
    if case.conv_pass is ConvPass.DGRAD:
        for name, flops in (("gathered", 10**9), ("scattered", -(10**9))):
            with mock.patch.object(gemm_planner, "SCATTER_FLOPS", flops):
                found[name] = GemmPlan(case, operands, ONE)
    return found


def seconds(run: Callable[[], object]) -> float:
    """Processor time of a run, of as many as fill LEAST_S."""
    start, runs = time.thread_time(), 0
    while True:
        run()
        runs += 1
        passed = time.thread_time() - start
        if passed > LEAST_S:
            return passed / runs


def measure(case: Case, rounds: int) -> tuple[dict[str, float], float, int]:
    """Least seconds by algorithm, least seconds of a large product's flop, and flops of gemm."""
    operands = Operands(case.problem, case.dtype, seed=1)
    found = plans(case, operands)
    for name, plan in found.items():
        outcome = verify.verify(case, plan, operands, seed=1)
        if not outcome.passed:
            raise SystemExit(f"{case.label()} {name}: {outcome.reason}")
    matrix = np.ones((PEAK_SIZE, PEAK_SIZE), np.float32)
    out = np.empty_like(matrix)
    runs: dict[str, Callable[[], object]] = {name: plan.run for name, plan in found.items()}
    runs["peak"] = lambda: np.matmul(matrix, matrix, out=out)
    least = dict.fromkeys(runs, float("inf"))
    with blas_threads(1):
        for _ in range(rounds):
            for name in random.sample(list(runs), len(runs)):
                least[name] = min(least[name], seconds(runs[name]))
    peak = least.pop("peak") / (2 * PEAK_SIZE**3)
    return least, peak, sum(phase.flops for phase in found["gemm"].work.phases if phase.name == "product")


def main() -> int:
    """Prints one line per layer, pass and layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each plan [5]")
    parser.add_argument("--layouts", nargs="*", choices=list(map(str, Layout)), default=["nchw", "nhwc"])
    parser.add_argument("--layer", default="", help="only layers whose name contains this")
    args = parser.parse_args()
    print(f"{'layer':21}{'pass':7}{'layout':8}{'gemm':>10}{'of peak':>9}  times over gemm's")
    for name, problem in LAYERS.items():
        for conv_pass in ConvPass if args.layer in name else ():
            for layout in args.layouts:
                case = Case(suite="products", name=name, problem=problem, conv_pass=conv_pass, layout=Layout(layout))
                times, peak, flops = measure(case, args.rounds)
                gemm = times.pop("gemm")
                others = "  ".join(f"{other} {own / gemm:.2f}" for other, own in times.items())
                print(f"{name:21}{conv_pass:7}{layout:8}{gemm * 1e3:7.2f} ms{flops * peak / gemm:9.0%}  {others}",
                      flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

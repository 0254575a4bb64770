"""Winograd's algorithm against `gemm` and `fft` of the cpu backend: ratios of times, and errors.

All plans of a layer and pass run in turn, in random order, in one process, so that a disturbance of the machine meets
all of them; the figure is the quotient of each one's fastest run, which disturbances spoil least. Below 1 Winograd is
faster. The errors are root mean squares relative to the result's, over the elements that verification compares.
"""

import argparse
import random
import sys
import time

from convbench import verify
from convbench.backends import Plan, PlanOptions
from convbench.backends.cpu.fft import FftPlan, blas
from convbench.backends.cpu.gemm import GemmPlan
from convbench.backends.cpu.winograd import WinogradPlan
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Layout, Problem

LAYERS = {
    "alexnet conv2 b16": Problem(batch=16, in_channels=64, out_channels=192, input_size=(27, 27), filter_size=(5, 5),
                                 padding=((2, 2), (2, 2))),
    "alexnet conv3 b16": Problem(batch=16, in_channels=192, out_channels=384, input_size=(13, 13), filter_size=(3, 3),
                                 padding=((1, 1), (1, 1))),
    "vgg conv3_2 b4": Problem(batch=4, in_channels=256, out_channels=256, input_size=(56, 56), filter_size=(3, 3),
                              padding=((1, 1), (1, 1))),
    "c3d conv2a b1": Problem(batch=1, in_channels=64, out_channels=128, input_size=(16, 56, 56),
                             filter_size=(3, 3, 3), padding=((1, 1),) * 3),
    "charcnn k7 b8": Problem(batch=8, in_channels=256, out_channels=256, input_size=(1014,), filter_size=(7,)),
}  # fmt: skip


def measure(case: Case, threads: int, rounds: int) -> tuple[list[float], list[float], str]:
    """Least seconds and relative errors of winograd, gemm and fft, and the name of the first."""
    operands = Operands(case.problem, case.dtype, seed=1)
    plans: list[Plan] = [make(case, operands, PlanOptions(threads=threads))
                         for make in (WinogradPlan, GemmPlan, FftPlan)]  # fmt: skip
    with blas().limit(limits=threads, user_api="blas"):
        return _measured(case, plans, operands, rounds)


def _measured(case: Case, plans: list[Plan], operands: Operands, rounds: int) -> tuple[list[float], list[float], str]:
    outcomes = [verify.verify(case, plan, operands, seed=1) for plan in plans]
    for plan, outcome in zip(plans, outcomes, strict=True):
        if not outcome.passed:
            raise SystemExit(f"{case.label()} {plan.algorithm}: {outcome.reason}")
    seconds: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds):
        for place in random.sample(range(len(plans)), len(plans)):
            start = time.perf_counter()
            plans[place].run()
            seconds[place].append(time.perf_counter() - start)
    return list(map(min, seconds)), [o.rms_error or 0.0 for o in outcomes], plans[0].algorithm


def main() -> int:
    """Prints one line per layer, pass and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each plan [7]")
    parser.add_argument("--layout", choices=list(map(str, Layout)), default="nchw", help="memory layout [nchw]")
    parser.add_argument("--layer", default="", help="only layers whose name contains this")
    args = parser.parse_args()
    print(f"{'layer':19}{'pass':7}{'threads':>7}  {'algorithm':14}{'/ gemm':>8}{'/ fft':>8}"
          f"{'error':>11}{'of gemm':>10}{'of fft':>10}")  # fmt: skip
    for name, problem in LAYERS.items():
        if args.layer not in name:
            continue
        for conv_pass in ConvPass:
            for threads in (1, 2):
                case = Case(suite="winograd", name=name, problem=problem, conv_pass=conv_pass,
                            layout=Layout(args.layout))  # fmt: skip
                (own, gemm, fft), errors, algorithm = measure(case, threads, args.rounds)
                print(f"{name:19}{conv_pass:7}{threads:7}  {algorithm:14}{own / gemm:8.2f}{own / fft:8.2f}"
                      f"{errors[0]:11.1e}{errors[1]:10.1e}{errors[2]:10.1e}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What convbench adds: start-up, and its medians beside a plain perf_counter loop over the same plans.

    python benchmarks/overhead.py [--repeats 15]

Prints milliseconds and ratios; asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from statistics import median

from threadpoolctl import threadpool_limits

from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Dtype, Problem
from convbench.timing import RowTimer, TimingOptions

PROBLEMS = {
    "1×1, 10 µs": Problem(batch=1, in_channels=16, out_channels=16, input_size=(8, 8), filter_size=(1, 1)),
    "3×3, 1 ms": Problem(batch=2, in_channels=64, out_channels=64, input_size=(28, 28), filter_size=(3, 3),
                         padding=((1, 1), (1, 1))),
    "AlexNet conv3, batch 4": Problem(batch=4, in_channels=256, out_channels=384, input_size=(13, 13),
                                      filter_size=(3, 3), padding=((1, 1), (1, 1))),
}  # fmt: skip


def start_up(repeats: int) -> None:
    """Whole-process time of a few commands over that of an empty program, alternated."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "convbench --help": [sys.executable, "-m", "convbench", "--help"],
        "convbench list suites": [sys.executable, "-m", "convbench", "list", "suites"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[name].append(time.perf_counter() - start)
    empty = median(times["python -c pass"])
    for name, values in times.items():
        print(f"{name:24} {1e3 * median(values):6.1f} ms   + {1e3 * (median(values) - empty):5.1f} ms")


def medians(repeats: int) -> None:
    """Rounds of convbench and a plain loop of as many launches, alternated in one process, one thread."""
    for label, problem in PROBLEMS.items():
        case = Case(suite="overhead", name="p", problem=problem, conv_pass=ConvPass.FPROP)
        plan = CpuBackend().plan(case, "gemm", Operands(problem, Dtype.FP32, 0), PlanOptions(threads=1))
        clock = CpuBackend().device().clock(1)
        ours, plain = [], []
        for _ in range(repeats):
            for which in random.sample(("ours", "plain"), 2):
                if which == "ours":
                    timer = RowTimer(plan.run, clock, TimingOptions(max_time_s=0.6))
                    while timer.round()[1] is None:
                        pass
                    ours.append(median(timer.values))
                else:
                    plan.run()
                    values = []
                    end = time.perf_counter() + 0.3
                    while time.perf_counter() < end:
                        start = time.perf_counter()
                        plan.run()
                        values.append(time.perf_counter() - start)
                    plain.append(median(values))
        ours_us, plain_us = 1e6 * median(ours), 1e6 * median(plain)
        print(
            f"{label:24} convbench {ours_us:9.2f} µs   plain loop {plain_us:9.2f} µs   ratio {ours_us / plain_us:.3f}"
        )


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    start_up(repeats)
    with threadpool_limits(1):
        medians(repeats)


if __name__ == "__main__":
    main()

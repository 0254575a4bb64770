"""The work model in columns: counts, intensities and predicted bounds of a million random 2-D problems, fp32.

    python benchmarks/counts.py [--problems 1000000] [--machine h200-sxm] [--repeats 5]

A line for fprop alone, one for the three passes: seconds (the check of the columns included, drawing them not), peak
memory, and the ratio to the scalar form. Asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.counts import Cases, Problems
from convbench.datasheet import load_datasheet
from convbench.problem import Case, ConvPass
from convbench.roofline import place, place_nominal
from convbench.work import compulsory_bytes, exact_flops, no_reuse_bytes, nominal_flops, nominal_work

if TYPE_CHECKING:
    from convbench.ceilings import Ceilings

SCALAR_PROBLEMS = 2000


def random_columns(count: int, seed: int = 0) -> dict[str, Any]:
    """2-D layers as networks have them: square filters, padded or not, some strided, dilated or grouped."""
    rng = np.random.default_rng(seed)
    groups = rng.choice([1, 1, 1, 1, 1, 1, 2, 4, 8, 32], count)
    taps = np.broadcast_to(rng.choice([1, 1, 1, 3, 3, 3, 3, 5, 7, 11], count), (2, count))
    dilation = np.broadcast_to(rng.choice([1] * 9 + [2], count), (2, count))
    padding = dilation * (taps // 2) * rng.choice([0, 1, 1, 1], count)
    return {
        "batch": rng.integers(1, 257, count), "in_channels": groups * rng.integers(1, 513, count),
        "out_channels": groups * rng.integers(1, 513, count), "groups": groups,
        "input_size": rng.integers(21, 513, (2, count)), "filter_size": taps,
        "stride": np.broadcast_to(rng.choice([1, 1, 1, 2, 2, 4], count), (2, count)), "dilation": dilation,
        "before": padding, "after": padding,
    }  # fmt: skip


def analyse(columns: dict[str, Any], passes: list[ConvPass], ceilings: Ceilings) -> list[object]:
    """All that `convbench analyze --machine` counts and predicts; kept, so that its memory counts."""
    problems = Problems(**columns)
    kept: list[object] = [problems, problems.output_size, problems.nominal_flops, problems.exact_flops]
    for conv_pass in passes:
        cases = Cases(problems=problems, conv_pass=conv_pass)
        kept += [cases, cases.compulsory_bytes, cases.no_reuse_bytes, place_nominal(cases, ceilings)]
        kept += [cases.flop_per_byte, cases.flop_per_byte_no_reuse, cases.mac_per_input_byte]
    return kept


def scalar_seconds(columns: dict[str, Any], passes: list[ConvPass], ceilings: Ceilings) -> float:
    """Seconds per problem of the same by work.py and `place`, over a sample; making the problems is included."""
    every = Problems(**columns)
    rows = random.Random(0).sample(range(len(every)), min(SCALAR_PROBLEMS, len(every)))
    start = time.perf_counter()
    for row in rows:
        problem = every.problem(row)
        flops = nominal_flops(problem), exact_flops(problem)
        for conv_pass in passes:
            case = Case(suite="random", name="p", problem=problem, conv_pass=conv_pass)
            least, most = compulsory_bytes(case), no_reuse_bytes(case)
            place(nominal_work(case), ceilings, case.math_mode, warm=False)
            _ = flops[0] / least, flops[0] / most, flops[0] / 2 / (4 * math.prod(problem.x_shape))
    return (time.perf_counter() - start) / len(rows)


def main() -> None:
    """Prints a line for fprop alone and one for the three passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=10**6)
    parser.add_argument("--machine", default="h200-sxm")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    columns, ceilings = random_columns(options.problems), load_datasheet(options.machine).predicted()
    for passes in ([ConvPass.FPROP], list(ConvPass)):
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            analyse(columns, passes, ceilings)
            times.append(time.perf_counter() - start)
        each = scalar_seconds(columns, passes, ceilings)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(
            f"{'+'.join(passes):17} {options.problems} problems: {median(times):.2f} s "
            f"({min(times):.2f} to {max(times):.2f}), {peak / 1e9:.2f} GB (ru_maxrss of the process so far); "
            f"scalar {1e6 * each:.0f} µs a problem, {each * options.problems / median(times):.0f} times as long"
        )


if __name__ == "__main__":
    main()

"""How well verification bites: faults injected and caught, and false alarms over thousands of random problems.

The long form of tests/test_verify.py. The faults of tests/faults.py go into that file's fixed problems, and one each
into random problems; each is checked with the bound of sums (direct, gemm) and with that of an FFT, once with every
element compared and once with a few planes only, as in large problems. Then every algorithm runs on random problems.
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convbench import verify
from convbench.backends import PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.operands import Operands
from convbench.problem import Case, Epilogue
from convbench.testing import random_cases

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from faults import CASES, FAULTS, Fault, FaultyPlan, bounds, correct

ALGORITHMS = ("direct", "gemm", "fft")
REGIMES = {"all elements": verify.SMALL_MACS, "some planes": 0}
"""Values of verify.SMALL_MACS."""
VISIBLE = 2000
"""In random problems a fault counts if it moves some element by this many roundoffs of the result's root mean square.

A smaller change is no fault there: exchanged channels that padding alone reaches, a shifted border that no tap meets.
"""


@dataclass
class Score:
    """Faults of one pass and bound; `weakest` is the smallest error caught, as a share of what is allowed."""

    injected: int = 0
    caught: int = 0
    weakest: float = float("inf")


def injections(seed: int, count: int) -> Iterator[tuple[str, Case, Fault]]:
    """Every fault in the fixed problems, then one fault in each random problem."""
    for case in CASES:
        for fault in FAULTS:
            if fault.applies(case):
                yield "fixed", case, fault
    rng = random.Random(seed)
    for case in random_cases(seed, count):
        linear = replace(case, epilogue=Epilogue.NONE)
        if linear.problem.batch:
            yield "random", linear, rng.choice([fault for fault in FAULTS if fault.applies(linear)])


def visible(case: Case, operands: Operands, fault: Fault) -> bool:
    """Whether the fault changes this problem's result noticeably."""
    right = correct(case, operands)
    wrong = fault.make(case, operands, np.full_like(right, np.nan))
    if wrong.shape != right.shape or not np.isfinite(wrong).all():
        return True
    roundoff = verify.UNIT_ROUNDOFF[case.math_mode][0]
    return bool(np.max(np.abs(wrong - right)) > VISIBLE * roundoff * np.sqrt(np.mean(right**2)))


def inject(seed: int, count: int) -> list[str]:
    """Prints the faults caught per pass and bound; returns those that were not."""
    scores: dict[tuple[str, str, str], Score] = defaultdict(Score)
    missed = []
    invisible = 0
    for kind, case, fault in injections(seed, count):
        operands = Operands(case.problem, case.dtype, seed)
        if kind == "random" and not visible(case, operands, fault):
            invisible += 1
            continue
        for bound_name, bound in bounds(case, operands).items():
            for regime, verify.SMALL_MACS in REGIMES.items():
                score = scores[kind, case.conv_pass, bound_name]
                result = verify.verify(case, FaultyPlan(case, operands, bound, fault), operands, seed)
                score.injected += 1
                score.caught += not result.passed
                if result.passed:
                    where = f"{case.conv_pass} {case.dtype} {case.problem.describe()}"
                    missed.append(f"{fault.name}, {bound_name}, {regime}: {where}, share {result.bound_share:.2g}")
                elif result.bound_share is not None:
                    score.weakest = min(score.weakest, result.bound_share)
    verify.SMALL_MACS = REGIMES["all elements"]
    print(f"{len(FAULTS)} kinds of fault; {invisible} random ones changed nothing worth mention and were left out")
    print(f"{'problems':10}{'pass':8}{'bound':10}{'injected':>10}{'caught':>10}   smallest error caught / allowed")
    for (kind, conv_pass, bound_name), score in sorted(scores.items()):
        print(f"{kind:10}{conv_pass:8}{bound_name:10}{score.injected:10,}{score.caught:10,}   {score.weakest:.3g}")
    return missed


def false_alarms(seed: int, count: int) -> int:
    """Prints the false alarms over random problems, all algorithms; returns their number."""
    alarms = dict.fromkeys(ALGORITHMS, 0)
    shares: dict[str, list[float]] = {algorithm: [] for algorithm in ALGORITHMS}
    for case in random_cases(seed, count):
        linear = replace(case, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed)
        for algorithm in ALGORITHMS:
            plan = CpuBackend().plan(linear, algorithm, operands, PlanOptions())
            result = verify.verify(linear, plan, operands, seed)
            alarms[algorithm] += not result.passed
            shares[algorithm].append(result.bound_share or 0.0)
            if not result.passed:
                print(f"false alarm: {algorithm} {case.label()} {case.problem.describe()}: {result.reason}")
    print(f"{'algorithm':12}{'problems':>10}{'false alarms':>14}   largest error / allowed     99 %   median")
    for algorithm, found in shares.items():
        high, middle = np.quantile(found, [0.99, 0.5])
        print(f"{algorithm:12}{len(found):10,}{alarms[algorithm]:14,}   {max(found):23.3f}{high:9.3f}{middle:9.3f}")
    return sum(alarms.values())


def main() -> int:
    """0 if every fault was caught and nothing else was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=5000, help="random problems for either part [5000]")
    parser.add_argument("--seed", type=int, default=2001, help="seed of problems and operands [2001]")
    args = parser.parse_args()
    missed = inject(args.seed, args.problems)
    for line in missed:
        print(f"missed: {line}")
    print()
    return 1 if false_alarms(args.seed + 1, args.problems) or missed else 0


if __name__ == "__main__":
    sys.exit(main())

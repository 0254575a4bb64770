"""Predicted beside measured memory of cases: what --max-memory rests on.

Each case runs in a forked child: operands, plan, verification and one more run, as convbench.runner does them. Measured
is the kernel's largest resident set of the child (VmHWM, set back before) less what it held before operands were made.
Cases below 32 MiB drown in what BLAS and the allocator need for themselves: they are allowed 8 MiB beside.
Linux only. The hard shapes take ten minutes, one case of the suites in five about as long.
"""

import argparse
import ctypes
import gc
import os
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convbench.backends import BackendSpec
from convbench.backends.cpu import CpuBackend
from convbench.memory import operand_bytes, verification_bytes
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Epilogue, Layout, Problem
from convbench.result import Row
from convbench.runner import RunOptions, Spent, prepare, run
from convbench.suite import builtin_suites, load_suite
from convbench.tasks import Task, tasks
from convbench.testing import random_cases
from convbench.timing import TimingOptions
from convbench.units import format_bytes
from convbench.work import nominal_macs

SMALL_BYTES = 32 << 20
SMALL_SLACK_BYTES = 8 << 20
ALLOWED = (0.75, 1.25)
"""Measured over predicted of the larger cases."""
ALGORITHMS = ("direct", "gemm", "mec", "depthwise", "fft", "winograd", "dft")


def problem(
    batch: int, channels: int, filters: int, size: tuple[int, ...], taps: tuple[int, ...], **rest: Any
) -> Problem:
    """A problem, in few words."""
    return Problem(batch=batch, in_channels=channels, out_channels=filters, input_size=size, filter_size=taps, **rest)


HARD = {
    "batch 512": problem(512, 16, 16, (28, 28), (3, 3), padding=((1, 1), (1, 1))),
    "batch 512, one channel": problem(512, 1, 8, (64, 64), (5, 5)),
    "a million in a row": problem(1, 2, 4, (1_000_000,), (25,)),
    "stride 1000": problem(64, 1, 1, (100_000,), (1,), stride=(1000,)),
    "1×1, stride 10": problem(4, 8, 8, (1000, 1000), (1, 1), stride=(10, 10)),
    "few outputs of large planes": problem(8, 1, 1, (3000, 3000), (1, 1), stride=(100, 100)),
    "depthwise": problem(16, 96, 96, (56, 56), (3, 3), groups=96, padding=((1, 1), (1, 1))),
    "very many taps": problem(1, 4, 4, (400, 400), (60, 60)),
    "taps in a row": problem(1, 8, 8, (200_000,), (3_000,)),
    "dense filter": problem(4, 2048, 2048, (7, 7), (3, 3)),
    "three axes": problem(2, 8, 16, (32, 64, 64), (3, 3, 3), padding=((1, 1),) * 3),
}  # fmt: skip
"""Shapes beside those of the suites."""


@dataclass(frozen=True)
class Outcome:
    """One measured task; sizes in bytes."""

    task: Task
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted

    @property
    def small(self) -> bool:
        """Whether it drowns in the allocator's own needs."""
        return max(self.predicted, self.measured) < SMALL_BYTES

    @property
    def right(self) -> bool:
        """Whether the prediction holds."""
        if self.small:
            return self.measured <= self.predicted + SMALL_SLACK_BYTES
        return ALLOWED[0] <= self.ratio <= ALLOWED[1]


def suite_cases(batch: int) -> Iterator[Case]:
    """Every distinct problem of the built-in suites, all passes."""
    seen = set()
    for name in builtin_suites():
        for entry in load_suite(name).problems:
            shape = replace(entry.problem, batch=min(batch, entry.problem.batch))
            if shape in seen:
                continue
            seen.add(shape)
            for conv_pass in ConvPass:
                yield Case(suite=name, name=entry.name, problem=shape, conv_pass=conv_pass)


def hard_cases() -> Iterator[Case]:
    """The shapes of HARD, all passes; some in another layout or with an epilogue."""
    for name, shape in HARD.items():
        for conv_pass in ConvPass:
            case = Case(suite="hard", name=name, problem=shape, conv_pass=conv_pass)
            yield case
            if name in {"batch 512", "depthwise", "three axes"}:
                yield replace(case, layout=Layout.NHWC)
                yield replace(case, layout=Layout.CHWN)
            if conv_pass is ConvPass.FPROP and name in {"batch 512", "1×1, stride 10"}:
                yield replace(case, epilogue=Epilogue.BIAS_RELU)


def measured_bytes(task: Task, options: RunOptions) -> int:
    """Largest resident set of a child that prepares and runs the task, less what it started with."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            load_blas()
            before = reset_peak()
            operands = Operands(task.case.problem, task.case.dtype, options.seed)
            made = prepare(task, operands, options, Spent())
            if isinstance(made, Row):
                os.write(write, f"{task.case.label()}: {made.status} {made.reason}".encode())
                os._exit(1)
            made.plan.run()
            os.write(write, str(status_bytes("VmHWM") - before).encode())
        except BaseException:  # noqa: BLE001  nothing of the parent's must run in a child
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text.lstrip("-").isdigit():
        sys.exit(text or f"{task.case.label()}: the child died")
    return int(text)


def load_blas() -> None:
    """Lets BLAS make the buffers and threads that a fork leaves behind."""
    for dtype in (np.float32, np.float64):
        matrix = np.ones((1024, 1024), dtype)
        matrix @ matrix


def map_arrays() -> None:
    """Has the allocator give every array pages of its own and take them back, so that none is hidden in freed ones."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD, which else grows to 32 MiB
    libc.malloc_trim(0)


def reset_peak() -> int:
    """Sets the largest resident set back to the present one, and returns that."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """A size of this process by its name in /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) << 10


def warm_up(options: RunOptions) -> None:
    """Loads libraries and lets BLAS and FFT make their buffers, so that no child pays for them."""
    shape = problem(2, 64, 64, (64, 64), (3, 3))
    for conv_pass in ConvPass:
        case = Case(suite="warm", name="up", problem=shape, conv_pass=conv_pass)
        operands = Operands(shape, case.dtype, 0)
        for task in tasks([case], [BackendSpec(CpuBackend(), name) for name in ALGORITHMS], options.threads):
            prepare(task, operands, options, Spent())


def flat(count: int, threads: int) -> None:
    """Runs `count` small random cases and prints the resident set after a quarter of them and at the end."""
    timing = TimingOptions(max_time_s=1e-4)
    options = RunOptions(threads=threads, max_memory=1 << 40, timing=timing)
    specs = [BackendSpec(CpuBackend(), name) for name in ("gemm", "fft")]
    sizes = []
    cases = list(random_cases(0, count, max_macs=20_000))
    step = max(1, count // 40)
    for start in range(0, count, step):
        for _ in run(tasks(cases[start : start + step], specs, threads), options):
            pass
        gc.collect()
        sizes.append(status_bytes("VmRSS"))
    early, late = format_bytes(sizes[len(sizes) // 4 - 1]), format_bytes(sizes[-1])
    print(f"resident after {count // 4} cases {early}, after {count} {late}")


def chosen_tasks(arguments: argparse.Namespace, threads: int) -> list[Task]:
    """All tasks of HARD, and a share of the suites'."""
    cases = [] if arguments.suites_only else list(hard_cases())
    rng = random.Random(arguments.seed)
    for batch in [] if arguments.hard_only else arguments.batches:
        cases += suite_cases(batch)
    specs = [BackendSpec(CpuBackend(), name) for name in arguments.algorithms]
    return [
        task
        for case in cases
        if case.suite == "hard" or nominal_macs(case.problem) <= arguments.most_macs
        for task in tasks([case], specs, threads)
        if task.candidate.reason is None and (case.suite == "hard" or rng.random() < arguments.share)
    ]


def main() -> None:
    """Prints every task that is not right (with --verbose all), then the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.2, help="share of the suites' cases that is measured")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--most-macs", type=float, default=3e9, help="leave larger cases of the suites out")
    parser.add_argument("--algorithms", nargs="*", default=ALGORITHMS)
    parser.add_argument("--hard-only", action="store_true", help="the shapes beside those of the suites")
    parser.add_argument("--suites-only", action="store_true")
    parser.add_argument("--flat", type=int, metavar="N", help="run N small cases instead: does resident memory grow?")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    options = RunOptions(threads=os.cpu_count() or 1, max_memory=1 << 62, timing=TimingOptions(max_time_s=0.1))
    if arguments.flat:
        warm_up(options)
        flat(arguments.flat, options.threads)
        return
    map_arrays()
    warm_up(options)
    map_arrays()
    outcomes = []
    for task in chosen_tasks(arguments, options.threads):
        outcome = Outcome(task, task.memory_bytes, measured_bytes(task, options))
        outcomes.append(outcome)
        if arguments.verbose or not outcome.right:
            print(line(outcome), flush=True)
    report(outcomes)


def line(outcome: Outcome) -> str:
    """One task in words: ratio, both sizes, the parts of the prediction, and the case."""
    task, case = outcome.task, outcome.task.case
    held = format_bytes(operand_bytes(case) + task.held_bytes)
    passing = f"{format_bytes(task.candidate.transient_bytes)} or {format_bytes(verification_bytes(case))}"
    return (
        f"{outcome.ratio:5.2f}  {format_bytes(outcome.measured):>8} of {format_bytes(outcome.predicted):>8}"
        f" ({held} held + {passing})  {task.key.algorithm:6} {case.conv_pass} {case.layout}"
        f" {case.epilogue}  {case.problem.describe()}"
    )


def report(outcomes: list[Outcome]) -> None:
    """How many are right, and the range of ratios by algorithm."""
    large = [o for o in outcomes if not o.small]
    for name, group in (("32 MiB or more", large), ("smaller", [o for o in outcomes if o.small])):
        right = sum(o.right for o in group)
        print(f"{name}: {right} of {len(group)} right")
    for name in ALGORITHMS:
        ratios = sorted(o.ratio for o in large if o.task.key.algorithm == name)
        if ratios:
            print(f"{name:6} measured/predicted: {ratios[0]:.2f} {ratios[len(ratios) // 2]:.2f} {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()

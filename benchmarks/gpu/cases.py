"""The cases that several programs look at, and how they are planned."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from convbench.backends import AUTO, PlanOptions
from convbench.operands import Operands
from convbench.problem import PRECISIONS, Case, ConvPass, Layout, Problem
from convbench.suite import load_suite
from convbench.tasks import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from convbench.backends import Backend, Plan

Item = TypeVar("Item")
BACKENDS = ("cudnn", "cufft", "cudafft")
ROWS = (
    ("fbfft-layers", "L3", ConvPass.FPROP),
    ("fbfft-layers", "L4", ConvPass.WGRAD),
    ("fbfft-layers", "L5", ConvPass.DGRAD),
    ("alexnet", "conv2", ConvPass.FPROP),
    ("alexnet", "conv3", ConvPass.WGRAD),
    ("smoke", "plain-3x3", ConvPass.FPROP),
)
"""Suite, problem and pass: with each backend that can be used, eighteen rows of microseconds to milliseconds."""


class Planned(NamedTuple):
    """A plan that has run once, and what it is of."""

    backend: Backend
    case: Case
    plan: Plan

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.case.label()} {self.backend.name}:{self.plan.algorithm}"


def within(seconds: float, items: Iterable[Item]) -> Iterator[Item]:
    """The items that are begun within so many seconds: an answer from some is better than none."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, items)


def usable() -> list[Backend]:
    """The GPU backends that can be used here."""
    from convbench.backends import available

    offered = available()
    made: list[Backend] = [offered[name].load()() for name in BACKENDS if name in offered]
    return [backend for backend in made if backend.probe() is None]


def planned() -> Iterator[Planned]:
    """ROWS with each backend that can be used; what cannot be planned is left out, and said."""
    backends = usable()
    for suite, name, conv_pass in ROWS:
        case = Selection(passes=(conv_pass,), globs=(name,)).cases([load_suite(suite)])[0]
        operands = Operands(case.problem, case.dtype, 0)
        for backend in backends:
            try:
                plan = backend.plan(case, AUTO, operands, PlanOptions())
                plan.run()
            except Exception as error:  # noqa: BLE001  the other rows go on
                print(f"{case.label()} {backend.name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
                continue
            yield Planned(backend, case, plan)


def made_case(conv_pass: str = "fprop", precision: str = "fp32", layout: str = "nchw", **fields: Any) -> Case:
    """A case by its fields: 32 images of 64 maps of 32², 3×3 filters to 64 maps, unless told otherwise."""
    usual = {"batch": 32, "in_channels": 64, "out_channels": 64, "input_size": (32, 32), "filter_size": (3, 3)}
    given: dict[str, Any] = usual | fields
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="gpu", name="made", problem=Problem(**given), conv_pass=ConvPass(conv_pass), dtype=dtype,
                math_mode=math_mode, layout=Layout(layout))  # fmt: skip

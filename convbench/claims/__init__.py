"""The claims of the talk "Hacking GPUs for Deep Learning", each as a suite to measure and a sentence to answer it with.

A conclusion is computed from the rows of runs, never fixed text, and recomputed whenever the runs are read again.
What each means and how it is measured: docs/talk.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbench.claims import counts, machines, pairs, shapes
from convbench.claims.base import Answer, Claim, Missing, doubt, with_ceilings
from convbench.errors import printable
from convbench.render import Column, Table, render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convbench.result import Run

__all__ = [
    "EVERY", "QUESTIONS", "Claim", "Question", "claims_from", "claims_markdown", "claims_table", "with_ceilings",
]  # fmt: skip

EVERY = "*"
"""Stands for each algorithm that keeps the default accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the talk claims, how it is measured here, and what answers it.

    Attributes:
        suite: what is measured.
        options: of `convbench run`, for this suite.
        algorithms: of each backend, those that it has.
        answer: conclusion and tables from runs.
    """

    key: str
    title: str
    question: str
    suite: str
    answer: Callable[[Sequence[Run]], Answer]
    options: tuple[str, ...] = ("--pass", "fprop")
    algorithms: tuple[str, ...] = ("auto",)


_QUESTIONS = (
    Question(
        key="machines", title="Who wins", suite="talk-boundaries", answer=machines.machines,
        question="Flop/s, memory bandwidth, latency, and what one more than a multiple costs: which machine wins?",
    ),
    Question(
        key="reuse", title="Flops per byte of AlexNet's first layer", suite="talk-example", answer=counts.reuse,
        question="How many flops does each byte serve, with and without reuse?", algorithms=("auto", "gemm"),
    ),
    Question(
        key="batch", title="Batch 1 against 128", suite="talk-batch", answer=pairs.batch,
        question="How much faster is an image in a batch of 128 than alone?",
    ),
    Question(
        key="layouts", title="Layouts across the depth of a network", suite="talk-layouts", answer=pairs.layouts,
        question="Is chwn, nchw or nhwc the fastest, from the first layer to the last?",
        options=("--pass", "fprop", "--layout", "nchw,nhwc,chwn"),
    ),
    Question(
        key="operands", title="Transposed and strided operands", suite="talk-operands", answer=shapes.operands,
        question="Which operands are taken as they lie, which are copied, and what does the copy take?",
        options=("--layout", "nchw,nhwc,chwn", "--phases"), algorithms=("auto", "gemm"),
    ),
    Question(
        key="epilogue", title="Bias and ReLU, fused or apart", suite="talk-epilogue", answer=pairs.epilogue,
        question="What does it save to apply bias and ReLU in the call of the convolution?",
        options=("--pass", "fprop", "--epilogue", "none,bias+relu", "--phases"), algorithms=("auto", "direct"),
    ),
    Question(
        key="precision", title="Single against double precision", suite="talk-precision", answer=pairs.precision,
        question="How much longer does double take than single, and what binds each?",
        options=("--pass", "fprop", "--dtype", "fp32,fp64"), algorithms=("auto", "gemm"),
    ),
    Question(
        key="filters", title="Where Winograd and FFT overtake", suite="talk-filters", answer=shapes.filters,
        question="From which filter on do Winograd and FFT beat the definition, with fewer maps or smaller planes too?",
        algorithms=(EVERY,),
    ),
    Question(
        key="small", title="Small problems and dispatch latency", suite="talk-small", answer=shapes.small,
        question="How much of a recurrent step or a tiny layer is the launch?",
    ),
    Question(
        key="deep", title="Deep networks are small", suite=counts.DEEP, answer=counts.deep,
        question="How many flops and bytes has each layer of a deep network at batch 1, and what binds it?",
        options=("--pass", "fprop", "--batch", "1"),
    ),
)  # fmt: skip
QUESTIONS = {question.key: question for question in _QUESTIONS}


def claims_from(runs: Mapping[str, Sequence[Run]]) -> tuple[Claim, ...]:
    """The claims whose key is in `runs`, answered by the runs of their suite; several are machines side by side.

    Raises:
        InputError: the ceilings in a run's header are damaged.
    """
    return tuple(_claim(question, runs[key]) for key, question in QUESTIONS.items() if key in runs)


def _claim(question: Question, runs: Sequence[Run]) -> Claim:
    try:
        conclusion, tables = question.answer(runs)
        conclusion += doubt(runs, question.suite)
    except Missing as missing:
        conclusion, tables = f"not answered: {missing}", ()
    return Claim(key=question.key, title=question.title, question=question.question, conclusion=conclusion,
                 tables=tables)  # fmt: skip


def claims_table(claims: Sequence[Claim]) -> Table:
    """The claims, a line each."""
    columns = [
        Column(key="key", header="key"), Column(key="title", header="claim", spare=2),
        Column(key="question", header="question", spare=1, cut=True),
        Column(key="conclusion", header="here", cut=True),
    ]  # fmt: skip
    rows = [{c.key: getattr(claim, c.key) for c in columns} for claim in claims]
    return Table(key="claims", title="The talk's claims, measured", columns=columns, rows=rows)


def claims_markdown(claims: Sequence[Claim]) -> str:
    """The claims with their tables, a section each."""
    parts = ["# The talk's claims, measured\n"]
    for claim in claims:
        parts.append(f"## {claim.title}\n\n*{claim.question}*\n\n{printable(claim.conclusion)}\n")
        parts += [render([table], "markdown") for table in claim.tables]
    return "\n".join(parts)

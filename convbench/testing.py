"""For authors of backends and for our own tests: random problems, a fake backend and device, a check of a backend."""

from __future__ import annotations

import random
from collections.abc import Iterator

from convbench.errors import InputError
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.work import nominal_macs


def random_problem(rng: random.Random, max_macs: int = 200_000) -> Problem:
    """A small random problem: 1-3 axes, groups, strides, dilations, uneven and negative padding, batch 0 now and then."""
    while True:
        ndim = rng.randint(1, 3)
        largest = {1: 40, 2: 14, 3: 7}[ndim]
        groups = rng.choice([1, 1, 1, 2, 3, 4])
        fields = {
            "batch": rng.choice([0, 1, 1, 2, 3, 5, 8]),
            "in_channels": groups * rng.choice([1, 1, 2, 3, 5]),
            "out_channels": groups * rng.choice([1, 1, 2, 3, 4]),
            "groups": groups,
            "input_size": tuple(rng.randint(1, largest) for _ in range(ndim)),
            "filter_size": tuple(rng.choice([1, 1, 2, 3, 3, 4, 5, 7]) for _ in range(ndim)),
            "stride": tuple(rng.choice([1, 1, 1, 2, 3, 4, 5]) for _ in range(ndim)),
            "dilation": tuple(rng.choice([1, 1, 1, 2, 3, 4]) for _ in range(ndim)),
            "padding": tuple(
                rng.choice([(0, 0), (0, 0), (1, 1), (rng.randint(0, 6), rng.randint(-3, 6))]) for _ in range(ndim)
            ),
        }
        try:
            problem = Problem(**fields)
        except InputError:
            continue
        if nominal_macs(problem) <= max_macs:
            return problem


def random_cases(seed: int, count: int, max_macs: int = 200_000) -> Iterator[Case]:
    """`count` cases of random problems, with every pass, layout, fp32 and fp64 among them."""
    rng = random.Random(seed)
    for index in range(count):
        dtype, math_mode = rng.choice([(Dtype.FP32, MathMode.FP32)] * 3 + [(Dtype.FP64, MathMode.FP64)])
        conv_pass = rng.choice(list(ConvPass))
        yield Case(
            suite="random",
            name=f"p{index}",
            problem=random_problem(rng, max_macs),
            conv_pass=conv_pass,
            dtype=dtype,
            math_mode=math_mode,
            layout=rng.choice(list(Layout)),
            epilogue=rng.choice(list(Epilogue)) if conv_pass is ConvPass.FPROP and rng.random() < 0.3 else Epilogue.NONE,
        )

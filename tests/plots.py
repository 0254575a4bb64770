"""Runs to be drawn, for the tests of plots."""

from dataclasses import replace
from pathlib import Path

from convbench.backends import Sample
from convbench.journal import read_run
from convbench.problem import PRECISIONS, Case, ConvPass, Problem
from convbench.render.plot.scene import Choice, make_scene
from convbench.result import Row, RowKey, Status
from convbench.timing import Round
from convbench.work import Phase, Work, nominal_flops

GOLDEN = read_run(Path(__file__).parent / "data" / "run-v1.jsonl")


def ceiling(value, kind="measured"):
    return {"value": value, "kind": kind, "sigma": 0.02}


CEILINGS = {
    "compute": {"fp32": ceiling(2e11), "fp64": ceiling(1e11)},
    "bandwidth": {"dram": ceiling(2.5e10), "l3": ceiling(6e10), "l2": ceiling(1e11)},
    "capacity_bytes": {"l2": 2**20, "l3": 2**25},
    "launch": ceiling(1e-6),
    "curve": [
        {"mix": mix, "size_bytes": 4**power, "bytes_per_s": share * rate}
        for mix, share in (("read", 1.0), ("copy", 0.8))
        for rate, powers in ((1e11, (6, 7, 8, 9)), (6e10, (10, 11)), (2.5e10, (12, 13, 14)))
        for power in powers
    ],
}  # fmt: skip


def row(name, algorithm="gemm", *, conv_pass="fprop", dtype="fp32", seconds=1e-3, channels=32, executed=1.0,
        phases=None, backend="cpu", suite="tiny"):  # fmt: skip
    """A row with a time; `executed` flops per nominal one, `channels` says how intense it is."""
    problem = Problem(batch=1, in_channels=channels, out_channels=64, input_size=(28, 28), filter_size=(3, 3))
    storage, math_mode = PRECISIONS[dtype]
    case = Case(
        suite=suite, name=name, problem=problem, conv_pass=ConvPass(conv_pass), dtype=storage, math_mode=math_mode,
        repeat=2,
    )  # fmt: skip
    names = phases or {"product": 1.0}
    one = {"flops": round(nominal_flops(problem) * executed) // len(names), "bytes_read": 4_000_000,
           "bytes_written": 1_000_000, "footprint_bytes": 200_000 * channels}  # fmt: skip
    work = Work(tuple(Phase(name=phase, **one) for phase in names))
    return Row(
        key=RowKey(case=case, backend=backend, algorithm=algorithm, device="cpu", threads=2), status=Status.OK,
        work=work, rounds=(Round(1, (Sample(seconds, seconds),)),) * 7, stop_reason="precision",
        phases=(tuple(names.values()),) if phases else (),
    )  # fmt: skip


def run_of(*rows, ceilings=CEILINGS, **header):
    """A run of these rows on a machine with these ceilings."""
    device = GOLDEN.header["devices"]["cpu"] | {"ceilings": ceilings}
    return replace(GOLDEN, rows=rows, header=GOLDEN.header | {"devices": {"cpu": device}} | header)


def many(count, *algorithms, passes=("fprop",), **options):
    """Rows of `count` problems, all different."""
    return [
        row(f"inception_{place}/3x3", algorithm, conv_pass=conv_pass, channels=2 + 5 * place % 90,
            seconds=1e-4 * (1 + place % 7) * (1 + which), executed=1.0 if which == 0 else 0.4, **options)
        for place in range(count)
        for conv_pass in passes
        for which, algorithm in enumerate(algorithms or ("gemm",))
    ]  # fmt: skip


def scene_of(*rows, **options):
    """The scene of one run of these rows."""
    return make_scene([("a.jsonl", run_of(*rows))], Choice(), **options)

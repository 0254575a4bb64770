"""Made-up stored runs, for the tests of what compares them."""

from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.result import Row, RowKey, Run, Status
from convbench.timing import Columns, Round

PROBLEM = Problem(batch=1, in_channels=1, out_channels=1, input_size=(4,), filter_size=(1,))
HEADER = {
    "devices": {"cpu": {"fingerprint": "abc", "machine": {}}}, "method": 2, "options": {"threads": 1},
    "convbench_version": "0.1.0", "suites": [{"name": "s", "sha256": "0" * 64}],
    "environment": {"python": "3.11", "os": "Linux", "blas": [], "governor": None, "git_revision": "aaa",
                    "libraries": {"numpy": "2.1"}, "variables": {}},
}  # fmt: skip


def case(name="conv1"):
    return Case(suite="s", name=name, problem=PROBLEM, conv_pass=ConvPass.FPROP, dtype=Dtype.FP32,
                math_mode=MathMode.FP32, layout=Layout.NCHW, epilogue=Epilogue.NONE)  # fmt: skip


def rounds(values, samples=3, processes=1):
    """Rounds of equal samples, of several processes in turn."""
    return tuple(Round(1, Columns((v,) * samples, (v,) * samples, {}), i % processes) for i, v in enumerate(values))


STEADY = (1.0e-3, 1.001e-3, 1.002e-3, 1.001e-3, 1.0e-3)


def row(
    values=STEADY, name="conv1", algorithm="gemm", status=Status.OK, resolved="gemm", reason="", threads=1, processes=1
):
    key = RowKey(case=case(name), backend="cpu", algorithm=algorithm, device="cpu", threads=threads)
    return Row(key=key, status=status, rounds=rounds(values, processes=processes), resolved=resolved, reason=reason)


def run(*rows, canary=1e-3, **header):
    canaries = {"cpu": ({"compute": canary}, {"compute": canary * 1.2})}
    return Run(header=HEADER | header, rows=rows, canaries=canaries)


def times(factor, values=STEADY):
    return tuple(value * factor for value in values)

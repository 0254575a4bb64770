"""The cudnn backend on a simulated GPU: what it says is missing, its lists, its plans, its rows."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from fake_cuda import CudaError
from fake_cudnn import PLANS, FakeCudnn, FakePlan, GraphNotSupportedError, fake_backend, make_case
from test_runner import OPTIONS, lines_of, rows_of
from tiny import FPROP, SUITE

from convbench import reference
from convbench.backends import AUTO, BackendSpec, PlanOptions
from convbench.backends import cuda as cuda_module
from convbench.backends.cuda.runtime import import_crash
from convbench.backends.cudnn import CudnnBackend
from convbench.backends.cudnn.frontend import missing
from convbench.cli import main
from convbench.errors import InputError, UnsupportedError
from convbench.operands import Operands, grouped
from convbench.problem import PRECISIONS, ConvPass, Dtype, Epilogue, Layout
from convbench.result import COLD, WARM, Status
from convbench.runner import Spent
from convbench.tasks import NOT_HERE, tasks
from convbench.testing import check_backend, random_cases
from convbench.tuning import tuned

# What is missing


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (None, 'nvidia-cudnn-frontend is not installed: pip install "convbench[cudnn13]"'),
        (FakeCudnn(None, version=90100), "cuDNN 9.1.0 is too old, 9.2 is needed: "),
        (FakeCudnn(None, version=RuntimeError("Unable to find symbol cudnnGetVersion\nmore")),
         "cuDNN itself is missing (Unable to find symbol cudnnGetVersion): "),
        (FakeCudnn(None), None),
    ],
)  # fmt: skip
def test_what_is_missing(monkeypatch, module, text):
    monkeypatch.setitem(sys.modules, "cudnn", module)
    found = missing()
    assert found == text if text is None else found.startswith(text)
    if text:
        assert "\n" not in found


@pytest.mark.parametrize(("source", "said"), [
    ("import os; os.kill(os.getpid(), 11)", "but its import crashes (signal 11): pip install "),
    ("raise SystemExit('no GPU')", "but does not load (no GPU): pip install "),
])  # fmt: skip
def test_a_front_end_that_ends_its_process_is_a_reason(monkeypatch, tmp_path, source, said):
    (tmp_path / "cudnn.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cudnn", raising=False)
    import_crash.cache_clear()
    assert missing().startswith(f"nvidia-cudnn-frontend is installed {said}")
    import_crash.cache_clear()


def test_an_old_front_end(monkeypatch):
    module = FakeCudnn(None)
    module.__version__ = "1.9.1"
    monkeypatch.setitem(sys.modules, "cudnn", module)
    assert missing().startswith("nvidia-cudnn-frontend 1.9.1 is too old, 1.28 is needed")


def test_without_the_front_end_a_case_has_one_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    backend = CudnnBackend()
    assert [(c.algorithm, c.reason) for c in backend.algorithms(make_case())] == [(AUTO, backend.probe())]


def test_with_it_but_without_a_gpu_the_gpus_reason_counts(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", FakeCudnn(None))
    monkeypatch.setattr(cuda_module, "unusable", lambda: "no driver")
    assert CudnnBackend().probe() == "no driver"


def test_what_is_listed_without_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", FakeCudnn(None))
    monkeypatch.setattr(cuda_module, "unusable", lambda: "no driver")
    assert CudnnBackend().listed_for() == "cudnn's plans are those for an NVIDIA H200; none can run here: no driver"
    monkeypatch.setattr(cuda_module, "unusable", lambda: None)
    assert CudnnBackend().listed_for() is None
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert CudnnBackend().listed_for() is None


def test_list_algorithms_shows_what_cannot_run_here(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from convbench.testing import FakeBackend\n"
        "class Mine(FakeBackend):\n"
        "    def __init__(self): super().__init__(unusable='no driver')\n"
        "    def listed_for(self): return 'those of another machine'\n"
    )
    ran = CliRunner().invoke(main, ["list", "algorithms", "smoke", "-b", f"{tmp_path / 'mine.py'}:Mine"])
    assert ran.exit_code == 0
    assert "auto (quick)" in ran.stdout
    assert "no driver" not in ran.stdout
    assert ran.stdout.splitlines()[-1] == "those of another machine"


def test_a_row_without_a_gpu_is_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    (row,) = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(CudnnBackend())], 1)))
    assert (row.status, row.key.algorithm) == (Status.UNAVAILABLE, AUTO)
    assert "cudnn13" in row.reason


def test_importing_it_is_light():
    heavy = ("numpy", "scipy", "cudnn", "cupy", "torch")
    script = f"import sys, convbench.backends.cudnn; print(*({set(heavy)!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == ""


# Lists


def test_plans_come_in_the_order_of_the_heuristics_with_notes_and_workspace(monkeypatch):
    backend, module = fake_backend(monkeypatch)
    offered = backend._offered(make_case())
    assert [(p.name, p.workspace_bytes, p.notes) for p in offered] == [(p.name, p.workspace, p.notes) for p in PLANS]
    assert offered[0].behavior == ("RUNTIME_COMPILATION",)
    assert module.built == []


def test_a_list_is_looked_up_once_for_all_problems_alike(monkeypatch):
    backend, module = fake_backend(monkeypatch)
    backend.algorithms(make_case())
    graphs = module.graphs
    backend.algorithms(replace(make_case(), name="other", repeat=7))
    assert module.graphs == graphs


def test_strict_fp32_takes_the_first_plan_off_tensor_cores(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    auto, *named = backend.algorithms(make_case())
    assert (auto.algorithm, auto.resolves_to, auto.reason) == (AUTO, "eng1_k2=1", None)
    assert [c.algorithm for c in named if c.reason] == ["eng38_k2=4_k13=0"]
    assert backend.algorithms(make_case(precision="tf32"))[0].resolves_to == "eng38_k2=4_k13=0"


def test_memory_is_tensors_and_workspace(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    auto = backend.algorithms(make_case(epilogue="bias"))[0]
    assert auto.memory_bytes == 4 * (2 * 4 * 72 + 6 * 4 * 6 + 2 * 6 * 49 + 6) + 4096


@pytest.mark.parametrize(
    ("plans", "options", "reason"),
    [
        (PLANS[:1], PlanOptions(), "cuDNN's only plan cannot be taken: multiplies on tensor cores and rounds"),
        (PLANS[:2], PlanOptions(workspace_limit_bytes=1), "cuDNN's 2 plans cannot be taken: multiplies on tensor"),
        ((FakePlan("eng9", ("WINOGRAD",)),), PlanOptions(accuracy=1e-6), "can be taken keeps 1e-06"),
        ((), PlanOptions(), "cuDNN 9.28.1 has no plan for this case"),
    ],
)
def test_no_plan_is_left(monkeypatch, plans, options, reason):
    backend, _ = fake_backend(monkeypatch, plans=plans)
    auto = backend.algorithms(make_case(), options)[0]
    assert reason in auto.reason
    with pytest.raises(UnsupportedError) as raised:
        backend.plan(make_case(), AUTO, Operands(make_case().problem, Dtype.FP32, 0), options)
    assert str(raised.value) == auto.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GraphNotSupportedError("no engine proposed a plan for this graph (…)\nmore"), "has no plan for this case"),
        (RuntimeError("[cudnn_frontend] Error: BAD_PARAM\nmore"), "cuDNN 9.28.1 has no plan for this case: BAD_PARAM"),
    ],
)
def test_a_graph_that_is_declined(monkeypatch, error, reason):
    backend, _ = fake_backend(monkeypatch, graph_error=error)
    (auto,) = backend.algorithms(make_case())
    assert auto.reason.endswith(reason)


@pytest.mark.parametrize("error", [RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nmore"), MemoryError("out of memory")])
def test_a_cudnn_that_does_not_start_is_a_reason_and_is_asked_again(monkeypatch, error):
    backend, module = fake_backend(monkeypatch)
    module.handle_error = error
    (auto,) = backend.algorithms(make_case())
    assert auto.reason == f"cuDNN does not start on cuda:0: {str(error).splitlines()[0]}"
    module.handle_error = None
    assert backend.algorithms(make_case())[0].reason is None


# Plans


def planned(backend, case, algorithm=AUTO, options=PlanOptions()):  # noqa: B008  it is frozen
    return backend.plan(case, algorithm, Operands(case.problem, case.dtype, 3), options)


def test_every_case_comes_out_right(monkeypatch):
    backend, _ = fake_backend(monkeypatch, plans=(FakePlan("eng0", (), 8),))
    assert check_backend(backend, count=250, seed=5, max_macs=20_000) == []
    cases = [*random_cases(5, 250, 20_000)]
    able = [case for case in cases if backend.algorithms(case)[0].reason is None]
    seen = {(c.conv_pass, c.layout, c.problem.ndim, c.problem.groups > 1, c.dtype) for c in able}
    grid = itertools.product(ConvPass, (Layout.NCHW, Layout.NHWC), (1, 2, 3))
    assert {key[:3] for key in seen} == {*grid}
    assert {c.epilogue for c in able} == {*Epilogue}


@pytest.mark.parametrize(("precision", "unit"), [("fp16", 2**-11), ("bf16", 2**-8)])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_narrow_types_are_rounded_and_come_back(monkeypatch, precision, unit, layout):
    backend, _ = fake_backend(monkeypatch)
    case = make_case(precision=precision, layout=layout)
    operands = Operands(case.problem, case.dtype, 3)
    plan = backend.plan(case, AUTO, operands, PlanOptions())
    assert np.isnan(plan.output()).all()
    plan.run()
    axes, x, w = case.problem.axes, grouped(operands.x, 1, 1), grouped(operands.w, 1, 0)
    assert np.allclose(plan.output(), reference.fprop(axes, x, w).reshape(case.output_shape), rtol=2 * unit, atol=1e-6)
    plan.poison()
    assert np.isnan(plan.output()).all()


def test_what_a_plan_says_of_itself(monkeypatch):
    backend, module = fake_backend(monkeypatch)
    plan = planned(backend, make_case(precision="tf32"))
    assert (plan.algorithm, plan.workspace_bytes) == ("eng38_k2=4_k13=0", 1 << 20)
    assert plan.notes == ("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "RUNTIME_COMPILATION")
    assert module.built == ["eng38_k2=4_k13=0"]


def test_a_plan_by_name(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    assert planned(backend, make_case(), "eng0").algorithm == "eng0"
    with pytest.raises(UnsupportedError, match="multiplies on tensor cores"):
        planned(backend, make_case(), "eng38_k2=4_k13=0")
    with pytest.raises(UnsupportedError, match="lists no plan 'eng5' for this case: names differ"):
        planned(backend, make_case(), "eng5")


def test_a_limit_on_workspace(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    limit = PlanOptions(workspace_limit_bytes=100)
    assert planned(backend, make_case(), options=limit).algorithm == "eng1_k2=2"
    assert planned(backend, make_case(), options=PlanOptions(workspace_limit_bytes=0)).algorithm == "eng0"
    with pytest.raises(UnsupportedError, match="asks for 4096 bytes of workspace, the limit is 100"):
        planned(backend, make_case(), "eng1_k2=1", limit)


def test_auto_goes_on_where_a_plan_cannot_be_built_and_a_named_one_does_not(monkeypatch):
    broken = FakePlan("eng7", build_error=GraphNotSupportedError("[cudnn_frontend] Error: ptxas failed\nmore"))
    backend, _ = fake_backend(monkeypatch, plans=(broken, *PLANS))
    assert planned(backend, make_case()).algorithm == "eng1_k2=1"
    with pytest.raises(UnsupportedError, match=r"cuDNN does not build eng7: ptxas failed$"):
        planned(backend, make_case(), "eng7")


# Rows


def measured(monkeypatch, plans, caches=(WARM,), **options):
    """Rows by algorithm and cache."""
    backend, module = fake_backend(monkeypatch, plans=plans, **options)
    rows = rows_of(lines_of(tasks(FPROP.cases([SUITE]), [BackendSpec(backend)], 1, caches)))
    return {(row.key.algorithm, row.key.cache): row for row in rows}, module


def test_rows_of_a_run(monkeypatch):
    rows, _ = measured(monkeypatch, PLANS, (WARM, COLD))
    assert {name: row.status for (name, cache), row in rows.items() if cache == COLD} == {
        "eng38_k2=4_k13=0": Status.UNSUPPORTED, "eng1_k2=1": Status.OK, "eng1_k2=2": Status.OK, "eng0": Status.OK,
    }  # fmt: skip
    row = rows["eng1_k2=1", WARM]
    assert (row.resolved, row.workspace_bytes, row.key.device) == ("eng1_k2=1", 4096, "cuda:0")
    assert row.time_s == pytest.approx(50e-6, rel=0.05)
    assert row.plan_s > row.build_s > 0
    assert row.notes == ("RUNTIME_COMPILATION",)
    assert rows["eng1_k2=2", COLD].notes == ("NONDETERMINISTIC", "RUNTIME_COMPILATION")


def test_the_sets_of_a_cold_row_share_what_was_built(monkeypatch):
    _, warm = measured(monkeypatch, PLANS[3:])
    rows, cold = measured(monkeypatch, PLANS[3:], (WARM, COLD))
    assert rows["eng0", COLD].rounds[0].launches > 10
    assert len(cold.built) == len(warm.built)


def test_a_plan_over_other_operands_computes_with_them(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    case = make_case()
    first, second = (Operands(case.problem, case.dtype, seed) for seed in (1, 2))
    plan = backend.plan(case, AUTO, first, PlanOptions())
    other = plan.over(second)
    for one, operands in ((other, second), (plan, first)):
        one.run()
        right = reference.fprop(case.problem.axes, grouped(operands.x, 1, 1), grouped(operands.w, 1, 0))
        assert np.allclose(one.output(), right.reshape(case.output_shape), atol=1e-5)
    assert (other.algorithm, other.workspace_bytes, other.notes) == (plan.algorithm, plan.workspace_bytes, plan.notes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_and_epilogue_is_measured(monkeypatch, precision):
    plans = (FakePlan("eng0"),)
    selection = replace(FPROP, precisions=(PRECISIONS[precision],), epilogues=tuple(Epilogue))
    backend, _ = fake_backend(monkeypatch, plans=plans)
    rows = rows_of(lines_of(tasks(selection.cases([SUITE]), [BackendSpec(backend, AUTO)], 1)))
    assert [(row.key.case.epilogue, row.status, row.resolved) for row in rows] == [
        (epilogue, Status.OK, "eng0") for epilogue in Epilogue
    ]


def test_a_plan_that_only_the_fused_graph_has_is_verified_against_another(monkeypatch):
    fused = FakePlan("eng3", epilogues=("bias",))
    backend, _ = fake_backend(monkeypatch, plans=(fused, FakePlan("eng0", epilogues=("none",))))
    selection = replace(FPROP, epilogues=(Epilogue.BIAS,))
    (row,) = rows_of(lines_of(tasks(selection.cases([SUITE]), [BackendSpec(backend, "eng3")], 1)))
    assert (row.status, row.resolved) == (Status.OK, "eng3")


def test_a_plan_that_a_case_has_not_is_no_mistake_and_another_name_is(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    cases = FPROP.cases([SUITE])
    (row,) = rows_of(lines_of(tasks(cases, [BackendSpec(backend, "eng5_k2=-1_k13=0")], 1)))
    assert (row.status, row.reason) == (Status.UNSUPPORTED, NOT_HERE)
    with pytest.raises(InputError, match="unknown algorithm 'fft' of backend cudnn"):
        tasks(cases, [BackendSpec(backend, "fft")], 1)


@pytest.mark.parametrize(
    ("faulty", "status", "text"),
    [
        (FakePlan("bad", run_error=RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")), Status.FAILED, "EXECUTION_FAILED"),
        (FakePlan("bad", run_error=RuntimeError("CUDNN_STATUS_ALLOC_FAILED")), Status.OUT_OF_MEMORY, "ALLOC_FAILED"),
        (FakePlan("bad", kernel_error=CudaError("cudaErrorLaunchFailure")), Status.FAILED, "LaunchFailure (fake_cuda"),
        (FakePlan("bad", build_error=RuntimeError("out of memory")), Status.OUT_OF_MEMORY, "out of memory"),
        (FakePlan("bad", build_error=RuntimeError("no kernel\nmore")), Status.UNSUPPORTED, "build bad: no kernel"),
        (FakePlan("bad", workspace=160 << 30), Status.SKIPPED, "needs 160 GiB of cuda:0's memory"),
        (FakePlan("bad", spoil=math.nan), Status.WRONG, ""),
        (FakePlan("bad", spoil=1.01), Status.WRONG, ""),
    ],
)  # fmt: skip
def test_a_plan_that_fails_lets_the_next_go_on_and_leaves_no_memory(monkeypatch, faulty, status, text):
    rows, module = measured(monkeypatch, (faulty, PLANS[3]))
    assert (rows["bad", WARM].status, rows["eng0", WARM].status) == (status, Status.OK)
    assert text in rows["bad", WARM].reason
    names = {row.key.algorithm for row in rows.values() if row.status is Status.OK}
    assert names == {"eng0"}
    if status is Status.OUT_OF_MEMORY:
        assert "free_unused" in module.cuda.log


def test_too_little_memory_on_the_gpu(monkeypatch):
    backend, module = fake_backend(monkeypatch)
    module.cuda.used_bytes = module.cuda.free_bytes() - 3000
    with pytest.raises(MemoryError, match="out of memory"):
        planned(backend, make_case(), "eng1_k2=1")
    assert module.cuda.free_when_asked_to_free == 3000  # two operands had been uploaded
    assert planned(backend, make_case(input_size=(4, 4)), "eng0").algorithm == "eng0"


def test_auto_is_tuned_by_measurement(monkeypatch):
    backend, _ = fake_backend(monkeypatch)
    found = tasks(FPROP.cases([SUITE]), [BackendSpec(backend, AUTO)], 1)
    told = tuned(found, OPTIONS, Spent(), print)
    try:
        while True:
            next(told)
    except StopIteration as stop:
        (task,) = stop.value
    assert task.chosen == "eng0"

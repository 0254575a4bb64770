"""cuDNN itself without a GPU: graphs for every pass, dimension, layout and type, their plans, and builds.

The front end and a cuDNN must be installed; `make test` brings the light one, which compiles all of its kernels at run
time. Every question goes to a process of its own, so that nothing else meets the stand-in for the driver.
"""

import importlib.util
import itertools
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from convbench.backends import AUTO, cuda
from convbench.backends.cudnn import CudnnBackend, deviceless
from convbench.backends.cudnn.graphs import NOTES
from convbench.errors import UnsupportedError
from convbench.problem import PRECISIONS, Case, ConvPass, Epilogue, Layout, Problem

CPU_ONLY = cuda.unusable()
LIGHT = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.cudnn_jit") is not None
FIELDS = {
    1: {"input_size": (1024,), "filter_size": (9,), "padding": ((4, 4),)},
    2: {"input_size": (28, 28), "filter_size": (3, 3), "padding": ((1, 1),) * 2},
    3: {"input_size": (8, 16, 16), "filter_size": (3, 3, 3), "padding": ((1, 1),) * 3},
}


def make_case(conv_pass="fprop", precision="tf32", layout="nhwc", epilogue="none", ndim=2, **fields):
    fields = {"batch": 4, "in_channels": 32, "out_channels": 64} | FIELDS[ndim] | fields
    dtype, math_mode = PRECISIONS[precision]
    return Case(suite="test", name="p", problem=Problem(**fields), conv_pass=ConvPass(conv_pass), dtype=dtype,
                math_mode=math_mode, layout=Layout(layout), epilogue=Epilogue(epilogue))  # fmt: skip


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A cache folder that keeps the stand-in for all tests."""
    return tmp_path_factory.mktemp("stand-in")


@pytest.fixture(autouse=True)
def cache(monkeypatch, stand_in):
    monkeypatch.setenv("CONVBENCH_CACHE", str(stand_in))


@pytest.fixture(scope="module")
def shared_backend():
    return CudnnBackend()


@pytest.fixture
def backend(shared_backend):
    if reason := shared_backend._missing:
        pytest.skip(reason)
    if CPU_ONLY is None:
        pytest.skip("there is a GPU: lists are asked of it")
    return shared_backend


def the_light_one():
    return LIGHT and version("nvidia-cudnn-jit-cu13").startswith("9.27.")


def may_lack(case):
    """Why the light cuDNN 9.27 may have no plan for a case of these tests; "" where it has some."""
    if case.precision == "fp64" or (case.epilogue is not Epilogue.NONE and case.layout is Layout.NCHW):
        return "cuDNN 9.27.0 has no plan for this case"
    return "multiplies on tensor cores, which is not fp32" if case.precision == "fp32" else ""


GRID = [
    *itertools.product(ConvPass, PRECISIONS, ("nchw", "nhwc"), ["none"], (1, 2, 3)),
    *itertools.product(["fprop"], PRECISIONS, ("nchw", "nhwc"), ["bias", "bias+relu"], (1, 2, 3)),
]


@pytest.mark.parametrize(("conv_pass", "precision", "layout", "epilogue", "ndim"), GRID)
def test_every_graph_has_plans_or_one_reason(backend, conv_pass, precision, layout, epilogue, ndim):
    case = make_case(conv_pass, precision, layout, epilogue, ndim)
    auto, *plans = backend.algorithms(case)
    assert auto.algorithm == AUTO
    if auto.reason is None:
        assert auto.resolves_to in {plan.algorithm for plan in plans if plan.reason is None}
        assert auto.memory_bytes > case.problem.batch * case.dtype.itemsize
    else:
        assert "\n" not in auto.reason
    if the_light_one():
        lacking = may_lack(case)
        assert auto.reason is None or (lacking and lacking in auto.reason)


@pytest.mark.parametrize(
    "fields",
    [
        {"dilation": (2, 2)}, {"stride": (2, 3)}, {"padding": ((0, 1), (2, 1))},
        {"padding": ((0, 1), (0, 1)), "stride": (2, 2)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("conv_pass", ConvPass)
def test_variants_have_plans(backend, conv_pass, fields):
    assert backend.algorithms(make_case(conv_pass, "fp16", **fields))[0].reason is None


@pytest.mark.parametrize("groups", [8, 32])
def test_groups_have_plans(backend, groups):
    assert backend.algorithms(make_case(precision="fp16", groups=groups, out_channels=32))[0].reason is None


def test_strict_fp32_is_left_in_nhwc(backend):
    assert backend.algorithms(make_case(precision="fp32"))[0].reason is None


def test_lists_are_the_same_and_names_unique(backend):
    case = make_case()
    first, second = ([c.algorithm for c in CudnnBackend().algorithms(case)] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first) > 1


def test_no_plan_left_for_fp32_is_on_tensor_cores(backend):
    case = make_case(precision="fp32")
    notes = {plan.name: plan.notes for plan in backend._offered(case)}
    assert set().union(*notes.values()) <= {*NOTES}
    assert any("TENSOR_CORE" in carried for carried in notes.values())
    left = [c.algorithm for c in backend.algorithms(case)[1:] if c.reason is None]
    assert not any("TENSOR_CORE" in notes[name] for name in left)


BUILD = """
import json, sys, time
from convbench.backends.cudnn.deviceless import descriptor, load_driver
load_driver()
import cudnn
from convbench.backends.cudnn.graphs import describe
from convbench.backends.cudnn.frontend import Graph, list_plans
from convbench.errors import UnsupportedError
sys.path.insert(0, {here!r})
from test_cudnn_deviceless import make_case
properties = cudnn.create_device_properties(descriptor())
for arguments in json.loads({cases!r}):
    of = describe(make_case(**arguments))
    make = lambda: Graph(cudnn, of, properties=properties)
    listed, graph = {{plan.name: plan for plan in list_plans(make)}}, make()
    name = graph.names[0]
    print(json.dumps([name, listed[name].workspace_bytes, graph.build(name)]))
"""


def test_the_first_plan_builds_with_the_workspace_that_was_listed(backend):
    cases = [{"conv_pass": p, "precision": "fp16", "ndim": n} for p in ("fprop", "dgrad", "wgrad") for n in (1, 2, 3)]
    cases += [{"epilogue": "bias+relu", "precision": "bf16"}, {"layout": "nchw"}]
    script = BUILD.format(here=str(Path(__file__).parent), cases=json.dumps(cases))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    built = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(built) == len(cases)
    assert all(listed == asked for _, listed, asked in built)


# What happens around it, with no cuDNN at all


def test_the_descriptor_names_its_gpu():
    assert deviceless.described_gpu() == "NVIDIA H200"


def test_the_stand_in_is_compiled_once(stand_in):
    try:
        path = deviceless.stand_in()
    except UnsupportedError as error:
        pytest.skip(str(error))
    changed = path.stat().st_mtime_ns
    assert deviceless.stand_in() == path
    assert (path.stat().st_mtime_ns, path.parent) == (changed, stand_in)
    assert [*stand_in.iterdir()] == [path]


def test_the_stand_in_says_that_there_is_no_device(stand_in):
    try:
        path = deviceless.stand_in()
    except UnsupportedError as error:
        pytest.skip(str(error))
    script = f"import ctypes; cuda = ctypes.CDLL({str(path)!r}); print(cuda.cuInit(0), cuda.cuDeviceGetCount(None))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["100", "100"]


@pytest.mark.parametrize(
    ("which", "text"),
    [(lambda name: None, r"no C compiler \(cc, gcc, clang\)"), (lambda name: "false", "cannot be compiled")],
)
def test_a_stand_in_that_cannot_be_made(monkeypatch, tmp_path, which, text):
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(deviceless.shutil, "which", which)
    with pytest.raises(UnsupportedError, match=text):
        deviceless.stand_in()
    assert not (tmp_path / "empty").exists() or not [*(tmp_path / "empty").iterdir()]


def test_a_process_that_ends_is_a_reason_and_the_next_question_starts_another(monkeypatch):
    lister = deviceless.Lister()
    monkeypatch.setattr(deviceless, "COMMAND", "raise SystemExit(3)")
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"ended the process that lists its plans \(exit status"):
            lister.plans(None)


def test_what_cudnn_logs_is_no_answer(monkeypatch):
    noisy = deviceless.COMMAND.replace("serve(sys", "print('I! CuDNN', flush=True); serve(sys")
    monkeypatch.setattr(deviceless, "COMMAND", noisy)
    monkeypatch.setitem(sys.modules, "nothing", None)
    with pytest.raises(
        UnsupportedError, match=r"cuDNN cannot list plans here|stand-in|has no plan|lists its plans only"
    ):
        deviceless.Lister().plans(None)

"""The kernels in a CUDA graph, by name: what a library launches, without a profiler. Through the driver's own calls."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from driver import driver

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL, CHILD = 0, 4
"""CU_GRAPH_NODE_TYPE_KERNEL and …_GRAPH (cuda.h)."""
OTHERS = {1: "(memcpy)", 2: "(memset)", 3: "(host function)"}
LONGEST = 120


class KernelParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h."""

    _fields_ = [
        ("function", ctypes.c_void_p), ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint), ("parameters", ctypes.c_void_p), ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p), ("context", ctypes.c_void_p),
    ]  # fmt: skip


def kernels(graph: int, library: Any = None) -> list[str]:
    """Names of the kernels of a graph (a CUgraph, as a cudaGraph_t is), in its own order; copies in brackets."""
    cuda: Any = library or driver()
    count = ctypes.c_size_t()
    _check(cuda.cuGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(count)))
    nodes = (ctypes.c_void_p * count.value)()
    _check(cuda.cuGraphGetNodes(ctypes.c_void_p(graph), nodes, ctypes.byref(count)))
    found: list[str] = []
    for node in nodes:
        kind = ctypes.c_int()
        _check(cuda.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
        if kind.value == KERNEL:
            found.append(_name(cuda, node or 0))
        elif kind.value == CHILD:
            child = ctypes.c_void_p()
            _check(cuda.cuGraphChildGraphNodeGetGraph(ctypes.c_void_p(node), ctypes.byref(child)))
            found += kernels(child.value or 0, cuda)
        else:
            found += [OTHERS[kind.value]] if kind.value in OTHERS else []
    return found


def _name(cuda: Any, node: int) -> str:
    of = KernelParameters()
    _check(cuda.cuGraphKernelNodeGetParams_v2(ctypes.c_void_p(node), ctypes.byref(of)))
    name = ctypes.c_char_p()
    if of.function:
        _check(cuda.cuFuncGetName(ctypes.byref(name), ctypes.c_void_p(of.function)))
    else:
        _check(cuda.cuKernelGetName(ctypes.byref(name), ctypes.c_void_p(of.kernel)))
    return readable((name.value or b"?").decode())


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"the driver answers with CUDA error {status}")


@functools.cache
def readable(name: str) -> str:
    """A name as C++ has it, where c++filt is there, and not too long."""
    tool = shutil.which("c++filt")
    if tool and name.startswith("_Z"):
        name = subprocess.run([tool, name], capture_output=True, text=True, check=False).stdout.strip() or name
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}…"


def kernels_of(timer: Any, run: Callable[[], object]) -> list[str]:
    """The kernels that a run launches, from a capture; by torch's profiler where it cannot be captured.

    Raises:
        RuntimeError: neither way.
    """
    graph = timer.captured(run, 1)
    return kernels(graph.graph) if graph is not None else _profiled(run)


def _profiled(run: Callable[[], object]) -> list[str]:
    try:
        import cupy
        import torch
    except ImportError as error:
        raise RuntimeError("the run cannot be captured, and there is no torch to profile it") from error
    torch.zeros(1, device="cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        cupy.cuda.Device().synchronize()
    return [event.name for event in profile.events()]

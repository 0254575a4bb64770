"""Questions to cuDNN; `questions.py` runs them. GPU alone, and not run on one yet."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

from answers import Answer
from cases import made_case, within
from nodes import kernels_of

from convbench.backends.cudnn import CudnnBackend
from convbench.backends.cudnn.graphs import FORBIDDEN, describe
from convbench.backends.cudnn.plans import make_plan
from convbench.operands import Operands
from convbench.problem import ConvPass, MathMode
from convbench.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timer import EventTimer

    from convbench.backends import Plan
    from convbench.backends.cuda.gpu import CudaDevice
    from convbench.backends.cudnn.graphs import Offered
    from convbench.problem import Case

SHAPES: tuple[dict[str, Any], ...] = (
    {"filter_size": (3, 3), "input_size": (56, 56), "padding": ((1, 1),) * 2},
    {"filter_size": (5, 5), "padding": ((2, 2),) * 2},
    {"filter_size": (13, 13), "batch": 128},
    {"filter_size": (11, 11), "input_size": (128, 128), "batch": 16, "in_channels": 32, "out_channels": 32},
    {"filter_size": (7, 7), "input_size": (64, 64), "batch": 16, "padding": ((3, 3),) * 2},
    {"filter_size": (3, 3), "input_size": (14, 14), "in_channels": 256, "out_channels": 256, "padding": ((1, 1),) * 2},
)  # fmt: skip
"""Where earlier releases of cuDNN took FFT or Winograd."""
TRANSFORMS = ("FFT", "WINOGRAD")
HOST_CALLS = 30
SCAN_S, LISTS_S, PLANS_S, KERNELS_S = 20.0, 12.0, 30.0, 12.0
"""Seconds after which no further case is scanned or listed, and no further plan built: some are compiled for a second
or two. They end well within what report.py gives."""
TF32_ERROR = 5e-5
"""Relative error that tells inputs rounded to TF32 (some 3e-4) from long and short sums in fp32 (1e-5 and 3e-7)."""


def _plan(backend: CudnnBackend, case: Case, offered: Offered, operands: Operands) -> Plan:
    """One plan, whatever its notes: also those that its math mode forbids."""
    return make_plan(case, [offered], operands, backend.device(), backend._graph(describe(case)))


def fft(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Plans whose notes say FFT or Winograd: of the heuristics' lists, and of every engine by its number."""
    backend = CudnnBackend()
    listed: Counter[str] = Counter()
    engines: dict[str, list[str]] = {note: [] for note in TRANSFORMS}
    refused: Counter[str] = Counter()
    scanned = 0
    for fields, conv_pass in within(SCAN_S, itertools.product(SHAPES, ConvPass)):
        scanned += 1
        case = made_case(conv_pass, **fields)
        what = f"{conv_pass} {'×'.join(map(str, fields['filter_size']))}"
        for plan in backend._offered(case):
            listed.update(note for note in plan.notes if note in TRANSFORMS)
        for note in TRANSFORMS:
            engines[note] += [f"{what} eng{number}" for number in _engines(backend, case, note, refused)]
    found = {note: sorted(set(names)) for note, names in engines.items()}
    told = [
        f"{note}: {listed[note]} plans of the lists, {len(names)} engines by number"
        + (f" ({', '.join(names[:6])})" if names else "")
        for note, names in found.items()
    ]
    yield Answer(
        question=1, program="fft", sentence=f"By graph, of {scanned} cases in fp32 and nchw: {'; '.join(told)}.",
        data={"listed": dict(listed), "engines": found, "refused": dict(refused)},
    )  # fmt: skip


def _engines(backend: CudnnBackend, case: Case, note: str, refused: Counter[str]) -> list[int]:
    """Numbers of the engines that take a case with their default knobs, carry a note, and build."""
    import cudnn

    graph = backend._graph(describe(case))
    lowered = graph._graph._lowered_graph
    numbers: dict[int, int] = {}
    for number in range(lowered.get_engine_count()):
        try:
            lowered.create_execution_plan(number, {})
        except Exception as error:  # noqa: BLE001  why it is refused is counted
            refused["architecture" if "ARCH_MISMATCH" in str(error) else "not supported"] += 1
            continue
        numbers[lowered.get_execution_plan_count() - 1] = number
    lowered.select_numeric_notes([getattr(cudnn.numerical_note, note)])
    found = []
    for index, number in numbers.items():
        try:
            lowered.build_plan_at_index(index)
        except Exception:  # noqa: BLE001  barred, as it has no such note, or it does not build
            continue
        found.append(number)
    return found


def deviceless(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Lists of plans by a handle, by the device's own descriptor, and by the one that convbench brings."""
    import cudnn

    from convbench.backends.cudnn.deviceless import Lister, described_gpu
    from convbench.backends.cudnn.frontend import Graph, list_plans

    backend, lister, real = CudnnBackend(), Lister(), cudnn.create_device_properties(0)
    data: dict[str, Any] = {}
    kinds = (("fp32", "nchw"), ("tf32", "nhwc"), ("fp16", "nhwc"))
    for (precision, layout), conv_pass in within(LISTS_S, itertools.product(kinds, ConvPass)):
        case = made_case(conv_pass, precision, layout)
        of = describe(case)
        by_handle = backend._offered(case)
        by_device = list_plans(functools.partial(Graph, cudnn, of, properties=real))
        by_hand = lister.plans(of)
        data[f"{conv_pass} {precision} {layout}"] = {
            "plans": len(by_handle), "device": by_device == list(by_handle), "hand": by_hand == list(by_handle),
            "same_names": [plan.name for plan in by_hand] == [plan.name for plan in by_handle],
        }  # fmt: skip
    device_ok, hand_ok, names_ok = (sum(row[key] for row in data.values()) for key in ("device", "hand", "same_names"))
    yield Answer(
        question=2, program="deviceless", data=data,
        sentence=f"With the GPU's own descriptor in {device_ok} of {len(data)} cases, with the one by hand (an "
        f"{described_gpu()}) in {hand_ok}, and the names alone in {names_ok}.",
    )  # fmt: skip


def plans(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Every plan of some cases: host time of a call, capture, and error; those with TF32 barred apart."""
    backend = CudnnBackend()
    rows: list[dict[str, Any]] = []
    kinds = (("fprop", "nchw"), ("wgrad", "nchw"), ("fprop", "nhwc"), ("dgrad", "nhwc"))
    for conv_pass, layout in kinds:
        case = made_case(conv_pass, "fp32", layout, padding=((1, 1),) * 2)
        operands = Operands(case.problem, case.dtype, 0)
        offered = [plan for plan in backend._offered(case) if not plan.declined]
        offered.sort(key=lambda plan: plan.reason(MathMode.FP32, None) is not None)  # stable: the strict ones first
        rows += (
            {"case": case.label(), "plan": plan.name} | _looked_at(backend, case, plan, operands, timer)
            for plan in within(PLANS_S / len(kinds), offered)
        )
    yield from _calls(rows)
    yield _errors(rows)


def _looked_at(
    backend: CudnnBackend, case: Case, offered: Offered, operands: Operands, timer: EventTimer
) -> dict[str, Any]:  # fmt: skip
    try:
        plan = _plan(backend, case, offered, operands)
        plan.run()
        found = check(case, plan.output(), operands, offered.error_bound, 0, None)
        plan.run()
        device = backend.device()
        host = []
        for _ in range(HOST_CALLS):
            begun = time.perf_counter()
            plan.run()
            host.append(time.perf_counter() - begun)
        device.cuda.synchronize()
        captured = timer.captured(plan.run, 1) is not None
        taken_us = median(timer.warm(plan.run)() for _ in range(3)) * 1e6
    except Exception as error:  # noqa: BLE001  the other plans go on
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    strict = not any(note in FORBIDDEN[MathMode.FP32] for note in offered.notes)
    return {"strict": strict, "notes": offered.notes, "workspace_bytes": plan.workspace_bytes, "us": taken_us,
            "host_us": median(host) * 1e6, "captured": captured, "error": found.rms_error}  # fmt: skip


def _calls(rows: list[dict[str, Any]]) -> Iterator[Answer]:
    done = [row for row in rows if "failed" not in row]
    failed = len(rows) - len(done)
    if not done:
        yield Answer(question=4, program="plans", data=rows, sentence=f"None of {len(rows)} plans ran.")
        return
    host = [row["host_us"] for row in done]
    captured = sum(row["captured"] for row in done)
    yield Answer(
        question=4, program="plans", data=rows,
        sentence=f"A call costs the host {median(host):.0f} µs ({min(host):.0f} to {max(host):.0f}) over {len(done)} "
        f"plans; {captured} of them can be captured" + (f"; {failed} more do not run." if failed else "."),
    )  # fmt: skip


def _errors(rows: list[dict[str, Any]]) -> Answer:
    errors: dict[bool, list[float]] = {
        strict: [row["error"] for row in rows if row.get("strict") is strict and row["error"] is not None]
        for strict in (True, False)
    }
    told = [
        f"{len(found)} {'strict' if strict else 'barred'} plans err by {min(found):.1e} to {max(found):.1e}"
        for strict, found in errors.items()
        if found
    ]
    inexact = sum(error > TF32_ERROR for error in errors[True])
    exact = sum(error < TF32_ERROR for error in errors[False])
    told.append(f"{inexact} strict ones err like TF32, {exact} barred ones do not")
    return Answer(question=5, program="plans", data=None, sentence=f"{'; '.join(told)}.")


def kernels(device: CudaDevice, timer: EventTimer) -> Iterator[Answer]:
    """Kernels behind the first plan of each engine in some lists; what is not known is there as the reason."""
    backend = CudnnBackend()
    data: dict[str, list[str] | str] = {}
    kinds = (("fprop", "fp32", "nchw"), ("wgrad", "fp32", "nchw"), ("fprop", "tf32", "nhwc"))
    for conv_pass, precision, layout in kinds:
        case = made_case(conv_pass, precision, layout, padding=((1, 1),) * 2)
        operands = Operands(case.problem, case.dtype, 0)
        able = [plan for plan in reversed(backend._offered(case)) if not plan.declined]
        firsts = {plan.name.partition("_")[0]: plan for plan in able}
        for offered in within(KERNELS_S / len(kinds), reversed(firsts.values())):
            data[f"{case.label()} {offered.name}"] = _names(backend, case, offered, operands, timer)
    counts = Counter(len(names) for names in data.values() if isinstance(names, list))
    told = [f"{number} launch {count}" for count, number in sorted(counts.items())]
    unknown = len(data) - sum(counts.values())
    yield Answer(
        question=9, program="kernels", data=data,
        sentence=f"Of {len(data)} plans {', '.join([*told, f'{unknown} are not known'])}; their kernels' names are in "
        "answers/kernels.jsonl.",
    )  # fmt: skip


def _names(
    backend: CudnnBackend, case: Case, offered: Offered, operands: Operands, timer: EventTimer
) -> list[str] | str:  # fmt: skip
    try:
        plan = _plan(backend, case, offered, operands)
        plan.run()
        return kernels_of(timer, plan.run)
    except Exception as error:  # noqa: BLE001  the other plans go on
        return f"{type(error).__name__}: {error}".splitlines()[0]

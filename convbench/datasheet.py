"""Datasheets: what is printed about a machine, as strict TOML files in `machines/` with a source for every figure.

They stand in for measured ceilings where there is no machine to measure. Rules: docs/method.md, "Ceilings".
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from convbench.ceilings import Ceiling, Ceilings
from convbench.errors import InputError, unknown_name
from convbench.machine import is_number
from convbench.problem import MathMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.resources.abc import Traversable

    from convbench.machine import Machine

SCHEMA = 1

PREDICTED_DRAM = 0.90
"""A copy's bandwidth over the printed one, since a convolution reads and writes: the median of seven GPUs from V100 to
H200 (0.84 to 0.95). Source: raw result files of RRZE's gpu-benches, best block size; for the H200 a torch copy."""

PREDICTED_SCALAR = 0.95
"""What good fp32 and fp64 kernels reach of the printed peak: the middle of the published 0.90 to 1.0."""

PREDICTED_TENSOR = 0.80
"""What a large matrix product reaches on tensor cores: 788 of 989 Tflop/s, bf16 on an H200."""

PREDICTED_LAUNCH_S = 2e-6
"""One launch on a stream: the middle of the published 1 to 3 µs (gpu-benches: 1.6 to 2.6 on L40, A40, H200, A100)."""

HALVED = ("rtx-", "gtx-")
"""How the names of GeForce cards begin."""

_PUBLISHED = {"published_source": "source"}
_TOP = {
    "schema": "integer", "name": "text", "title": "text", "vendor": "text", "kind": "text", "units": "integer",
    "compute_capability": "text", "clock_hz": "number", "checked": "texts", "notes": "texts", "sources": "table",
    "peak": "table", "dram": "table", "l2": "table", "launch": "table",
}  # fmt: skip
_PEAK = {"flop_per_s": "number", "fma_per_clock": "integer", "clock_hz": "number", "source": "source",
         "exception": "text", "published_flop_per_s": "number"} | _PUBLISHED  # fmt: skip
_DRAM = {"bytes_per_s": "number", "source": "source", "bus_bits": "integer", "transfers_per_s": "number",
         "published_bytes_per_s": "number"} | _PUBLISHED  # fmt: skip
_L2 = {"bytes": "integer", "source": "source", "published_bytes_per_s": "number"} | _PUBLISHED
_LAUNCH = {"seconds": "number", "source": "source"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A printed peak; the formula behind it is 2 · units · fma_per_clock · clock_hz flop/s.

    `exception` says why the two differ, where they do; `published_flop_per_s` is what somebody measured.
    """

    flop_per_s: float
    fma_per_clock: int
    clock_hz: float
    source: str
    exception: str = ""
    published_flop_per_s: float | None = None
    published_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet:
    """What is printed about a machine, dense figures only. Sources are keys of `sources`.

    Attributes:
        kind: "gpu" or "cpu".
        units: streaming multiprocessors, or cores.
        clock_hz: boost clock.
        peaks: by math mode; tensor cores accumulate in fp32.
        checked: "formula", where every peak was derived again, and the second sources that agree.
        dram: bytes_per_s, source; bus_bits and transfers_per_s (per pin) behind it; published_bytes_per_s of a copy.
        l2: bytes, source and published_bytes_per_s; empty where the size is not known.
        launch: seconds and source of a published launch latency; empty where there is none.
    """

    name: str
    title: str
    vendor: str
    kind: str
    units: int
    clock_hz: float
    sources: Mapping[str, str]
    checked: tuple[str, ...]
    peaks: Mapping[str, Peak]
    dram: Mapping[str, Any]
    l2: Mapping[str, Any]
    launch: Mapping[str, Any]
    compute_capability: str = ""
    notes: tuple[str, ...] = ()

    def formula_flop_per_s(self, math_mode: str) -> float:
        """2 · units · FMA per clock and unit · clock, which the printed peak should be."""
        peak = self.peaks[math_mode]
        return 2.0 * self.units * peak.fma_per_clock * peak.clock_hz

    def ceilings(self) -> Ceilings:
        """As printed: peaks and main memory. No datasheet prints a cache's bandwidth or a launch latency."""
        return Ceilings(
            compute={mode: Ceiling(value=peak.flop_per_s, kind="datasheet") for mode, peak in self.peaks.items()},
            bandwidth={"dram": Ceiling(value=self.dram["bytes_per_s"], kind="datasheet")},
            capacity_bytes=self._capacity(),
            is_gpu=self.kind == "gpu",
        )

    def predicted(self) -> Ceilings:
        """What kernels reach: the published measurement where there is one, else the PREDICTED_* factors above."""
        scalar = {MathMode.FP32, MathMode.FP64}
        compute = {
            mode: peak.published_flop_per_s
            or peak.flop_per_s * (PREDICTED_SCALAR if mode in scalar else PREDICTED_TENSOR)
            for mode, peak in self.peaks.items()
        }
        bandwidth = {"dram": self.dram.get("published_bytes_per_s", self.dram["bytes_per_s"] * PREDICTED_DRAM)}
        if "published_bytes_per_s" in self.l2:
            bandwidth["l2"] = self.l2["published_bytes_per_s"]
        launch_s = self.launch.get("seconds", PREDICTED_LAUNCH_S if self.kind == "gpu" else None)
        return Ceilings(
            compute={mode: Ceiling(value=value, kind="predicted") for mode, value in compute.items()},
            bandwidth={level: Ceiling(value=value, kind="predicted") for level, value in bandwidth.items()},
            capacity_bytes=self._capacity(),
            launch=Ceiling(value=launch_s, kind="predicted") if launch_s else None,
            is_gpu=self.kind == "gpu",
        )

    def _capacity(self) -> dict[str, int]:
        return {"l2": self.l2["bytes"]} if self.l2 else {}


def datasheets() -> dict[str, Traversable]:
    """The datasheets that come with convbench, by name, sorted."""
    found = {entry.name: entry for entry in (files("convbench") / "machines").iterdir() if entry.name.endswith(".toml")}
    return {name.removesuffix(".toml"): found[name] for name in sorted(found)}


def load_datasheet(name: str) -> Datasheet:
    """The datasheet called `name`.

    Raises:
        InputError: no such machine, or a file that breaks the format.
    """
    known = datasheets()
    if name not in known:
        raise unknown_name("machine", name, list(known))
    return parse_datasheet(known[name].read_bytes(), f"{name}.toml")


def matching_datasheet(machine: Machine) -> Datasheet | None:
    """The datasheet of a machine's GPU; None where it has none, is shared out, or the name fits no single sheet.

    A sheet fits where the model of its name ("h200" of "h200-sxm") is a word of the GPU's and the number of units
    agrees; of several that fit, the one whose other words ("80" of "a100-80") occur in it.
    """
    if machine.gpu_name is None or machine.gpu_mig is not None:
        return None
    words = re.findall(r"[a-z0-9]+", machine.gpu_name.lower())
    found = []
    for name in datasheets():
        model, *others = name.split("-") if name.split("-")[0] not in {"gtx", "rtx", "jetson"} else name.split("-")[1:]
        if model in words and load_datasheet(name).units == machine.gpu_units:
            found.append((sum(any(other in word for word in words) for other in others) - len(others), name))
    best = sorted(found, reverse=True)[:2]
    if not best or (len(best) == 2 and best[0][0] == best[1][0]):
        return None
    return load_datasheet(best[0][1])


def most_fma_per_clock(compute_capability: str, math_mode: str) -> int | None:
    """The most multiply-adds a clock and unit that the datasheet of a GPU of this compute capability says.

    None where none does, or only those of GeForce cards: their tensor cores add up in fp32 at half of what chips can.
    """
    sheets = [load_datasheet(name) for name in datasheets()]
    known = [
        sheet.peaks[math_mode].fma_per_clock
        for sheet in sheets
        if sheet.compute_capability == compute_capability and math_mode in sheet.peaks
        if math_mode in {MathMode.FP32, MathMode.FP64} or not sheet.name.startswith(HALVED)
    ]
    return max(known, default=None)


def parse_datasheet(content: bytes, where: str) -> Datasheet:
    """The datasheet in `content`; `where` names the file in errors.

    Raises:
        InputError: not UTF-8 TOML, a key unknown, missing or of the wrong type, or a source that is not listed.
    """
    try:
        table = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None
    required = ("schema", "name", "title", "vendor", "kind", "units", "clock_hz", "checked", "sources", "peak", "dram")
    top = _checked(table, _TOP, required, {}, where)
    if top["schema"] != SCHEMA:
        raise InputError(f"{where}: schema must be {SCHEMA}, got {top['schema']!r}")
    if top["kind"] not in {"gpu", "cpu"}:
        raise InputError(f"{where}: kind must be gpu or cpu, got {top['kind']!r}")
    sources = _checked(top["sources"], dict.fromkeys(top["sources"], "text"), (), {}, f"{where}: [sources]")
    _checked(top["peak"], {mode.value: "table" for mode in MathMode}, (), {}, f"{where}: [peak]")
    peaks = {}
    for mode, entry in top["peak"].items():
        peak = _checked(entry, _PEAK, ("flop_per_s", "fma_per_clock", "source"), sources, f"{where}: [peak.{mode}]")
        peaks[mode] = Peak(**({"clock_hz": top["clock_hz"]} | peak))
    for key in top["checked"]:
        if key != "formula" and key not in sources:
            raise unknown_name("source", key, list(sources), where=f" in {where}: checked")
    sections = {"dram": (_DRAM, "bytes_per_s"), "l2": (_L2, "bytes"), "launch": (_LAUNCH, "seconds")}
    for key, (allowed, figure) in sections.items():
        top[key] = _checked(top[key], allowed, (figure, "source"), sources, f"{where}: [{key}]") if key in top else {}
    del top["schema"], top["peak"]
    return Datasheet(**(top | {"peaks": peaks, "checked": tuple(top["checked"]), "notes": tuple(top.get("notes", ()))}))


def _checked(
    table: object, allowed: Mapping[str, str], required: tuple[str, ...], sources: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """`table`, once its keys are known, those required present, and each value of the kind that `allowed` says."""
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table, got {table!r}")
    for key, value in table.items():
        if key not in allowed:
            raise unknown_name("key", key, sorted(allowed), where=f" in {where}")
        test, words = _KINDS[allowed[key]]
        if not test(value):
            raise InputError(f"{where}: {key} must be {words}, got {value!r}")
        if allowed[key] == "source" and value not in sources:
            raise unknown_name("source", value, list(sources), where=f" in {where}: {key}")
    if any(key.startswith("published_") for key in table):
        required = (*required, "published_source")
    for key in required:
        if key not in table:
            raise InputError(f"{where}: {key} is missing")
    return table


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "number": (lambda v: is_number(v) and v > 0, "a number above 0"),
    "integer": (lambda v: is_number(v) and isinstance(v, int) and v > 0, "an integer above 0"),
    "text": (lambda v: isinstance(v, str) and v != "", "a string that is not empty"),
    "source": (lambda v: isinstance(v, str), "the key of a source"),
    "texts": (lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v), "a list of strings"),
    "table": (lambda v: isinstance(v, dict) and v != {}, "a table that is not empty"),
}

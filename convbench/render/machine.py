"""A machine as tables: which one it is, and its ceilings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convbench.errors import printable
from convbench.problem import ConvPass
from convbench.render import Column, Table
from convbench.result import row_name
from convbench.roofline import CACHE_LEVELS
from convbench.units import format_bytes, format_si, format_time, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.ceilings import Ceiling, Ceilings
    from convbench.datasheet import Datasheet
    from convbench.machine import Machine

SHOWN = ("value", "minimum", "maximum", "datasheet")
"""Figures that have a unit."""


def device_name(machine: Mapping[str, Any]) -> str:
    """What a machine is called: its GPU, else its processor."""
    name = machine.get("gpu_name") or machine.get("cpu_model") or machine.get("arch") or "unknown machine"
    return printable(str(name))


def identity_table(device: str, machine: Machine) -> Table:
    """What is known of a device's machine, a fact a row."""
    facts: dict[str, Any] = {"device": device, "fingerprint": machine.fingerprint}
    for key, value in machine.to_dict().items():
        facts |= {f"{key[:-6]}_{level}_bytes": size for level, size in value.items()} if key == "cache_bytes" else {
            key: value}  # fmt: skip
    rows = [{"fact": key, "value": value, "shown": _shown(key, value)} for key, value in facts.items() if value != []]
    columns = [
        Column(key="fact", header="fact", show=_fact),
        Column(key="shown", header="value", text_only=True, cut=True),
        Column(key="value", header="value", hidden=True),
    ]
    return Table(key="machine", columns=columns, rows=rows)


def _fact(key: str) -> str:
    """The name of a fact, without the unit that its value is shown with."""
    return key.removesuffix("_bytes").removesuffix("_hz").replace("_", " ")


def _shown(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return format_bytes(value)
    if key.endswith("_hz"):
        return format_si(value, "Hz")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def ceilings_table(device: str, ceilings: Ceilings, sheet: Datasheet | None) -> Table:
    """Every ceiling a row, the datasheet's beside it where there is one; what is odd about them below."""
    printed = sheet.ceilings() if sheet else None
    rows = [_row(mode, "flop/s", ceiling, printed.compute.get(mode) if printed else None)
            for mode, ceiling in ceilings.compute.items()]  # fmt: skip
    for level in ceilings.bandwidth:
        for mix, ceiling in _mixes(ceilings, level).items():
            rows.append(
                _row(f"{level} {mix}".strip(), "B/s", ceiling, printed.bandwidth.get(level) if printed else None)
            )
    if ceilings.launch:
        name = "launch in a graph" if ceilings.launch_stream else "launch"
        rows.append(_row(name, "s", ceilings.launch, printed.launch if printed else None))
    if ceilings.launch_stream:
        rows.append(_row("launch on a stream", "s", ceilings.launch_stream, None))
    without = sheet is None
    columns = [
        Column(key="ceiling", header="ceiling", show=_named),
        Column(key="shown_value", header="measured", right=True, text_only=True),
        Column(key="sigma", header="σ", show=lambda v: f"{significant(100 * v, 2)}%", right=True),
        Column(key="count", header="passes", right=True, spare=2),
        *(Column(key=f"shown_{key}", header=header, right=True, text_only=True, spare=1)
          for key, header in (("minimum", "least"), ("maximum", "most"))),
        Column(key="shown_datasheet", header="datasheet", right=True, text_only=True, hidden=without),
        Column(key="share", header="share", show=lambda v: f"{100 * v:.0f}%", right=True, hidden=without),
        *(Column(key=key, header=key, hidden=True) for key in ("unit", *SHOWN, "date")),
    ]  # fmt: skip
    return Table(key="ceilings", title=_title(device, ceilings), columns=columns, rows=rows,
                 legend=[(("sigma",), "σ: standard deviation over passes, relative")],
                 notes=notes(ceilings, sheet))  # fmt: skip


def floors_table(floors: Mapping[tuple[str, str], Mapping[str, Mapping[ConvPass, float | None]]]) -> Table:
    """Floors by device and backend, algorithm and pass, an algorithm a row."""
    rows = [
        {"algorithm": row_name(backend, name, device)}
        | {f"{conv_pass}_s": seconds for conv_pass, seconds in of.items()}
        for (device, backend), algorithms in floors.items()
        for name, of in algorithms.items()
    ]
    columns = [Column(key="algorithm", header="algorithm"),
               *(Column(key=f"{p}_s", header=p, show=format_time, right=True) for p in ConvPass)]  # fmt: skip
    note = "what an algorithm takes for the smallest problem of a 3×3 filter that it does, fp32, nchw; – for none"
    return Table(key="floors", title="Floors", columns=columns, rows=rows, notes=[note])


def _named(name: str) -> str:
    """A ceiling as plots call it: "L2 read", "DRAM copy"; those of arithmetic and launches as they are."""
    level, _, mix = name.partition(" ")
    return f"{level.upper()} {mix}".strip() if level in {"dram", *CACHE_LEVELS} else name


def _mixes(ceilings: Ceilings, level: str) -> Mapping[str, Ceiling]:
    return ceilings.mixes.get(level) or {"": ceilings.bandwidth[level]}


def _title(device: str, ceilings: Ceilings) -> str:
    threads = f" on {ceilings.threads} thread{'s' if ceilings.threads != 1 else ''}" if ceilings.threads else ""
    return f"Ceilings of {device}{threads}"


def _row(name: str, unit: str, ceiling: Ceiling, printed: Ceiling | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ceiling": name, "unit": unit, "value": ceiling.value, "sigma": ceiling.sigma, "count": ceiling.count,
        "minimum": ceiling.minimum, "maximum": ceiling.maximum, "date": ceiling.date,
        "datasheet": printed.value if printed else None, "share": ceiling.value / printed.value if printed else None,
    }  # fmt: skip
    return row | {f"shown_{key}": _figure(row[key], unit) for key in SHOWN}


def _figure(value: float | None, unit: str) -> str | None:
    if value is None:
        return None
    return format_time(value) if unit == "s" else format_si(value, unit)


def notes(ceilings: Ceilings, sheet: Datasheet | None = None) -> list[str]:
    """What the ceilings hold for, and what is odd about them."""
    found: Sequence[str] = [f"datasheet: {sheet.title}"] if sheet else []
    if ceilings.capacity_bytes:
        sizes = ", ".join(f"{level.upper()} {format_bytes(size)}" for level, size in ceilings.capacity_bytes.items())
        found = [*found, f"caches as these threads together see them: {sizes}"]
    contended = [f"contended: {ceilings.contended}; the machine can do more"] if ceilings.contended else []
    return [*found, *contended, *(f"warning: {text}" for text in ceilings.warnings)]

"""What runs were measured on, as HTML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convbench.machine import is_number
from convbench.render.html.facts import known_ceilings
from convbench.render.html.tables import prose_html, table_html, text_html
from convbench.render.machine import ceilings_table, device_name
from convbench.units import format_bytes, format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convbench.result import Run


def machines_html(runs: Mapping[str, Run]) -> str:
    """A card for all runs on the same machines with the same ceilings; every text in it is escaped."""
    cards: dict[str, dict[str, Run]] = {}
    for name, run in runs.items():
        cards.setdefault(json.dumps(run.header["devices"], sort_keys=True), {})[name] = run
    return "".join(map(_card, cards.values()))


def _card(runs: Mapping[str, Run]) -> str:
    first = next(iter(runs.values()))
    parts = [f"<h3>{text_html(', '.join(runs))}</h3>"]
    ceilings, wrong = known_ceilings(first)
    for device, of in first.header["devices"].items():
        parts.append(f"<h4>{text_html(device)}: {text_html(device_name(of['machine']))}</h4>")
        if device in ceilings:
            shown = table_html(ceilings_table(device, ceilings[device], None))
        else:
            reason = wrong or "No ceilings were measured, so there are neither bounds nor a roofline."
            shown = f'<p class="absent">{prose_html(reason)}</p>'
        parts.append(f'<div class="device">{_pairs(_machine_facts(of["machine"]))}<div>{shown}</div></div>')
    for name, run in runs.items():
        title = f"How {name} was measured" if len(runs) > 1 else "How it was measured"
        parts.append(f"<details><summary>{text_html(title)}</summary>{_pairs(_run_facts(run))}</details>")
    return f'<article class="card">{"".join(parts)}</article>'


def _pairs(facts: Mapping[str, Any]) -> str:
    known = {key: str(value) for key, value in facts.items() if value not in (None, "")}
    return (
        f"<dl>{''.join(f'<dt>{text_html(key)}</dt><dd>{text_html(value)}</dd>' for key, value in known.items())}</dl>"
    )


def _machine_facts(machine: Mapping[str, Any]) -> dict[str, Any]:
    caches, isa = machine.get("cache_bytes"), machine.get("isa")
    levels = caches.items() if isinstance(caches, dict) else ()
    return {
        "system": " ".join(str(of) for key in ("os", "arch") if (of := machine.get(key)))
        + (", virtual" if machine.get("virtualised") else ""),
        "CPUs": machine.get("cpu_count"),
        "instruction sets": " ".join(map(str, isa)) if isinstance(isa, list) else None,
        "caches of a core": ", ".join(f"{level.upper()} {_size(size)}" for level, size in levels),
        "memory": _size(machine.get("memory_bytes")),
        "multiprocessors": machine.get("gpu_units"),
        "compute capability": machine.get("gpu_compute_capability"),
        "GPU memory": _size(machine.get("gpu_memory_bytes")),
        "power limit, W": machine.get("gpu_power_limit_w"),
    }


def _run_facts(run: Run) -> dict[str, Any]:
    header, options, environment = run.header, run.header["options"], run.header["environment"]
    seconds = options.get("max_time_s")
    blas = [" ".join(str(of[key]) for key in ("internal_api", "version", "architecture") if of.get(key))
            for of in environment["blas"]]  # fmt: skip
    return {
        "when": header["created"],
        "command": " ".join(header["command"]),
        "threads": options.get("threads"),
        "processes": options.get("processes"),
        "time per row": format_time(seconds) if is_number(seconds) else None,
        "convbench": header["convbench_version"],
        "Python": environment.get("python"),
        "libraries": ", ".join(f"{name} {version}" for name, version in environment["libraries"].items() if version),
        "BLAS": ", ".join(filter(None, blas)),
        "revision": environment.get("git_revision"),
        "note": run.note,
    }


def _size(count: Any) -> str | None:
    return format_bytes(count) if is_number(count) else None

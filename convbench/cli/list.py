"""`convbench list`: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convbench.cli.options import case_options, format_option, print_tables, selection
from convbench.render import Column, Table
from convbench.units import format_bytes, format_si, significant
from convbench.work import nominal_macs

if TYPE_CHECKING:
    from convbench.problem import Case


@click.group(name="list", invoke_without_command=False)
def command() -> None:
    """List suites, problems, backends, algorithms or machines.

    \b
    Example:
      convbench list suites
      convbench list problems alexnet
      convbench list algorithms alexnet -b cpu
    """


@command.command()
@format_option
def suites(output_format: str) -> None:
    """List the built-in suites.

    \b
    Example:
      convbench list suites
    """
    from convbench.suite import ALIASES, builtin_suites, load_suite

    rows = []
    for name in builtin_suites():
        suite = load_suite(name)
        batches = {p.problem.batch for p in suite.problems}
        # Batch 0 exists in `smoke`: there is nothing per image to count.
        macs = sum(nominal_macs(p.problem) * p.repeat / p.problem.batch for p in suite.problems if p.problem.batch)
        rows.append({
            "name": name, "also": ", ".join(a for a, target in ALIASES.items() if target == name) or None,
            "title": suite.title, "year": suite.year, "problems": len(suite.problems),
            "batch": "/".join(map(str, sorted(batches))), "macs_per_image": macs, "source": suite.source,
        })  # fmt: skip
    columns = [
        Column(key="name", header="suite"), Column(key="also", header="also"),
        Column(key="problems", header="problems", right=True), Column(key="batch", header="batch", right=True),
        Column(key="macs_per_image", header="GMAC/image", show=lambda v: significant(v / 1e9), right=True),
        Column(key="title", header="title"), Column(key="year", header="year", hidden=True),
        Column(key="source", header="source", hidden=True),
    ]  # fmt: skip
    print_tables([Table(key="suites", columns=columns, rows=rows)], output_format)


@command.command()
@click.argument("suite")
@format_option
def problems(suite: str, output_format: str) -> None:
    """List the problems of SUITE, a built-in name or a TOML file, with where each shape comes from.

    \b
    Example:
      convbench list problems alexnet
      convbench list problems my-suite.toml
    """
    from convbench.suite import load_suite

    found = load_suite(suite)
    rows = [
        {"name": p.name, "shape": p.problem.describe(), "output": "×".join(map(str, p.problem.output_size)),
         "macs": nominal_macs(p.problem), "repeat": p.repeat, "confidence": p.confidence, "note": p.note or None}
        for p in found.problems
    ]  # fmt: skip
    columns = [
        Column(key="name", header="problem"), Column(key="shape", header="shape"),
        Column(key="output", header="output", right=True),
        Column(key="macs", header="GMAC", show=lambda v: significant(v / 1e9), right=True),
        Column(key="repeat", header="repeat", right=True), Column(key="confidence", header="shape known by"),
        Column(key="note", header="note", hidden=output_format == "table" and not any(r["note"] for r in rows)),
    ]  # fmt: skip
    notes = [f"source: {found.source}"] if found.source else []
    table = Table(key="problems", title=found.title, columns=columns, rows=rows, notes=[*notes, *found.notes])
    print_tables([table], output_format)


@command.command()
@format_option
def backends(output_format: str) -> None:
    """List the installed backends, and why one is not usable here.

    \b
    Example:
      convbench list backends
    """
    from convbench.backends import available, load
    from convbench.runner import probe

    rows = []
    for name, entry in available().items():
        backend = load(entry)
        reason = "failed to load" if backend is None else probe(backend)
        distribution = entry.dist
        rows.append({
            "name": name, "distribution": distribution.name if distribution else None,
            "version": distribution.version if distribution else None, "usable": reason is None,
            "device": backend.device().name if backend and reason is None else None, "reason": reason,
        })  # fmt: skip
    columns = [
        Column(key="name", header="backend"), Column(key="distribution", header="from"),
        Column(key="version", header="version"), Column(key="device", header="device"),
        Column(key="usable", header="usable", show=lambda v: "yes" if v else "no"),
        Column(key="reason", header="why not"),
    ]  # fmt: skip
    print_tables([Table(key="backends", columns=columns, rows=rows)], output_format)


@command.command()
@click.argument("suite")
@click.option("-b", "--backend", "specs", multiple=True, metavar="BACKEND[:ALGORITHM]", help="Only these.")
@case_options
@format_option
def algorithms(suite: str, specs: tuple[str, ...], output_format: str, **choice: object) -> None:
    """List the algorithms that backends offer for the cases of SUITE, with the memory of each plan, or why not.

    \b
    Example:
      convbench list algorithms alexnet -b cpu --pass fprop
    """
    from convbench.backends import BackendSpec, available, load, parse_backend
    from convbench.runner import candidates
    from convbench.suite import load_suite

    chosen = [parse_backend(text) for text in specs]
    chosen = chosen or [BackendSpec(b) for entry in available().values() if (b := load(entry))]
    cases: list[Case] = selection(**choice).cases([load_suite(suite)])  # type: ignore[arg-type]
    rows = [
        {"problem": case.name, "pass": case.conv_pass, "dtype": case.precision, "layout": case.layout_name,
         "epilogue": case.epilogue, "backend": spec.backend.name, "algorithm": candidate.algorithm,
         "memory_bytes": candidate.memory_bytes if candidate.reason is None else None, "reason": candidate.reason}
        for case in cases
        for spec in chosen
        for candidate in candidates(spec, case).values()
        if spec.algorithm in {None, candidate.algorithm}
    ]  # fmt: skip
    columns = [
        Column(key="problem", header="problem"), Column(key="pass", header="pass"),
        Column(key="dtype", header="dtype", hidden=len({r["dtype"] for r in rows}) == 1),
        Column(key="layout", header="layout", hidden=len({r["layout"] for r in rows}) == 1),
        Column(key="epilogue", header="epilogue", hidden=len({r["epilogue"] for r in rows}) == 1),
        Column(key="backend", header="backend"), Column(key="algorithm", header="algorithm"),
        Column(key="memory_bytes", header="plan's memory", show=format_bytes, right=True),
        Column(key="reason", header="why not"),
    ]  # fmt: skip
    print_tables([Table(key="algorithms", columns=columns, rows=rows)], output_format)


@command.command()
@format_option
def machines(output_format: str) -> None:
    """List the machines whose datasheets are built in, for `analyze --machine`.

    \b
    Example:
      convbench list machines
    """
    from convbench.datasheet import datasheets, load_datasheet

    rows = []
    for name in datasheets():
        sheet = load_datasheet(name)
        ceilings = sheet.ceilings()
        row: dict[str, object] = {"name": name, "title": sheet.title, "units": sheet.units}
        row |= {mode: ceiling.value for mode, ceiling in ceilings.compute.items()}
        row |= {"dram": ceilings.bandwidth["dram"].value, "l2_bytes": ceilings.capacity_bytes.get("l2")}
        rows.append(row)
    columns = [Column(key="name", header="machine"), Column(key="title", header="title"),
               Column(key="units", header="units", right=True)]  # fmt: skip
    columns += [
        Column(key=mode, header=f"{mode} Tflop/s", show=lambda v: significant(v / 1e12), right=True)
        for mode in ("fp64", "fp32", "tf32", "fp16-tc", "bf16-tc")
    ]
    columns += [
        Column(key="dram", header="DRAM", show=lambda v: format_si(v, "B/s"), right=True),
        Column(key="l2_bytes", header="L2", show=format_bytes, right=True),
    ]
    notes = ["datasheet figures, dense; each with its source in convbench/machines/"]
    print_tables([Table(key="machines", columns=columns, rows=rows, notes=notes)], output_format)

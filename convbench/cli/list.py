"""`convbench list`: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convbench.cli.options import accuracy_option, case_options, format_option, print_tables, selection
from convbench.errors import InputError
from convbench.render import Column, Table
from convbench.units import format_bytes, format_si, significant
from convbench.work import nominal_macs

if TYPE_CHECKING:
    from convbench.backends import Backend, Candidate
    from convbench.problem import Case


class Lists(click.Group):
    """A group whose help gives the summaries of its commands whole, where click cuts them to one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(1000)) for name in self.commands])


@click.group(name="list", cls=Lists, invoke_without_command=False)
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
        macs = None  # of what is no network; `smoke` has batches of 0 too, with nothing per image to count
        if suite.network:
            macs = sum(nominal_macs(p.problem) * p.repeat / p.problem.batch for p in suite.problems)
        rows.append({
            "name": name, "also": ", ".join(a for a, target in ALIASES.items() if target == name) or None,
            "title": suite.title, "year": suite.year, "problems": len(suite.problems),
            "batch": ", ".join(map(str, sorted(batches))), "macs_per_image": macs, "source": suite.source,
        })  # fmt: skip
    columns = [
        Column(key="name", header="suite"), Column(key="also", header="also", spare=4),
        Column(key="problems", header="problems", right=True, spare=2),
        Column(key="batch", header="batch", right=True, spare=3),
        Column(key="macs_per_image", header="GMAC/image", show=lambda v: significant(v / 1e9, 4), right=True, spare=1),
        Column(key="title", header="title", cut=True), Column(key="year", header="year", hidden=True),
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
        Column(key="output", header="output", right=True, spare=5),
        Column(key="macs", header="GMAC", show=lambda v: significant(v / 1e9), right=True, spare=1),
        Column(key="repeat", header="repeat", right=True, spare=4),
        Column(key="confidence", header="shape known by", spare=2),
        Column(key="note", header="note", hidden=output_format == "table" and not any(r["note"] for r in rows),
               spare=3, cut=True),
    ]  # fmt: skip
    notes = [f"source: {found.source}"] if found.source else []
    table = Table(key="problems", title=found.title, columns=columns, rows=rows, notes=[*notes, *found.notes])
    print_tables([table], output_format)


def _usable_on(backend: Backend) -> tuple[str | None, str | None]:
    """The name of a backend's device, or why it cannot be used."""
    from convbench.tasks import ask, probe

    try:
        reason = probe(backend)
        return (getattr(ask(backend, "device"), "name", None) if reason is None else None), reason
    except InputError as error:
        return None, str(error)


@command.command()
@format_option
def backends(output_format: str) -> None:
    """List the installed backends, and why one is not usable here.

    \b
    Example:
      convbench list backends
    """
    from convbench.backends import available, load

    rows = []
    for name, entry in available().items():
        reasons: list[str] = []
        backend = next((spec.backend for spec in load(entry, reasons.append)), None)
        device, reason = _usable_on(backend) if backend else (None, reasons[0])
        distribution = entry.dist
        rows.append({
            "name": name, "distribution": distribution.name if distribution else None,
            "version": distribution.version if distribution else None, "usable": reason is None,
            "device": device, "reason": reason,
        })  # fmt: skip
    columns = [
        Column(key="name", header="backend"), Column(key="distribution", header="from", spare=3),
        Column(key="version", header="version", spare=2), Column(key="device", header="device", spare=1),
        Column(key="usable", header="usable", show=lambda v: "yes" if v else "no"),
        Column(key="reason", header="why not", wrap=56),
    ]  # fmt: skip
    print_tables([Table(key="backends", columns=columns, rows=rows)], output_format)


@command.command()
@click.argument("suite")
@click.option("-b", "--backend", "specs", multiple=True, metavar="BACKEND[:ALGORITHM]", help="Only these.")
@case_options
@accuracy_option
@format_option
def algorithms(suite: str, specs: tuple[str, ...], accuracy: float, output_format: str, **choice: object) -> None:
    """List the algorithms that backends offer for the cases of SUITE: the accuracy and memory of each, or why not.

    \b
    Example:
      convbench list algorithms alexnet -b cpu --pass fprop
    """
    from convbench.backends import PlanOptions, available, load, parse_backend
    from convbench.machine import cpu_count
    from convbench.suite import load_suite
    from convbench.tasks import candidates, probe

    chosen = [spec for text in specs for spec in parse_backend(text)]
    chosen = chosen or [spec for entry in available().values() for spec in load(entry, _warn)]
    cases: list[Case] = selection(**choice).cases([load_suite(suite)])  # type: ignore[arg-type]
    options = PlanOptions(threads=cpu_count(), accuracy=accuracy)
    listed_for = [getattr(spec.backend, "listed_for", lambda: None)() for spec in chosen]
    unusable = [None if other else probe(spec.backend) for spec, other in zip(chosen, listed_for, strict=True)]
    rows = [
        {"problem": case.name, "pass": case.conv_pass, "dtype": case.precision, "layout": case.layout_name,
         "epilogue": case.epilogue, "backend": spec.backend.name, **_facts(candidate, reason)}
        for case in cases
        for spec, reason in zip(chosen, unusable, strict=True)
        for candidate in candidates(spec, case, options).values()
        if spec.algorithm in {None, candidate.algorithm}
    ]  # fmt: skip
    if output_format not in {"json", "csv"}:
        rows = _once(rows)
    columns = [
        Column(key="problem", header="problem"), Column(key="pass", header="pass"),
        Column(key="dtype", header="dtype", hidden=len({r["dtype"] for r in rows}) == 1),
        Column(key="layout", header="layout", hidden=len({r["layout"] for r in rows}) == 1),
        Column(key="epilogue", header="epilogue", hidden=len({r["epilogue"] for r in rows}) == 1),
        Column(key="backend", header="backend"), Column(key="shown", header="algorithm", text_only=True, wrap=18),
        *(Column(key=key, header=key, hidden=True) for key in ("algorithm", "resolves_to", "estimated_s")),
        Column(key="accuracy", header="accuracy", show=lambda v: f"{v:.0e}", right=True, spare=2),
        Column(key="memory_bytes", header="plan's memory", show=format_bytes, right=True, spare=1),
        Column(key="reason", header="why not", cut=True),
    ]  # fmt: skip
    notes = [*dict.fromkeys(filter(None, listed_for))]
    print_tables([Table(key="algorithms", columns=columns, rows=rows, notes=notes)], output_format)


def _facts(candidate: Candidate, unusable: str | None) -> dict[str, Any]:
    """What is said about a candidate of a backend that is usable, or `unusable` for this reason."""
    reason = unusable or candidate.reason
    name, resolved = candidate.algorithm, candidate.resolved or candidate.resolves_to
    return {
        "algorithm": name, "resolves_to": candidate.resolves_to and resolved,
        "shown": f"{name} ({resolved})" if candidate.resolves_to and not reason else name,
        "accuracy": None if reason else candidate.accuracy, "estimated_s": candidate.estimated_s,
        "memory_bytes": None if reason else candidate.memory_bytes, "reason": reason,
    }  # fmt: skip


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, those of a case that a backend's algorithms cannot do for the same reason in one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for index, row in enumerate(rows):
        case = tuple(row[key] for key in ("problem", "pass", "dtype", "layout", "epilogue", "backend"))
        same = (*case, row["reason"] or index)
        shown = f"{found[same]['shown']}, {row['shown']}" if same in found else row["shown"]
        found[same] = row | {"shown": shown}
    return [*found.values()]


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


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
    columns = [
        Column(key="name", header="machine"), Column(key="title", header="title", spare=10, cut=True),
        Column(key="units", header="units", right=True, spare=9),
        *(Column(key=mode, header=mode, show=lambda v: significant(v / 1e12), right=True, spare=spare)
          for mode, spare in (("fp64", 6), ("fp32", 1), ("tf32", 5), ("fp16-tc", 3), ("bf16-tc", 4))),
        Column(key="dram", header="DRAM", show=lambda v: format_si(v, "B/s"), right=True, spare=2),
        Column(key="l2_bytes", header="L2", show=format_bytes, right=True, spare=7),
    ]  # fmt: skip
    title = "datasheet figures: dense Tflop/s per math mode, memory bandwidth, cache"
    notes = ["each figure with its source in convbench/machines/"]
    print_tables([Table(key="machines", title=title, columns=columns, rows=rows, notes=notes)], output_format)

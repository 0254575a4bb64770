"""`convbench doctor`: whether this machine is fit to measure on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from convbench.cli.chosen import device_option
from convbench.cli.options import Parsed, format_option, print_tables
from convbench.render import Column, Table
from convbench.units import format_time, parse_duration, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.doctor import Finding
    from convbench.doctor.noise import Noise


@click.command(name="doctor")
@click.option("--time", "time_s", type=Parsed("duration", parse_duration), default="40s", show_default=True,
              help="For the noise floor: it is repeated as long as that fits, once at least.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Findings only, no noise floor.")
@device_option("GPUs whose noise floor is measured, too, such as 1 or 0,1 or cuda:1; none if left out.")
@format_option
def command(time_s: float, quick: bool, devices: tuple[int, ...], output_format: str) -> None:
    """Say what on this machine will disturb a measurement, and how large a difference is noise here.

    The noise floor times kernels of 10 µs to 100 ms, each as two rows of the same kernel, A and A′, by the rules of
    `run`. What the two differ by is noise.

    \b
    Example:
      convbench doctor
      convbench doctor --quick
      convbench doctor --device 0,1
    """
    if quick and devices:
        raise click.UsageError("--quick measures no noise floor: it excludes --device")
    from convbench import session
    from convbench.backends import cuda
    from convbench.backends.cpu.device import CpuDevice
    from convbench.doctor import findings
    from convbench.doctor.noise import gpu_kernels, kernels, noise_floor
    from convbench.doctor.read import read

    gpus = [cuda.device(index) for index in devices]
    with session.measuring_lock(lambda text: click.echo(text, err=True)):
        facts = read()
        tables = [_findings_table(*findings(facts))]
        if not quick:
            if sys.stderr.isatty():
                click.echo(f"measuring the noise floor: {format_time(time_s * (1 + len(gpus)), 2)}", err=True)
            threads = facts.machine.cpu_count or 1
            tables.append(_noise_table(noise_floor(CpuDevice(), threads, time_s, of=kernels())))
        tables += [_noise_table(noise_floor(gpu, 1, time_s, of=gpu_kernels(gpu)), gpu.name) for gpu in gpus]
    print_tables(tables, output_format)


def _findings_table(found: Sequence[Finding], unknown: Sequence[str]) -> Table:
    columns = [
        Column(key="check", header="check"), Column(key="level", header="level"),
        Column(key="shown", header="what → advice", text_only=True, wrap=52),
        Column(key="text", header="what", hidden=True), Column(key="advice", header="advice", hidden=True),
    ]  # fmt: skip
    rows = [asdict(f) | {"shown": f.text + (f" → {f.advice}" if f.advice else "")} for f in found]
    levels = [f.level for f in found]
    return Table(
        key="findings", columns=columns, rows=rows,
        breaks=[i for i in range(1, len(levels)) if levels[i] != levels[i - 1]],
        notes=[f"not visible here: {', '.join(unknown)}"] if unknown else [],
    )  # fmt: skip


def _percent(fraction: float) -> str:
    return f"{significant(100 * fraction, 2)}%"


def _difference(excess: float) -> str:
    return _percent(excess) if excess < 1 else f"× {significant(1 + excess, 2)}"


def _summary(size_s: float, found: Sequence[Noise], gpu: str) -> str:
    """What is noise for rows of one size, by threads: two medians may be alike by chance, so their intervals count."""
    sizes = [(n.threads, max(n.difference, n.half_width or 0.0)) for n in found]
    largest = {threads: round(max(x for t, x in sizes if t == threads), 6) for threads, _ in sizes}
    limits = ", ".join(f"{_difference(value)} on {gpu or _threads(threads)}" for threads, value in largest.items())
    return f"rows of about {format_time(size_s, 1)}: differences below these are noise on this machine: {limits}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _noise_table(found: Sequence[Noise], gpu: str = "") -> Table:
    """The noise of each kernel; `gpu` is the name of a GPU, for which threads do not matter."""
    rows = sorted((asdict(n) for n in found), key=lambda row: row["size_s"])
    columns = [
        Column(key="size_s", header="about", show=lambda v: format_time(v, 1), right=True),
        Column(key="kernel", header="kernel"), Column(key="threads", header="threads", right=True, hidden=bool(gpu)),
        Column(key="time_s", header="time", show=format_time, right=True),
        Column(key="half_width", header="±", show=_percent, right=True),
        Column(key="difference", header="A/A′", show=_difference, right=True),
        Column(key="flagged", header="flagged", show=_percent, right=True),
        Column(key="repeats", header="repeats", hidden=True),
    ]  # fmt: skip
    notes = [
        _summary(size, [n for n in found if n.size_s == size], gpu) for size in dict.fromkeys(r["size_s"] for r in rows)
    ]
    notes.append(
        f"±: half a row's 95 % interval; A/A′: largest difference of the medians of two rows of the same kernel in one "
        f"process, repeats: {rows[0]['repeats']}; flagged: share of disturbed samples"
    )
    return Table(key=f"noise {gpu}".strip(), columns=columns, rows=rows, notes=notes,
                 title=f"Noise floor{f' of {gpu}' if gpu else ''}",
                 breaks=[i for i in range(1, len(rows)) if rows[i]["size_s"] != rows[i - 1]["size_s"]])  # fmt: skip

"""`convbench plot`: result files as a picture, or as characters in the terminal."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli.options import parse_pass, parse_precision, several
from convbench.cli.output import check_output, write_output
from convbench.errors import InputError, NotComparableError
from convbench.render.plot import KINDS, SUFFIXES, THEMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.compare import Compared
    from convbench.problem import ConvPass, Dtype, MathMode
    from convbench.render.plot.scene import Choice


@click.command(name="plot")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Draws into this file: .svg, .png or .pdf. Without it the plot is printed.")  # fmt: skip
@click.option("--kind", type=click.Choice(KINDS), default="roofline", show_default=True, help="What to plot.")
@click.option("--theme", type=click.Choice(THEMES), default="light", show_default=True, help="Colours of the file.")
@click.option("--dtype", "precisions", type=several("dtype[,dtype…]", parse_precision), default=(),
              help="Only rows of these.")  # fmt: skip
@click.option("--pass", "passes", type=several("pass[,pass…]", parse_pass), default=(), help="Only rows of these.")
@click.option("--filter", "globs", multiple=True, metavar="GLOB",
              help="Only problems whose name (or suite/name) matches; may be repeated.")  # fmt: skip
@click.option("--baseline", metavar="BACKEND:ALGORITHM",
              help="What a speed-up is over; the first of the run if left out.")  # fmt: skip
@click.option("--machine", metavar="NAME", help="Draws this machine's published roofs, too: see `list machines`.")
@click.option("--force", is_flag=True, help="Overwrites FILE.")
def command(
    runs: tuple[Path, ...],
    output: Path | None,
    kind: str,
    theme: str,
    precisions: tuple[tuple[Dtype, MathMode], ...],
    passes: tuple[ConvPass, ...],
    globs: tuple[str, ...],
    baseline: str | None,
    machine: str | None,
    force: bool,
) -> None:
    """Plot the result files RUN of one machine, in the terminal or into a file.

    A roofline, modelled against measured time, speed-up between algorithms, phases, whole networks, the bandwidth
    that was measured, or a comparison of two runs. docs/plots.md says how to read each.

    \b
    Example:
      convbench plot runs/alexnet.jsonl
      convbench plot runs/alexnet.jsonl -o alexnet.svg --theme dark
      convbench plot runs/alexnet.jsonl --kind speedup --baseline cpu:gemm
      convbench plot runs/last-week.jsonl runs/today.jsonl --kind comparison
    """
    for given, option, of in ((baseline, "--baseline", "speedup"), (machine, "--machine", "roofline")):
        if given and kind != of:
            raise click.UsageError(f"{option} belongs to --kind {of}")
    if machine and output is None:
        raise click.UsageError("--machine needs -o: published roofs are drawn in pictures alone")
    if kind == "network" and globs:
        raise click.UsageError("--filter does not go with --kind network: a network's time is that of all its layers")
    if kind == "comparison" and len(runs) != 2:
        raise click.UsageError(f"--kind comparison is of two result files, BASE and NEW; got {len(runs)}")
    if output:
        _check_output(output, force)
    from convbench.datasheet import load_datasheet
    from convbench.journal import read_run
    from convbench.render.plot import comparison_picture, picture
    from convbench.render.plot.scene import Choice, make_scene

    choice = Choice(passes=passes, precisions=precisions, globs=globs)
    if kind == "comparison":
        compared, title = _compared(runs[0], runs[1], choice), f"{runs[1].name} beside {runs[0].name}"
        if output is None:
            from convbench.render.plot.terminal import comparison_terminal

            _print(partial(comparison_terminal, compared, title))
        else:
            write_output(output, comparison_picture(compared, title, output.suffix.lower(), theme))
        return
    scene = make_scene(
        [(str(run), read_run(run)) for run in dict.fromkeys(runs)],
        choice,
        baseline=baseline,
        published=load_datasheet(machine).ceilings() if machine else None,
    )
    if output is None:
        from convbench.render.plot.terminal import terminal

        _print(partial(terminal, scene, kind))
    else:
        write_output(output, picture(scene, kind, output.suffix.lower(), theme))


def _compared(base: Path, new: Path, choice: Choice) -> Compared:
    from convbench.compare import compare
    from convbench.journal import read_run
    from convbench.render.plot.ratios import chosen

    try:
        return chosen(compare(read_run(base), read_run(new)), choice, f"{base}, {new}")
    except NotComparableError as error:
        raise NotComparableError(f"{new}: {error}") from None


def _print(terminal: Callable[[int, bool], str]) -> None:
    import shutil

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    color = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size().columns if is_terminal else 80
    click.echo(terminal(width, color), nl=False, color=color)


def _check_output(path: Path, force: bool) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: what to draw follows from the suffix, one of {', '.join(SUFFIXES)}")
    check_output(path, force=force)

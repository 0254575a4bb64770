"""What commands share: option types that parse units and names, the choice of cases, and output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convbench.accuracy import ACCURACIES, DEFAULT_ACCURACY
from convbench.errors import InputError
from convbench.problem import PRECISIONS, ConvPass, Epilogue, Layout
from convbench.render import FORMATS, Table, render

if TYPE_CHECKING:
    from convbench.tasks import Selection

Command = TypeVar("Command", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in recent versions of click
    """An option value read by one of the library's parsers; its errors become click's."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except InputError as error:
            self.fail(str(error), param, ctx)


def several(name: str, parse: Callable[[str], Any]) -> Parsed:
    """An option that takes several values, separated by commas."""
    return Parsed(name, lambda text: tuple(dict.fromkeys(parse(part.strip()) for part in text.split(","))))


def _choice(allowed: Sequence[str], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise InputError(f"{text!r} is not {what}; allowed: {', '.join(allowed)}")
        return text

    return parse


def parse_pass(text: str) -> ConvPass:
    """The pass called `text`; InputError where there is none."""
    return ConvPass(_choice([*ConvPass], "a pass")(text))


def parse_precision(text: str) -> Any:
    """Dtype and math mode called `text`; InputError where there are none."""
    return PRECISIONS[_choice([*PRECISIONS], "a dtype")(text)]


def _epilogue(text: str) -> Epilogue:
    return Epilogue(_choice([*Epilogue], "an epilogue")(text))


def case_options(command: Command) -> Command:
    """The options that choose cases of a suite; `selection` turns them into a Selection."""
    for option in reversed([
        click.option("--pass", "passes", type=several("pass[,pass…]", parse_pass), default=",".join(ConvPass),
                     show_default=True, help="Which passes."),
        click.option("--dtype", "precisions", type=several("dtype[,dtype…]", parse_precision), default="fp32",
                     show_default=True, help=f"Of {', '.join(PRECISIONS)}."),
        click.option("--layout", "layouts", type=several("layout[,layout…]", Layout.parse), default="nchw",
                     show_default=True, help="Of nchw, nhwc, chwn; the 1-D and 3-D forms follow."),
        click.option("--epilogue", "epilogues", type=several("epilogue[,…]", _epilogue), default="none",
                     show_default=True, help="Of none, bias, bias+relu; fprop only."),
        click.option("--batch", type=click.IntRange(min=0), help="Replaces the batch of every problem."),
        click.option("--filter", "globs", multiple=True, metavar="GLOB",
                     help="Only problems whose name (or suite/name) matches; may be repeated."),
    ]):  # fmt: skip
        command = option(command)
    return command


def selection(passes: Any, precisions: Any, layouts: Any, epilogues: Any, batch: int | None, globs: Any) -> Selection:
    """The Selection that `case_options` describe."""
    from convbench.tasks import Selection

    return Selection(
        passes=passes, precisions=precisions, layouts=layouts, epilogues=epilogues, batch=batch, globs=tuple(globs)
    )


def accuracy_option(command: Command) -> Command:
    """`--accuracy`, as a number."""
    names = [f"{tier:.0e}".replace("e-0", "e-") for tier in ACCURACIES]
    parse = _choice(names, "an accuracy")
    usual = names[ACCURACIES.index(DEFAULT_ACCURACY)]
    return click.option(
        "--accuracy", type=Parsed("accuracy", lambda text: float(parse(text))), default=usual, show_default=True,
        help="What `auto` may take: algorithms that keep this relative L2 error in fp32, one of "
        f"{', '.join(names)}.",
    )(command)  # fmt: skip


def format_option(command: Command) -> Command:
    """`--format`, as `output_format`."""
    return click.option(
        "--format", "output_format", type=click.Choice(FORMATS), default="table", show_default=True,
        help="csv holds the first table; json and csv are in SI units.",
    )(command)  # fmt: skip


def print_tables(tables: Sequence[Table], output_format: str) -> None:
    """Tables to stdout: in colour on a terminal without NO_COLOR, at full width where stdout is no terminal."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = None
    if terminal:
        import shutil

        width = shutil.get_terminal_size().columns
    color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    click.echo(render(tables, output_format, width=width, color=color), nl=False, color=color)

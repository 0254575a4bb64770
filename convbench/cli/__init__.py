"""The command line: each command opens something, calls the library, prints. Nothing else prints or exits.

Exit codes: 0 fine · 1 error in input or use · 2 command line · 3 regression · 4 not comparable · 5 inconclusive, where
asked for · 6 something wrong, failed, missing, or nothing measured · 130 interrupted, what was measured is kept.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click

from convbench import __version__
from convbench.errors import ConvbenchError

COMMANDS = {
    "run": "Verify and time a suite on every backend; the table at the end, the result file for later.",
    "show": "Show a result file again: rows, whole networks, backends.",
    "plot": "Plot result files: a roofline and six other plots, into a picture or in the terminal.",
    "report": "Report result files as one page: summary, interactive roofline, every row; or as Markdown, CSV, JSON.",
    "compare": "Compare result files row by row, or two algorithms within one.",
    "check": "Say which rows became slower, than in a baseline or than an old version: for CI.",
    "baseline": "Keep a baseline, the result file that `check` compares with.",
    "analyze": "Count flops and bytes of a suite, and predict its bound on a machine; nothing is run.",
    "machine": "Say which machine this is and what it can do at most; --measure measures its ceilings.",
    "talk": "Measure the claims of the talk that convbench began with, and say what is true of them here.",
    "doctor": "Say what on this machine will disturb a measurement, and how large a difference is noise here.",
    "list": "List suites, problems, backends, algorithms or machines.",
}
"""Commands and what their line in --help says; kept here so that --help imports none of them."""


class LazyGroup(click.Group):
    """Imports a command when it is used, and turns what convbench raises into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of their use."""
        return [*COMMANDS]  # not list(…): once imported, the module of that name is what `list` means here

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command `cmd_name`, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"convbench.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest command's name in the error."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's; an output that cannot be written is one line and exit code 1, for --help too."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            with suppress(OSError, ValueError):  # what is left of it would fail again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            with suppress(OSError):  # the same disk may be full for it
                click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; errors meant for the user become click's, with exit code 1."""
        try:
            return super().invoke(ctx)
        except ConvbenchError as error:
            click.ClickException(str(error)).show()
            ctx.exit(error.exit_code)
        except UnicodeEncodeError as error:
            raise click.ClickException(f"the output's encoding, {error.encoding}, is too small: use UTF-8") from error
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="convbench")
def main() -> None:
    """Time convolutions on every backend you have, and see how close each is to what the machine can do.

    \b
    Example:
      convbench run alexnet --batch 16 -b cpu:gemm -b cpu:auto
      convbench list suites
    """

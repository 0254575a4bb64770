"""`convbench talk`: the claims of the talk, measured here."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.claims import EVERY, QUESTIONS, claims_from, claims_markdown, claims_table, with_ceilings
from convbench.cli.chosen import RUN_ON, check_devices, chosen_backends, device_option
from convbench.cli.options import Parsed, format_option, print_tables, several
from convbench.cli.output import check_output, write_output
from convbench.errors import InputError, unknown_name
from convbench.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.backends import BackendSpec
    from convbench.claims import Claim, Question
    from convbench.result import Run

PAGE, TEXT = "report.html", "claims.md"
WIDTH = 100
"""Of conclusions where stdout is no terminal."""


def _key(text: str) -> str:
    if text not in QUESTIONS:
        raise unknown_name("claim", text, [*QUESTIONS])
    return text


@click.command(name="talk")
@click.option("-b", "--backend", "texts", multiple=True, metavar="BACKEND[:ALGORITHM]",
              help="May be repeated; FILE.py:CLASS loads one from a file. Without an algorithm, those that a claim "
              "is about. Without -b: every usable backend.")  # fmt: skip
@click.option("--only", "keys", type=several("claim[,claim…]", _key), default=",".join(QUESTIONS),
              help=f"Of {', '.join(QUESTIONS)}; all if left out.")  # fmt: skip
@device_option(RUN_ON)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all CPUs of this process if left out.")
@click.option("--max-time", type=Parsed("duration", parse_duration), default="0.3s", show_default=True,
              help="Stop a row after so much time in samples.")  # fmt: skip
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of results and report; runs/talk-TIME if left out.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue what is in the folder given by -o.")
@click.option("--from", "sources", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Measure nothing: answer from an earlier folder; from several, machines side by side.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@format_option
def command(
    texts: tuple[str, ...], keys: tuple[str, ...], devices: tuple[int, ...], threads: int | None, max_time: float,
    folder: Path | None, resume: bool, sources: tuple[Path, ...], quiet: bool, output_format: str,
) -> None:  # fmt: skip
    """Measure each claim of the talk "Hacking GPUs for Deep Learning", and say what is true of it on this machine.

    Each claim has a built-in suite, run as `convbench run` would; the folder then holds a result file for each claim,
    what they say as Markdown (claims.md), and as a page with charts (report.html). All claims take some minutes.

    \b
    Example:
      convbench talk -b cpu -o talk
      convbench talk -b cpu --only batch,layouts
      convbench talk --from talk --from other-machine
    """
    if sources and (texts or devices or resume or threads):
        raise click.UsageError("--from measures nothing: it excludes -b, --device, --threads and --resume")
    if resume and folder is None:
        raise click.UsageError("--resume needs -o")
    if sources:
        code, target = 0, folder
        runs = _read(sources, keys)
        if not any(runs.values()):
            raise InputError(f"no result file of a claim in {', '.join(map(str, sources))}")
    else:
        from convbench import session

        target = folder or Path("runs") / f"talk-{session.stamp()}"
        code = _measure([QUESTIONS[key] for key in keys], texts, devices, threads, max_time, target, resume, quiet)
        runs = _read([target], keys) if target.is_dir() else {}
        if not any(runs.values()):
            _say("nothing was measured")
            sys.exit(code or 6)
    by_key = {key: [run for _, run in found] for key, found in runs.items()}
    claims = claims_from(by_key)
    if target is not None:
        _write(target, claims, {name: run for found in runs.values() for name, run in found})
    _print(claims, output_format)
    if code == 130:
        _say(f"interrupted; `--resume -o {target}` with the same command continues")
    if code:
        sys.exit(code)


def _measure(
    questions: Sequence[Question], texts: tuple[str, ...], devices: tuple[int, ...], threads: int | None,
    max_time: float, folder: Path, resume: bool, quiet: bool,
) -> int:  # fmt: skip
    """Runs the suite of each question; the exit code of the whole: 130 ends it, 6 is kept until its end."""
    from convbench.backends import parse_backend
    from convbench.cli.run import run_silently

    taken = [question.key for question in questions if _file(folder, question.key).exists()]
    if taken and not resume:
        raise InputError(f"{folder} holds runs already ({', '.join(taken)}): --resume continues them, --from FOLDER "
                         "shows what they say")  # fmt: skip
    worst, contended = 0, False
    try:
        first = devices[:1]  # what a backend offers is asked of one device, and run on each
        specs = [spec for text in texts for spec in parse_backend(text, first)] or [
            _whole(spec) for spec in chosen_backends((), first)
        ]
        check_devices(devices, specs)
        for number, question in enumerate(questions, start=1):
            if not quiet:
                _say(f"[{number}/{len(questions)}] {question.title}")
            chosen = [name for spec in specs for name in _algorithms(spec, question, threads)]
            arguments = [question.suite, *question.options, "--max-time", f"{max_time}s", "-o",
                         str(_file(folder, question.key))]  # fmt: skip
            arguments += [part for name in chosen for part in ("-b", name)]
            arguments += ["--device", ",".join(map(str, devices))] if devices else []
            arguments += ["--isolate"] if len({spec.backend.name for spec in specs}) > 1 else []
            arguments += ["--threads", str(threads)] if threads else []
            arguments += ["--resume"] if resume else []
            arguments += ["-q"] if quiet else []
            arguments += ["--no-ceilings"] if contended else []
            code = run_silently(arguments)
            worst = max(worst, code)
            if code == 130:
                break
            contended = contended or _contended(_file(folder, question.key))
    except KeyboardInterrupt:
        return 130
    return worst


def _contended(path: Path) -> bool:
    """Whether ceilings were measured that are not remembered: once is enough, and they serve the other runs, too."""
    from convbench.journal import read_run

    devices = read_run(path).header["devices"].values()
    return any((of.get("ceilings") or {}).get("contended") for of in devices)


def _whole(spec: BackendSpec) -> BackendSpec:
    """The backend, whatever algorithm of it."""
    from dataclasses import replace

    return replace(spec, algorithm=None, text=spec.text.rpartition(":")[0])


def _algorithms(spec: BackendSpec, question: Question, threads: int | None) -> list[str]:
    """The `-b` arguments of a backend for a question: those algorithms that the question asks for and it offers."""
    from convbench.accuracy import DEFAULT_ACCURACY
    from convbench.backends import AUTO, PlanOptions
    from convbench.machine import cpu_count
    from convbench.problem import ConvPass
    from convbench.suite import load_suite
    from convbench.tasks import Selection, candidates, probe

    if spec.algorithm or probe(spec.backend) is not None:
        return [spec.text]
    cases = Selection(passes=(ConvPass.FPROP,)).cases([load_suite(question.suite)])
    options = PlanOptions(threads=threads or cpu_count())
    offered = [c for case in cases for c in candidates(spec, case, options).values()]
    wanted = question.algorithms
    if EVERY in wanted:
        fit = {c.algorithm for c in offered if c.reason is None and c.accuracy <= DEFAULT_ACCURACY}
        wanted = tuple(name for name in dict.fromkeys(c.algorithm for c in offered) if name in fit - {AUTO})
    known = {c.algorithm for c in offered}
    return [f"{spec.text}:{name}" for name in wanted if name in known] or [spec.text]


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.jsonl"


def _read(folders: Sequence[Path], keys: Sequence[str]) -> dict[str, list[tuple[str, Run]]]:
    """The runs of each key in the folders, each with a name.

    Raises:
        InputError: no such folder, or a file in it is damaged.
    """
    from convbench.journal import read_run

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder that `convbench talk` made")
    folders = [*{folder.resolve(): folder for folder in folders}.values()]
    same = len({folder.name for folder in folders}) < len(folders)
    titles = {folder: f"{folder.name} {number}" if same else folder.name for number, folder in enumerate(folders, 1)}
    names = {(folder, key): key if len(folders) == 1 else f"{titles[folder]}/{key}" for folder in folders
             for key in QUESTIONS if _file(folder, key).exists()}  # fmt: skip
    runs = with_ceilings([read_run(_file(*place)) for place in names])  # those of other claims may have the ceilings
    found: dict[str, list[tuple[str, Run]]] = {key: [] for key in keys}
    for ((_, key), name), run in zip(names.items(), runs, strict=True):
        if key in found:
            found[key].append((name, run))
    return found


def _write(folder: Path, claims: Sequence[Claim], runs: dict[str, Run]) -> None:
    """The claims as Markdown and as a page.

    Raises:
        InputError: they cannot be written.
    """
    from convbench.render.html import charts_missing, report_html

    missing = charts_missing()
    files = {TEXT: claims_markdown(claims)} | ({} if missing else {PAGE: report_html(runs, claims=claims)})
    ours = any(_file(folder, key).exists() for key in QUESTIONS)
    for name in () if ours else files:
        check_output(folder / name, force=False)
    for name, content in files.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder / name}: {error.strerror}") from None
        write_output(folder / name, content.encode())
    _say(f"{folder}: {', '.join(files)}" + (f"; no {PAGE}: {missing}" if missing else ""))


def _print(claims: Sequence[Claim], output_format: str) -> None:
    """The claims as text, wrapped; in the other formats with the tables behind them."""
    if output_format != "table":
        print_tables([claims_table(claims), *(table for claim in claims for table in claim.tables)], output_format)
        return
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else WIDTH
    indent = max(len(claim.key) for claim in claims) + 2
    wrap = textwrap.TextWrapper(width=max(width, indent + 30), break_long_words=False, break_on_hyphens=False)
    wrap.subsequent_indent = " " * indent
    for claim in claims:
        wrap.initial_indent = claim.key.ljust(indent)
        lines = wrap.wrap(claim.question)
        wrap.initial_indent = wrap.subsequent_indent
        click.echo("\n".join([*lines, *wrap.wrap(claim.conclusion)]) + "\n")


def _say(text: str) -> None:
    click.echo(text, err=True)

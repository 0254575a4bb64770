"""`convbench run`: the main job."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli.chosen import RUN_ON, check_devices, chosen_backends, device_option, files_of
from convbench.cli.options import Parsed, accuracy_option, case_options, format_option, print_tables, selection
from convbench.errors import InputError
from convbench.units import format_bytes, format_time, parse_bytes, parse_duration, parse_fraction, parse_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.backends import BackendSpec
    from convbench.result import Run
    from convbench.runner import Progress, RunOptions, Spent
    from convbench.suite import Suite
    from convbench.tasks import Task


CACHES = {"warm": ("warm",), "cold": ("cold",), "both": ("warm", "cold")}
"""Of rows, by option."""


# The options of --help are its own, since `talk` and `check` call it without the group that they come from.
@click.command(name="run", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("suites", metavar="SUITE...", nargs=-1, required=True)
@click.option("-b", "--backend", "specs", multiple=True, metavar="BACKEND[:ALGORITHM]",
              help="May be repeated. BACKEND alone: all its algorithms; BACKEND:auto: its own choice. "
              "FILE.py:CLASS loads one from a file. Without -b: every usable backend, auto each.")  # fmt: skip
@device_option(RUN_ON)
@case_options
@click.option("--warm", "cache", flag_value="warm", default=True, help="Caches hold what the last run left (default).")
@click.option("--cold", "cache", flag_value="cold", help="Caches are swept before each sample.")
@click.option("--both", "cache", flag_value="both", help="Warm and cold rows, side by side.")
@accuracy_option
@click.option("--tune/--no-tune", default=False, help="Let `auto` take what is measured to be fastest: "
              "once per device, then it is remembered.")  # fmt: skip
@click.option("--workspace-limit", type=Parsed("size", parse_limit),
              help="Scratch memory that a plan may ask for, such as 256MiB or 0, where the backend knows a limit; all "
              "there is if left out.")  # fmt: skip
@click.option("--phases", is_flag=True, help="Measure the phases of each row, too; `show --phases` shows them.")
@click.option("--no-ceilings", is_flag=True, help="Leave out what the machine can do at most, which is measured first "
              "where it is not known.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all CPUs of this process if left out.")
@click.option("--precision", type=Parsed("fraction", parse_fraction), default="1%", show_default=True,
              help="Stop a row when the median's 95 % interval is within this.")  # fmt: skip
@click.option("--max-time", type=Parsed("duration", parse_duration), default="2s", show_default=True,
              help="Stop a row after so much time in samples.")  # fmt: skip
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True,
              help="Fresh worker processes that measure each row in turn, sharing its time.")  # fmt: skip
@click.option("--isolate", is_flag=True, help="Each backend in a worker process of its own, by turns: "
              "one that crashes or hangs ends a row, not the run.")  # fmt: skip
@click.option("--timeout", type=Parsed("duration", parse_duration),
              help="With --isolate: end a row that takes longer to verify or for a round; 10min if left out."
              )  # fmt: skip
@click.option("--max-memory", type=Parsed("size", parse_bytes),
              help="Skip rows that need more; 80 % of what is free if left out.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of operands, checks and the order of rows.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Result file; runs/SUITE-TIME.jsonl if left out.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the result file given by -o.")
@click.option("--force", is_flag=True, help="Overwrite the result file.")
@click.option("--dry-run", is_flag=True, help="Show which rows would be measured, and stop.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--worker", is_flag=True, hidden=True)
@click.option("--ask", is_flag=True, hidden=True)
@click.option("--only", multiple=True, hidden=True)
@format_option
def command(
    suites: tuple[str, ...], specs: tuple[str, ...], devices: tuple[int, ...], cache: str, accuracy: float, tune: bool,
    workspace_limit: int | None, phases: bool, no_ceilings: bool, threads: int | None, precision: float,
    max_time: float, processes: int, isolate: bool, timeout: float | None, max_memory: int | None, seed: int,
    output: Path | None, resume: bool, force: bool, dry_run: bool, quiet: bool, worker: bool, ask: bool,
    only: tuple[str, ...], output_format: str, **choice: object,
) -> None:  # fmt: skip
    """Verify and time every case of SUITE (a built-in name or a TOML file) on backends, then show the table.

    A row that fails verification has no time. Rows are appended to the result file as they are measured, so that an
    interrupted run keeps what it has; `convbench show` shows the file again.

    \b
    Example:
      convbench run alexnet --batch 16 -b cpu:gemm -b cpu:auto
      convbench run my-suite.toml -b ./mykernel.py:MyBackend --pass fprop -o result.jsonl
    """
    started = time.perf_counter()
    from convbench import session
    from convbench.children import answer, begin
    from convbench.suite import load_suite
    from convbench.tasks import tasks
    from convbench.workers import serve

    if resume and (force or output is None):
        raise click.UsageError("--resume needs -o, and excludes --force")
    if isolate and processes > 1:
        raise click.UsageError("--isolate excludes --processes: it has one process per backend")
    if timeout and not isolate:
        raise click.UsageError("--timeout needs --isolate: only another process can be ended")
    loaded = [load_suite(name) for name in suites]
    options = run_options(
        threads=threads, max_memory=max_memory, precision=precision, max_time=max_time, seed=seed,
        processes=processes, accuracy=accuracy, workspace_limit=workspace_limit, tune=tune, phases=phases,
        isolate=isolate, timeout=timeout,
    )  # fmt: skip
    lines = begin() if worker or ask else None
    caches = CACHES[cache]
    cases = selection(**choice).cases(loaded)  # type: ignore[arg-type]
    planned = partial(tasks, threads=options.threads, caches=caches, accuracy=accuracy,
                      workspace_limit_bytes=workspace_limit)  # fmt: skip
    if ask and lines:
        answer(lines, lambda: chosen_backends(only, devices), lambda of: planned(cases, of))
        return
    with backends_to_stderr():
        backends = chosen_backends(only or specs, devices, options.timeout_s if isolate and not worker else None)
        if not only:
            check_devices(devices, backends)
        found = planned(cases, backends)
    if lines is not None:
        serve(found, options, lines, _warn)
        return
    if dry_run:
        _show_tasks(found, options.max_memory, output_format)
        return
    path = output or Path("runs") / f"{'+'.join(s.name for s in loaded)[:60]}-{session.stamp()}.jsonl"
    _measure(found, backends, options, loaded, path, started, resume=resume, force=force, quiet=quiet,
             ceilings=not no_ceilings, output_format=output_format)  # fmt: skip


def run_options(
    *, threads: int | None, max_memory: int | None, precision: float, max_time: float, seed: int, processes: int,
    accuracy: float, workspace_limit: int | None, tune: bool, phases: bool, isolate: bool, timeout: float | None,
    **_others: object,
) -> RunOptions:  # fmt: skip
    """What the options of the command line ask for, by their names there.

    Raises:
        InputError: more threads than there are CPUs.
    """
    from convbench.machine import available_memory_bytes, cpu_count
    from convbench.runner import TIMEOUT_S, RunOptions
    from convbench.timing import TimingOptions

    cpus = cpu_count()
    if threads is not None and threads > cpus:
        raise InputError(f"--threads must be at most {cpus}, the CPUs of this process; got {threads}")
    return RunOptions(
        threads=threads or cpus,
        max_memory=max_memory or int(0.8 * (available_memory_bytes() or 4 << 30)),
        timing=TimingOptions(precision=precision, max_time_s=max_time),
        seed=seed,
        processes=processes,
        accuracy=accuracy,
        workspace_limit_bytes=workspace_limit,
        tune=tune,
        phases=phases,
        isolate=isolate,
        timeout_s=timeout or TIMEOUT_S,
    )


def run_silently(arguments: list[str]) -> int:
    """`convbench run` without its tables, for other commands; its exit code.

    It is the command line meanwhile: what the result file names, and what worker processes are started with.

    Raises:
        ConvbenchError: it cannot go on.
    """
    called = sys.argv
    sys.argv = [called[0], "run", *arguments]
    try:
        with redirect_stdout(io.StringIO()):
            command.main(arguments, prog_name="convbench run", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):  # before it began to measure
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = called
    return 0


def _show_tasks(found: list[Task], max_memory: int, output_format: str) -> None:
    from convbench.render import Column, Table
    from convbench.units import significant
    from convbench.work import nominal_flops

    rows = [
        {"case": t.case.label(), "algorithm": t.key.name,
         "resolves_to": t.candidate.resolves_to and (t.candidate.resolved or t.candidate.resolves_to),
         "cache": t.key.cache, "nominal_flops": nominal_flops(t.case.problem),
         "memory_bytes": t.memory_bytes, "reason": t.unavailable or t.candidate.reason
         or ("needs more than --max-memory" if t.memory_bytes > max_memory else None)
         or ("needs more than the device's memory" if t.device_bytes > (t.free_bytes or 0) else None)}
        for t in found
    ]  # fmt: skip
    columns = [
        Column(key="case", header="case"), Column(key="algorithm", header="algorithm"),
        Column(key="resolves_to", header="auto is", hidden=not any(t.candidate.resolves_to for t in found)),
        Column(key="cache", header="cache", hidden=all(t.key.cache == "warm" for t in found)),
        Column(key="nominal_flops", header="Gflop", show=lambda v: significant(v / 1e9), right=True, spare=2),
        Column(key="memory_bytes", header="memory", show=format_bytes, right=True, spare=1),
        Column(key="reason", header="not measured because", cut=True),
    ]  # fmt: skip
    notes = [f"{len(found)} rows; --max-memory {format_bytes(max_memory)}"]
    print_tables([Table(key="rows", columns=columns, rows=rows, notes=notes)], output_format)


def _measure(
    found: list[Task], specs: list[BackendSpec], options: RunOptions, suites: list[Suite], path: Path, started: float,
    *, resume: bool, force: bool, quiet: bool, ceilings: bool, output_format: str,
) -> None:  # fmt: skip
    from convbench import session
    from convbench.cli.progress import progress
    from convbench.environment import relative_path
    from convbench.journal import Journal
    from convbench.runner import Progress, Spent
    from convbench.tasks import refusal

    header = session.header(found, options, suites, sys.argv[1:])
    header["backends"] = {name: relative_path(text) for name, text in files_of(specs).items()}
    for warning in session.warnings(header):
        _warn(warning)
    if not (resume or force):
        Journal.refuse(path)
    if ceilings:
        # What is resumed keeps its header, and needs none measured.
        started += _add_ceilings(header, found, options, measured=not resume)
    journal, todo = (
        session.resume(path, header, found) if resume else (Journal.create(path, header, force=force), found)
    )
    spent = Spent()
    measuring = any(refusal(task, options.max_memory) is None for task in todo)
    interrupted = False
    try:
        waiting = time.perf_counter()
        lock = session.measuring_lock(_say) if measuring else nullcontext()
        with lock, progress(todo, quiet) as show, backends_to_stderr():
            started += time.perf_counter() - waiting  # another run's time is not ours
            for event in _events(todo, options, spent, specs):
                if isinstance(event, Progress):
                    show(event)
                else:
                    journal.append(event)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        deleted = journal.deleted()
        journal.close()
    if interrupted and not journal.run().rows:
        path.unlink(missing_ok=True)
        _say("interrupted before anything was measured")
        sys.exit(130)
    if deleted:
        _warn(f"{path} was deleted meanwhile: what follows is all that is left of the run")
    _report(journal.run(), output_format)
    _say(f"{path}: {_counts(journal.run())}; {_times(spent, time.perf_counter() - started)}")
    if interrupted:
        _say(f"interrupted; the same `convbench run` with `--resume -o {path}` continues")
        sys.exit(130)
    if _nothing_or_broken(journal.run()):
        sys.exit(6)


def _events(
    todo: list[Task], options: RunOptions, spent: Spent, specs: list[BackendSpec]
) -> Iterator[dict[str, Any] | Progress]:
    from convbench.runner import run
    from convbench.tuning import tuned
    from convbench.workers import run_in_workers, run_isolated

    if options.tune and not options.isolate:  # whose workers do it, each for its backend
        todo = yield from tuned(todo, options, spent, _warn)
    if options.processes == 1 and not options.isolate:
        yield from run(todo, options, spent)
        return
    if not options.isolate:
        yield from run_in_workers(todo, options, sys.argv[1:], spent)
        return
    texts: dict[tuple[str, int | None], dict[str, None]] = {}  # each once: of several algorithms
    for spec in specs:
        texts.setdefault((spec.backend.name, spec.index), {})[spec.text] = None
    yield from run_isolated(todo, options, sys.argv[1:], spent, {place: [*of] for place, of in texts.items()})


def _add_ceilings(header: dict[str, Any], found: list[Task], options: RunOptions, *, measured: bool) -> float:
    """Puts each device's ceilings into the header, `measured` where none are remembered; seconds that this took."""
    from convbench import calibrate, session
    from convbench.tasks import refusal

    began = time.perf_counter()
    measured = measured and any(refusal(task, options.max_memory) is None for task in found)
    for device, backends in session.devices(found):
        if not calibrate.measurable(device):
            continue
        known = calibrate.recall(device, options.threads, _warn, backends)
        if known is None and measured:
            with session.measuring_lock(_say):
                _say(f"measuring the ceilings of {device.name}, once for this machine and --threads {options.threads}")
                try:
                    known = calibrate.measure_and_remember(device, options.threads, _warn, backends)
                except InputError as error:
                    _warn(str(error))
        if known is not None:
            header["devices"][device.name]["ceilings"] = known.to_dict()
    return time.perf_counter() - began


def _report(result: Run, output_format: str) -> None:
    from convbench.render.results import rows_table, totals_table

    totals = totals_table(result)
    print_tables([rows_table(result), *([totals] if totals else [])], output_format)


def _nothing_or_broken(result: Run) -> bool:
    from convbench.result import BROKEN

    return any(row.status in BROKEN for row in result.rows) or all(row.time_s is None for row in result.rows)


@contextmanager
def backends_to_stderr() -> Iterator[None]:
    """What backends print goes to stderr meanwhile, also from C: stdout is for the tables."""
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _times(spent: Spent, total: float) -> str:
    """Where a run's time went; "other" is what convbench itself costs."""
    parts = {field.name: getattr(spent, field.name) for field in fields(spent)}
    if not spent.tuning:
        del parts["tuning"]
    if not any(parts.values()):
        return f"{format_time(total)}, nothing measured"
    listed = ", ".join(f"{name} {format_time(seconds)}" for name, seconds in parts.items())
    return f"{format_time(total)}: {listed}, other {100 * (1 - sum(parts.values()) / total):.1f}%"


def _counts(result: Run) -> str:
    counts: dict[str, int] = {}
    for row in result.rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items()) + f" of {len(result.rows)} rows"

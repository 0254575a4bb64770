"""What surrounds a run: its header, its continuation, and the lock that keeps runs from measuring each other."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench import __version__, environment
from convbench.errors import InputError
from convbench.files import lock, unlock
from convbench.journal import SCHEMA_VERSION, Journal
from convbench.machine import Machine
from convbench.result import Status
from convbench.tasks import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from convbench.backends import Backend, Device
    from convbench.runner import RunOptions
    from convbench.suite import Suite
    from convbench.tasks import Task

METHOD_VERSION = 2
"""Version of docs/method.md: raised when a change there makes numbers differ from those of earlier runs."""


def date() -> str:
    """The date and hour, UTC, ISO 8601: for the reader, never for a figure."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def header(
    found: Sequence[Task], options: RunOptions, suites: Sequence[Suite], arguments: Sequence[str]
) -> dict[str, Any]:
    """The header of a run's journal: what was asked, where, with what."""
    here = {}
    for device, backends in devices(found):
        machine = device.machine()
        here[device.name] = {
            "machine": machine.to_dict(),
            "fingerprint": machine.fingerprint,
            "ceilings": None,
        } | ({"versions": said} if (said := versions(device, backends)) else {})
    return {
        "convbench_version": __version__,
        "method": METHOD_VERSION,
        "created": date(),
        "command": environment.relative_command(arguments),
        "suites": [{"name": s.name, "title": s.title, "network": s.network, "sha256": s.sha256} for s in suites],
        "seed": options.seed,
        "options": {"threads": options.threads, "processes": options.processes, "accuracy": options.accuracy,
                    "tune": options.tune, "max_memory_bytes": options.max_memory,
                    "workspace_limit_bytes": options.workspace_limit_bytes}
        | ({"isolate": True} if options.isolate else {}) | asdict(options.timing),
        "environment": environment.collect(),
        "devices": here,
    }  # fmt: skip


def stamp() -> str:
    """When this is, for a file's name: local time, to the second."""
    return time.strftime("%Y%m%d-%H%M%S")


def devices(found: Sequence[Task]) -> list[tuple[Device, list[Backend]]]:
    """The devices that tasks run on, each once, with the backends that run there."""
    by_name: dict[str, dict[str, Backend]] = {}
    for task in found:
        if task.key.device:
            by_name.setdefault(task.key.device, {})[task.key.backend] = task.backend
    return [(next(iter(of.values())).device(), [*of.values()]) for of in by_name.values()]


def warnings(of: dict[str, Any]) -> list[str]:
    """What in a header's environment should make its reader careful."""
    machine = Machine.from_dict(next(iter(of["devices"].values()))["machine"]) if of["devices"] else None
    return environment.warnings(of["environment"], machine) if machine else []


def resume(path: Path, new: dict[str, Any], found: Sequence[Task]) -> tuple[Journal, list[Task]]:
    """The journal at `path` opened for more, and the tasks it has not finished, numbered after those it holds.

    A missing or empty file, or one without a whole header, starts afresh.

    Raises:
        InputError: the file is damaged, holds other rows, or was measured under other conditions; the text says which.
    """
    journal = Journal.reopen(path, new)
    done = journal.run()
    old_conditions, new_conditions = _conditions(done.header), _conditions(new)
    for name, value in new_conditions.items():
        old = old_conditions.get(name)
        if old != value:
            journal.close()
            raise InputError(f"{path} cannot be resumed: its {name} was {old}, now {value}")
    asked = {task.key for task in found}
    for row in done.rows:
        if row.key not in asked:
            journal.close()
            held = f"{row.key.label()} ({row.key.case.problem.describe()})"
            raise InputError(f"{path} cannot be resumed: it holds {held}, which this command does not measure")
    # More memory, or what was missing on the machine, may be there now.
    again = {Status.PARTIAL, Status.SKIPPED, Status.UNAVAILABLE}
    finished = {row.key for row in done.rows if row.status not in again}
    todo = [task for task in found if task.key not in finished]
    return journal, [replace(task, index=done.next_row + i) for i, task in enumerate(todo)]


def _conditions(of: dict[str, Any]) -> dict[str, Any]:
    """What must agree for two parts of a run to be one. Free memory and load are not among it."""
    return {
        "schema version": of.get("schema_version", SCHEMA_VERSION),
        "convbench version": of["convbench_version"],
        "suite hash": [suite["sha256"][:12] for suite in of["suites"]],
        "machine": {name: device["fingerprint"] for name, device in of["devices"].items()},
        "seed": of["seed"],
        "isolate": False,
        **{name: value for name, value in of["options"].items() if name != "max_memory_bytes"},
    }


@contextmanager
def measuring_lock(say: Callable[[str], None]) -> Iterator[None]:
    """One measuring run per machine: says so and waits while another one measures."""
    path = Path(tempfile.gettempdir()) / "convbench.lock"
    try:
        # Without O_CREAT where it exists: another user's file in a sticky folder may not be opened with it.
        opened = os.open(path, os.O_RDONLY if path.exists() else os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError as error:
        say(f"warning: no measuring lock ({error.strerror}): other runs may disturb this one")
        yield
        return
    file = os.fdopen(opened, "rb", buffering=0)
    try:
        try:
            lock(file)
        except BlockingIOError:
            say("waiting for another convbench run on this machine to finish")
            lock(file, wait=True)
        except OSError as error:
            say(f"warning: no measuring lock ({error.strerror}): other runs may disturb this one")
        yield
    finally:
        unlock(file)

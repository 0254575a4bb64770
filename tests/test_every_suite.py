"""Every built-in suite, end to end on the cpu backend at batch 1: `make test-suites`, long."""

import json

import pytest

from convbench.backends import BackendSpec
from convbench.backends.cpu import CpuBackend
from convbench.fold import Folder
from convbench.machine import available_memory_bytes, cpu_count
from convbench.result import Status
from convbench.runner import Progress, RunOptions, run
from convbench.schema import SCHEMA_VERSION
from convbench.suite import builtin_suites, load_suite
from convbench.tasks import Selection, tasks
from convbench.timing import TimingOptions

HEADER = {
    "type": "header", "schema_version": SCHEMA_VERSION, "convbench_version": "0", "created": "", "command": [],
    "suites": [], "seed": 0, "options": {}, "environment": {"libraries": {}, "blas": []}, "devices": {},
}  # fmt: skip
OPTIONS = RunOptions(
    threads=cpu_count(),
    max_memory=int(0.4 * (available_memory_bytes() or 4 << 30)),  # two of these tests run at once
    timing=TimingOptions(max_time_s=1e-3),
)
done = set()
"""Problems, passes and algorithms of earlier suites: networks share layers."""


@pytest.mark.suites
@pytest.mark.parametrize("name", builtin_suites())
def test_every_supported_row_is_ok(name):
    found = []
    for task in tasks(Selection(batch=1).cases([load_suite(name)]), [BackendSpec(CpuBackend())], OPTIONS.threads):
        what = (task.case.problem, task.case.conv_pass, task.key.algorithm)
        if what not in done:
            done.add(what)
            found.append(task)
    folder = Folder()
    folder.add(json.dumps(HEADER).encode())
    for event in run(found, OPTIONS):
        if not isinstance(event, Progress):
            folder.add(json.dumps(event).encode())
    wrong = [row for row in folder.run().rows if row.status not in {Status.OK, Status.UNSUPPORTED}]
    assert not wrong, "\n".join(f"{row.key.label()}: {row.status}: {row.reason}" for row in wrong)
    assert len(folder.run().rows) == len(found)

"""The command line that measures one row again."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convbench.accuracy import DEFAULT_ACCURACY
from convbench.backends import device_index
from convbench.result import COLD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convbench.result import RowKey
    from convbench.suite import Suite

_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What names the parts of a row on a command line.

    Attributes:
        suites: of each suite, by its name, the file or built-in name; where there is none, the name itself.
        batches: of each problem, by suite and name, the batch there; a row of another batch, or of a problem that is
            not among them, gets `--batch`.
        backends: what `-b` calls a backend, by its name, where that is another: "./mine.py:MyBackend".
    """

    suites: Mapping[str, str] = field(default_factory=dict)
    batches: Mapping[tuple[str, str], int] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_suite(cls, suite: Suite, argument: str, backends: Mapping[str, str]) -> Recipe:
        """For the rows of one suite, which `argument` names."""
        batches = {(suite.name, entry.name): entry.problem.batch for entry in suite.problems}
        return cls(suites={suite.name: argument}, batches=batches, backends=backends)

    def command(self, key: RowKey) -> str:
        """The `convbench run` of that row alone, quoted for a POSIX shell."""
        case, batch = key.case, key.case.problem.batch
        words = ["convbench", "run", self.suites.get(case.suite, case.suite),
                 "--filter", _GLOB.sub(r"[\g<0>]", f"{case.suite}/{case.name}"),
                 "--pass", case.conv_pass, "--dtype", case.precision, "--layout", case.layout_name,
                 "--epilogue", case.epilogue,
                 "-b", f"{self.backends.get(key.backend, key.backend)}:{key.algorithm}",
                 "--threads", str(key.threads)]  # fmt: skip
        if key.cache == COLD:
            words.append("--cold")
        if self.batches.get((case.suite, case.name)) != batch:
            words += ["--batch", str(batch)]
        if index := device_index(key.device):
            words += ["--device", str(index)]
        if key.workspace_limit_bytes is not None:
            words += ["--workspace-limit", str(key.workspace_limit_bytes)]
        if key.accuracy not in {None, DEFAULT_ACCURACY}:
            words += ["--accuracy", f"{key.accuracy:.0e}".replace("e-0", "e-")]
        return shlex.join(words)

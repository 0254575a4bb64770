"""The documents say what the commands print. `python tests/test_docs.py` writes the blocks of README.md anew."""

import contextlib
import re
import shlex
import sys
import textwrap
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from convbench.cli import COMMANDS, main
from convbench.journal import read_run
from convbench.problem import ConvPass
from convbench.result import Status
from convbench.suite import parse_suite

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ convbench ([^\n]*)\n(.*?)```", re.DOTALL)


def output_of(command):
    """What a command prints; for a run that is in the repository, what `show` prints of its file, which is the same."""
    arguments = shlex.split(command)
    if arguments[0] == "run":
        arguments = ["show", arguments[arguments.index("-o") + 1]]
    # None in sys.modules: not installed, whether it is or not.
    with contextlib.chdir(ROOT), mock.patch.dict(sys.modules, torch=None):
        result = CliRunner().invoke(main, arguments, prog_name="convbench", terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("block", BLOCK.findall(README.read_text()), ids=lambda block: block[0])
def test_readme_shows_what_commands_print(block):
    command, shown = block
    assert shown == output_of(command)


def test_readme_names_every_command():
    text = README.read_text()
    assert all(f"convbench {name}" in text for name in COMMANDS)


def test_committed_runs_were_made_by_the_command_in_their_header():
    for command, _ in BLOCK.findall(README.read_text()):
        if command.startswith("run "):
            header = read_run(ROOT / shlex.split(command)[-1]).header
            assert [word for word in header["command"][1:] if word != "--force"] == shlex.split(command)


def test_committed_files_name_no_host_or_path():
    for path in (ROOT / "reports").rglob("*"):
        if path.is_file():
            assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|var|Users)/", path.read_text()), path


def test_readmes_suite_is_one():
    source = re.search(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert parse_suite(source.encode(), "README.md").problems[0].problem.output_size == (112, 112)


def test_readmes_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"`\.\[(\w+)\]`", README.read_text())) == set(extras) - {"test", "lint", "browser"}


def test_the_guides_backend_works(tmp_path):
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/backends.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mykernel.py").write_text(textwrap.dedent(source))
    path = tmp_path / "run.jsonl"
    arguments = ["run", "smoke", "--pass", "fprop", "--max-time", "5ms", "-o", str(path)]
    result = CliRunner().invoke(main, [*arguments, "-b", f"{tmp_path / 'mykernel.py'}:MyBackend"])
    assert result.exit_code == 0, result.output
    rows = read_run(path).rows
    timed = [row for row in rows if row.status is Status.OK]
    assert timed
    assert all(row.key.case.problem.filter_size == (1, 1) for row in timed)
    assert {row.status for row in rows} == {Status.OK, Status.UNSUPPORTED}
    assert {row.key.case.conv_pass for row in rows} == {ConvPass.FPROP}


if __name__ == "__main__":
    text = BLOCK.sub(lambda m: f"```console\n$ convbench {m[1]}\n{output_of(m[1])}```", README.read_text())
    README.write_text(text)

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
import yaml
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
    with contextlib.chdir(ROOT), mock.patch.dict(sys.modules, cudnn=None, cupy=None, torch=None):
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


CI = (ROOT / "docs/ci.md").read_text()
OLD = "old/.venv/bin/python"


def workflows():
    """The two workflows of docs/ci.md, and the line of each that checks."""
    github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", CI, re.DOTALL))
    steps = [step["run"] for step in github["jobs"]["check"]["steps"] if "run" in step]
    lines = [line for step in steps for line in step.splitlines()], gitlab["convolutions"]["script"]
    return github, gitlab, [next(line for line in of if "convbench check" in line) for of in lines]


def test_ci_guides_workflows_check_alike_and_keep_what_they_write():
    github, gitlab, (first, second) = workflows()
    assert first.replace(" --github", "") == second
    assert re.search(r"^on: pull_request$", CI, re.MULTILINE)
    written = set(re.findall(r"=(check\.\w+)", second))
    artifacts = gitlab["convolutions"]["artifacts"]
    assert {*artifacts["paths"], artifacts["reports"]["junit"]} == written
    (upload,) = [step for step in github["jobs"]["check"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert all(Path(name).match(upload["with"]["path"]) for name in written)


def test_the_ci_guides_check_works(tmp_path, monkeypatch):
    """Its command, on the backend of the other guide: the new version does something useless, too."""
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/backends.md").read_text(), re.DOTALL)[1]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/mykernel.py").write_text(source)
    (tmp_path / "mykernel.py").write_text(source.replace("np.einsum(", "[0] * 200_000; np.einsum("))
    (tmp_path / "layers.toml").write_text(re.search(r"```toml\n(.*?)```", CI, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    words = shlex.split(workflows()[2][0].replace(OLD, sys.executable))
    assert words[0] == ".venv/bin/convbench"
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 3, result.output
    assert "::error file=layers.toml,line=4,title=regression" in result.stdout
    assert "regression" in (tmp_path / "summary.md").read_text()
    assert {path.name for path in tmp_path.glob("check.*")} == {"check.json", "check.xml", "check.svg"}


if __name__ == "__main__":
    text = BLOCK.sub(lambda m: f"```console\n$ convbench {m[1]}\n{output_of(m[1])}```", README.read_text())
    README.write_text(text)

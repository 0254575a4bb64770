"""What is recorded about the surroundings, and what must never be."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from convbench import environment
from convbench.environment import Level, blas_core, collect, load, relative_command, relative_path, warnings
from convbench.machine import Machine

AVX512 = Machine(os="Linux", arch="x86_64", cpu_count=4, isa=("avx2", "avx512f"))
AVX2 = Machine(os="Linux", arch="x86_64", cpu_count=4, isa=("avx2",))


def texts(value):
    """Every string in a nested value, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def absolute_paths(value):
    return [text for text in texts(value) if re.search(r"(^|[\s=:;,\"'(]|-[A-Za-z])/[^/\s]", text)]


def test_no_host_name_and_no_absolute_path(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_TOOL_LIBRARIES", "/srv/secret/lib.so:/srv/someone/other.so")
    monkeypatch.setenv("MALLOC_CONF", "prof_prefix:/srv/someone/heap")
    monkeypatch.setenv("MKL_FOLDER", str(Path.cwd() / "here"))
    monkeypatch.setenv("HOME", "/srv/someone")
    found = collect()
    text = json.dumps(found)
    assert absolute_paths(found) == []
    assert "someone" not in text
    assert "secret" not in text
    assert found["variables"]["OMP_TOOL_LIBRARIES"] == "lib.so:other.so"
    assert found["variables"]["MALLOC_CONF"] == "prof_prefix:heap"
    assert found["variables"]["MKL_FOLDER"] == "here"
    host = socket.gethostname()
    assert not re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", text)


def test_a_host_name_would_be_found(monkeypatch):
    """The check above is worth something: nothing that names the host is asked for."""

    def refuse(*_arguments):
        raise AssertionError("asked for the host's name")

    for module, name in ((socket, "gethostname"), (socket, "getfqdn"), (environment.platform, "node")):
        monkeypatch.setattr(module, name, refuse)
    collect()


def test_the_environment_is_complete_and_can_be_stored():
    found = collect()
    json.dumps(found, allow_nan=False)
    assert set(found) == {
        "python", "os", "libraries", "blas", "variables", "affinity", "governor", "load", "pressure", "git_revision",
    }  # fmt: skip
    assert {"numpy", "scipy", "threadpoolctl"} <= found["libraries"].keys()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", found["python"])
    for blas in found["blas"]:
        assert set(blas) == {"internal_api", "version", "architecture", "num_threads", "threading_layer"}
        assert blas["num_threads"] >= 1


def test_only_variables_that_steer_libraries_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("AWS_OMP_KEY", "hush")
    found = collect()
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "hush" not in json.dumps(found)


def test_what_the_system_does_not_say_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "GOVERNOR", tmp_path / "missing")
    monkeypatch.setattr(environment, "PRESSURE", tmp_path / "missing")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    found = collect()
    assert [found[key] for key in ("governor", "pressure", "affinity", "load")] == [None] * 4


def test_governor_and_pressure_are_first_lines(monkeypatch, tmp_path):
    (tmp_path / "governor").write_text("performance\n")
    (tmp_path / "pressure").write_text("some avg10=1.00 total=3\nfull avg10=0.00 total=0\n")
    monkeypatch.setattr(environment, "GOVERNOR", tmp_path / "governor")
    monkeypatch.setattr(environment, "PRESSURE", tmp_path / "pressure")
    found = collect()
    assert found["governor"] == "performance"
    assert found["pressure"] == "some avg10=1.00 total=3"


def git(*arguments):
    settings = {"user.name": "t", "user.email": "t@example.invalid", "commit.gpgsign": "false", "tag.gpgsign": "false"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    subprocess.run(["git", *options, *arguments], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_revision_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert collect()["git_revision"] is None
    git("init", "-q")
    assert collect()["git_revision"] is None  # nothing committed yet
    Path("file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    clean = collect()["git_revision"]
    assert re.fullmatch(r"[0-9a-f]{12,40}", clean)
    git("tag", "-m", "secret-name", "secret-name")
    assert collect()["git_revision"] == clean  # a hash, whatever tags there are
    Path("file").write_text("two")
    assert collect()["git_revision"] == f"{clean}-dirty"


def test_without_git_there_is_no_revision(monkeypatch):
    def missing(*_arguments, **_options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment.subprocess, "run", missing)
    assert collect()["git_revision"] is None


# Paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("alexnet", "alexnet"),
        ("suites/mine.toml", "suites/mine.toml"),
        ("../mine.toml", "../mine.toml"),
        ("alexnet/conv1", "alexnet/conv1"),
        ("{here}/mine.toml", "mine.toml"),
        ("{here}/deep/mine.toml", "deep/mine.toml"),
        ("/srv/someone/mine.toml", "mine.toml"),
        ("{here}-not/mine.toml", "mine.toml"),
        ("-o", "-o"),
        ("-o/srv/someone/run.jsonl", "-orun.jsonl"),
        ("-o{here}/run.jsonl", "-orun.jsonl"),
        ("-o=/srv/someone/run.jsonl", "-o=run.jsonl"),
        ("--output=/srv/someone/run.jsonl", "--output=run.jsonl"),
        ("--output={here}/runs/run.jsonl", "--output=runs/run.jsonl"),
        ("--output=/srv/some=one/run.jsonl", "--output=run.jsonl"),
        ("--output=runs/run.jsonl", "--output=runs/run.jsonl"),
        ("/srv/someone/mine.py:MyBackend", "mine.py:MyBackend"),
        ("/srv/someone/mine.py:MyBackend:fast", "mine.py:MyBackend:fast"),
        ("{here}/mine.py:MyBackend", "mine.py:MyBackend"),
        ("-b/srv/someone/mine.py:MyBackend", "-bmine.py:MyBackend"),
        ("--backend=/srv/someone/mine.py:MyBackend", "--backend=mine.py:MyBackend"),
        ("./mine.py:MyBackend", "./mine.py:MyBackend"),
        ("{here}/a:/srv/someone/b", "a:b"),
        ("--precision=1%", "--precision=1%"),
        ("cpu:fft", "cpu:fft"),
        ("fprop,dgrad", "fprop,dgrad"),
        ("--filter=*/conv1", "--filter=*/conv1"),
        ("", ""),
        ("-", "-"),
        ("--", "--"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_a_path_is_relative_or_its_last_part(here, argument, expected):
    assert relative_path(argument.format(here=here)) == expected


def test_a_command_has_no_absolute_path(here):
    command = relative_command(["run", str(here / "a.toml"), "-o", "/x/y/run.jsonl", "-b/x/y/mine.py:B"])
    assert command == ["convbench", "run", "a.toml", "-o", "run.jsonl", "-bmine.py:B"]
    assert absolute_paths(command) == []


def test_the_working_directory_itself(here):
    assert relative_path(str(here)) == "."
    assert relative_path("/") == ""


# Warnings


def surroundings(load=0.0, architecture="SkylakeX", **variables):
    return {"blas": [{"architecture": architecture}], "variables": variables, "load": [load, 9.0, 9.0]}


def test_a_fitting_machine_gives_no_warning():
    assert warnings(surroundings(), AVX512) == []
    assert warnings(surroundings(architecture="Haswell"), AVX2) == []


@pytest.mark.parametrize("core", ["Haswell", "Zen", "Nehalem"])
def test_kernels_older_than_the_cpu_are_a_warning(core):
    found = warnings(surroundings(architecture=core), AVX512)
    assert found == [f"AVX-512 CPU, but BLAS runs its {core} kernels: a newer BLAS may have better ones"]


def test_the_variable_that_forces_them_is_named():
    found = warnings(surroundings(architecture="Haswell", OPENBLAS_CORETYPE="Haswell"), AVX512)
    assert "(OPENBLAS_CORETYPE=Haswell): unset it" in found[0]
    assert "`convbench doctor`" in found[0]


@pytest.mark.parametrize(("load", "count"), [(0.0, 0), (2.0, 0), (2.01, 1), (40.0, 1)])
def test_load_above_half_the_cpus_is_a_warning(load, count):
    found = warnings(surroundings(load=load), AVX512)
    assert len(found) == count
    if count:
        assert found[0].startswith(f"load average {load:.2f} on 4 CPUs in the last minute: what else is running")


def test_unknown_surroundings_give_no_warning():
    unknown = Machine(os="Fake", arch="fake")
    assert warnings({"blas": [], "variables": {}, "load": None}, unknown) == []
    assert warnings({"blas": [{"architecture": None}], "variables": {}, "load": []}, AVX512) == []
    assert len(warnings(surroundings(load=0.6), unknown)) == 1  # one CPU where their number is not known


def test_what_is_as_it_should_be_is_said_too():
    """`doctor` shows it, by the rules that `run` warns by."""
    assert blas_core(surroundings(), AVX512) == (Level.OK, "BLAS runs its SkylakeX kernels", "")
    assert load(surroundings(load=1.0), AVX512) == (Level.OK, "load average 1.00 on 4 CPUs in the last minute", "")
    assert blas_core({"blas": [], "variables": {}}, AVX512) is None
    assert load({"load": None}, AVX512) is None


def test_both_warnings_may_come_together():
    assert len(warnings(surroundings(load=9.0, architecture="Haswell"), AVX512)) == 2

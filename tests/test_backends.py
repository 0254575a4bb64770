"""Where backends are found: entry points, and files."""

import sys
from importlib.metadata import EntryPoint

import pytest

from convbench import backends
from convbench.backends import ENTRY_POINTS, BackendSpec, available, load, parse_backend
from convbench.backends.cpu import CpuBackend
from convbench.errors import InputError

OURS = EntryPoint("cpu", "convbench.backends.cpu:CpuBackend", ENTRY_POINTS)
THEIRS = EntryPoint("theirs", "convbench_testing_plugin:Backend", ENTRY_POINTS)
BROKEN = EntryPoint("broken", "convbench_no_such_module:Backend", ENTRY_POINTS)


@pytest.fixture
def installed(monkeypatch):
    """Replaces the installed entry points."""

    def install(*entries):
        monkeypatch.setattr(backends, "entry_points", lambda group: list(entries) if group == ENTRY_POINTS else [])

    monkeypatch.delenv("CONVBENCH_PLUGINS", raising=False)
    return install


# Entry points


def test_the_cpu_backend_is_installed(monkeypatch):
    monkeypatch.setenv("CONVBENCH_PLUGINS", "0")
    assert "cpu" in available()
    assert [type(spec.backend) for spec in load(available()["cpu"])] == [CpuBackend]


def test_our_own_come_first(installed):
    installed(THEIRS, BROKEN, OURS)
    assert list(available()) == ["cpu", "broken", "theirs"]


def test_third_parties_can_be_left_out(installed, monkeypatch):
    installed(THEIRS, OURS)
    monkeypatch.setenv("CONVBENCH_PLUGINS", "0")
    assert list(available()) == ["cpu"]
    monkeypatch.setenv("CONVBENCH_PLUGINS", "1")
    assert list(available()) == ["cpu", "theirs"]


def test_two_backends_of_one_name_are_an_error(installed):
    installed(OURS, EntryPoint("cpu", "other:Cpu", ENTRY_POINTS))
    with pytest.raises(
        InputError, match=r"two backends are called 'cpu': convbench\.backends\.cpu:CpuBackend and other:Cpu"
    ):
        available()


def test_one_left_out_is_no_second_of_its_name(installed, monkeypatch):
    installed(OURS, EntryPoint("cpu", "other:Cpu", ENTRY_POINTS))
    monkeypatch.setenv("CONVBENCH_PLUGINS", "0")
    assert available() == {"cpu": OURS}


def test_the_same_entry_twice_is_one(installed):
    """An editable install beside a wheel of the same version lists its entry points twice."""
    installed(OURS, OURS)
    assert list(available()) == ["cpu"]


def test_a_broken_plug_in_is_a_warning():
    with pytest.warns(
        UserWarning, match=r"backend 'broken' failed to load: ModuleNotFoundError: .*convbench_no_such_module"
    ):
        assert load(BROKEN) == []


def test_a_plug_in_that_raises_when_made_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "convbench_testing_plugin.py").write_text("class Backend:\n    def __init__(self):\n        1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=r"backend 'theirs' failed to load: ZeroDivisionError"):
        assert load(THEIRS) == []
    sys.modules.pop("convbench_testing_plugin")


def test_our_own_that_breaks_is_no_warning_but_an_error():
    with pytest.raises(ModuleNotFoundError):
        load(EntryPoint("ours", "convbench.no_such_module:Backend", ENTRY_POINTS))


# -b


@pytest.mark.parametrize(
    ("text", "algorithm"), [("cpu", None), ("cpu:fft", "fft"), ("cpu:auto", "auto"), ("cpu:", None)]
)
def test_a_backend_and_maybe_its_algorithm(text, algorithm):
    (spec,) = parse_backend(text)
    assert isinstance(spec, BackendSpec)
    assert isinstance(spec.backend, CpuBackend)
    assert spec.algorithm == algorithm


@pytest.mark.parametrize(
    ("text", "hint"),
    [("cpi", "did you mean 'cpu'?"), ("CUDA", "known: cpu"), ("", "known: cpu"), (":fft", "known: cpu")],
)
def test_an_unknown_backend_names_the_nearest(installed, text, hint):
    installed(OURS)
    with pytest.raises(InputError) as caught:
        parse_backend(text)
    name = text.partition(":")[0]
    assert str(caught.value) == f"unknown backend {name!r} (a backend in a file is FILE.py:CLASS); {hint}"


def test_a_plug_in_that_fails_to_load_is_an_error_where_it_was_asked_for(installed):
    installed(OURS, BROKEN)
    with pytest.raises(InputError, match="backend 'broken' failed to load: ModuleNotFoundError"):
        parse_backend("broken")


@pytest.fixture
def backend_file(tmp_path):
    """Writes a file and gives its path."""
    path = tmp_path / "my kernel.py"

    def write(text):
        path.write_text(text)
        return path

    yield write
    sys.modules.pop(f"convbench_backend_{path.stem}", None)


GOOD = """
from dataclasses import dataclass

from convbench.testing import FakeBackend


@dataclass
class Settings:
    size: int = 3


class Mine(FakeBackend):
    name = "mine"
    settings = Settings()
"""


@pytest.mark.parametrize(("suffix", "algorithm"), [("", None), (":quick", "quick"), (":", None)])
def test_a_backend_from_a_file(backend_file, suffix, algorithm):
    path = backend_file(GOOD)
    (spec,) = parse_backend(f"{path}:Mine{suffix}")
    assert (spec.backend.name, spec.algorithm) == ("mine", algorithm)
    assert spec.backend.settings.size == 3


def test_a_relative_file(backend_file, monkeypatch):
    monkeypatch.chdir(backend_file(GOOD).parent)
    for text in ("./my kernel.py:Mine", "my kernel.py:Mine"):
        assert [spec.backend.name for spec in parse_backend(text)] == ["mine"]


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (GOOD, "Yours", "AttributeError: .*'Yours'"),
        ("def (", "Mine", "failed to load: SyntaxError"),
        ("import convbench_no_such_module", "Mine", "ModuleNotFoundError: .*convbench_no_such_module"),
        ("raise RuntimeError('at import')", "Mine", "RuntimeError: at import"),
        ("class Mine:\n    def __init__(self, size): ...", "Mine", "failed to load: TypeError"),
    ],
    ids=["no such class", "syntax", "import", "raises", "needs arguments"],
)
def test_a_file_that_gives_no_backend(backend_file, content, name, expected):
    path = backend_file(content)
    with pytest.raises(InputError, match=expected) as caught:
        parse_backend(f"{path}:{name}")
    assert str(caught.value).startswith(f"backend {path}:{name} failed to load: ")


@pytest.mark.parametrize("text", ["missing.py:Mine", "./folder.py:Mine", "folder/missing.py:Mine"])
def test_a_file_that_is_not_there(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=r"cannot read backend file .*: no such Python file"):
        parse_backend(text)


@pytest.mark.parametrize("text", ["mine.py", "mine.py:", "./mine.py::fast"])
def test_a_file_without_a_class(text):
    with pytest.raises(InputError, match=r"mine\.py: name the backend class after a colon, such as mine\.py:MyBackend"):
        parse_backend(text)


def test_an_interrupt_while_loading_passes_through(backend_file):
    with pytest.raises(KeyboardInterrupt):
        parse_backend(f"{backend_file('raise KeyboardInterrupt')}:Mine")

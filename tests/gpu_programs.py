"""The programs of benchmarks/gpu, as modules."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks/gpu"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def gpu():
    """All of them by name: they import one another, as scripts of one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in PROGRAMS:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in PROGRAMS})
        for name in PROGRAMS:
            del sys.modules[name]

"""What all tests share: ceilings that are remembered already, and a measuring lock that no other run holds."""

import tempfile

import hypothesis
import pytest

from convbench import calibrate
from convbench.backends.cpu.device import CpuDevice
from convbench.backends.torch import TorchBackend
from convbench.ceilings import Ceiling, Ceilings
from convbench.machine import cpu_count

hypothesis.settings.register_profile("convbench", deadline=None)  # the machine may be busy with something else
hypothesis.settings.load_profile("convbench")


@pytest.fixture(scope="session")
def remembered_ceilings(tmp_path_factory):
    """The text of a cache file that knows made-up ceilings of this machine on any number of threads."""
    folder = tmp_path_factory.mktemp("cache")
    device, gflops = CpuDevice(), Ceiling(value=1e11, kind="measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVBENCH_CACHE", str(folder))
        for threads in range(1, cpu_count() + 1):
            made_up = Ceilings(compute={"fp32": gflops, "fp64": gflops}, bandwidth={"dram": gflops}, threads=threads)
            for backends in ([], [TorchBackend()]):
                calibrate.remember(device, threads, made_up, print, backends)
    return (folder / "ceilings.json").read_text()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch, remembered_ceilings):
    """A cache folder of its own for each test."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "ceilings.json").write_text(remembered_ceilings)
    monkeypatch.setenv("CONVBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def lock(tmp_path_factory, monkeypatch):
    """A measuring lock of its own for each test, in this process and in those that it starts."""
    folder = str(tmp_path_factory.mktemp("lock"))
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setenv("TMPDIR", folder)

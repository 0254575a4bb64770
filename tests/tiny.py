"""A suite of two small problems on the fake backend, for the tests of tasks and of the runner."""

from convbench.backends import BackendSpec
from convbench.problem import ConvPass
from convbench.suite import parse_suite
from convbench.tasks import Selection
from convbench.testing import FakeBackend

SUITE = parse_suite(
    b"""
schema = 1
name = "tiny"

[defaults]
batch = 2
in_channels = 2
out_channels = 3
filter_size = 3

[[problem]]
name = "first"
input_size = 6
repeat = 4

[[problem]]
name = "second"
input_size = [5, 7]
batch = 1
""",
    "tiny.toml",
)
FPROP = Selection(passes=(ConvPass.FPROP,), globs=("first",))


def specs(*algorithms, backend=None, **behaviour):
    """The fake backend with these algorithms, as asked for by `-b fake`."""
    backend = backend or FakeBackend(behaviour or None)
    return [BackendSpec(backend, name) for name in algorithms or (None,)]

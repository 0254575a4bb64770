"""Imports run one way, and the light part of convbench loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convbench

PACKAGE = Path(convbench.__file__).parent

# One entry per layer. A module may import those of earlier layers, and of its own as long as no circle results. A name
# stands for the whole package below it. This is the picture in docs/architecture.md.
LAYERS = [
    {"errors", "files", "units", "cache"},
    {"problem"},
    {"work", "counts", "operands", "stats", "accuracy"},
    {"suite", "machine", "ceilings", "plateaus", "datasheet"},
    {"backends"},
    {"timing", "reference", "verify", "fused"},
    {"environment", "result", "schema", "fold", "journal", "memory", "recheck"},
    {"tasks", "children", "floor", "reproduce"},
    {"lost"},
    {"runner", "workers", "session", "tuning", "doctor", "calibrate"}
    | {"testing", "noise", "roofline", "placement", "compare", "confirm", "check", "baseline", "pairs"},
    {"render", "formats"},
    {"claims"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: index for index, names in enumerate(LAYERS) for name in names}
MEASURE = {"runner", "session", "testing"}
# They recompute verdicts from files, on a machine that has no backend.
EXPLAIN = {"roofline", "placement", "compare", "confirm", "check", "baseline"}
NEVER = {
    **dict.fromkeys(EXPLAIN, MEASURE | {"backends"}),
    **dict.fromkeys(MEASURE, EXPLAIN),
    **{name: {"backends"} for name in ("render", "formats", "claims")},
}
COMMAND_LINE_ONLY = {"click"}


def sources():
    """{module name: source} of every module in the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("convbench", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def room(module):
    """The part of convbench that a module belongs to: "backends" for convbench.backends.cpu.fft; "" for convbench."""
    return f"{module.removesuffix('.__init__')}.".split(".")[1]


def for_type_checking_only(node):
    test = node.test if isinstance(node, ast.If) else None
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def import_nodes(tree):
    """Import statements, inside functions too, without those that only a type checker sees."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif for_type_checking_only(node):
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def imported(module, source, rooms):
    """(line, imported module) for each import in `source`, relative ones resolved."""
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"  # "from convbench import units" imports a module, "… import __version__" not
            yield node.lineno, whole if base == "convbench" and alias.name in rooms else base


def complaints(modules):
    """What is wrong with the imports of {module name: source}, one line each."""
    rooms = {room(module) for module in modules} | set(LAYER)
    found, edges = [], {}
    for module, source in modules.items():
        here = room(module)
        if module != "convbench.__init__" and here not in LAYER:
            found.append(f"{module} has no layer: add {here!r} to LAYERS in {Path(__file__).name}")
            continue
        for line, target in imported(module, source, rooms):
            where = f"{module}:{line} imports {target}"
            if target.split(".")[0] in COMMAND_LINE_ONLY and here != "cli":
                found.append(f"{where}, which belongs to cli")
            if target.split(".")[0] != "convbench":
                continue
            there = room(target)
            if there in ("", here):
                continue
            edges.setdefault(here, set()).add(there)
            if there not in LAYER:
                found.append(f"{where}, which has no layer")
            elif LAYER[there] > LAYER.get(here, -1):
                found.append(f"{where}, which is in a later layer")
            elif there in NEVER.get(here, ()):
                found.append(f"{where}, which {here} never does")
    return found + [f"{' -> '.join(circle)} is a circle" for circle in circles(edges)]


def circles(edges):
    """Circles in {name: names it imports}, one for each name that lies on one and sorts first in it."""
    found = []

    def walk(start, path):
        for target in sorted(edges.get(path[-1], ())):
            if target == start:
                found.append([*path, start])
            elif target > start and target not in path:
                walk(start, [*path, target])

    for start in sorted(edges):
        walk(start, [start])
    return found


def test_imports_run_one_way():
    modules = sources()
    assert {"convbench.__init__", "convbench.errors", "convbench.problem", "convbench.backends.__init__"} <= set(
        modules
    )
    found = complaints(modules)
    assert not found, "\n".join(["imports that go the wrong way:", *found])


def test_no_module_stands_in_two_layers():
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        ({"work": "from convbench.suite import Suite"}, "convbench.work:1 imports convbench.suite, which is"),
        ({"work": "import convbench.suite"}, "which is in a later layer"),
        ({"work": "import convbench.suite as s"}, "which is in a later layer"),
        ({"work": "from convbench import suite"}, "convbench.suite, which is in a later layer"),
        ({"work": "from . import suite"}, "convbench.suite, which is in a later layer"),
        ({"work": "from .suite import Suite"}, "convbench.suite, which is in a later layer"),
        ({"work": "def f():\n    from convbench.suite import Suite"}, "convbench.work:2 imports"),
        ({"work": "class A:\n    try:\n        import convbench.cli\n    finally: pass"}, "convbench.work:3"),
        ({"work": "if TYPE_CHECKING:\n    pass\nelse:\n    import convbench.cli"}, "convbench.work:4"),
        ({"backends.cpu.fft": "from ...runner import run"}, "convbench.runner, which is in a later layer"),
        ({"backends.__init__": "from ..runner import run"}, "convbench.runner, which is in a later layer"),
        ({"backends.cpu.fft": "from convbench.timing import now"}, "which is in a later layer"),
        ({"__init__": "from convbench.errors import InputError"}, "which is in a later layer"),
        ({"roofline": "import convbench.backends.cpu"}, "which roofline never does"),
        ({"compare": "def f():\n    from convbench.backends import load"}, "which compare never does"),
        ({"render.plot": "from convbench import backends"}, "which render never does"),
        ({"formats.__init__": "from convbench.backends.cpu.fft import FftPlan"}, "which formats never does"),
        ({"roofline": "from convbench.runner import run"}, "which roofline never does"),
        ({"runner": "from convbench.compare import compare"}, "which runner never does"),
        ({"errors": "import convbench.units", "units": "import convbench.errors"}, "errors -> units -> errors is"),
        ({"novelty": ""}, "convbench.novelty has no layer: add 'novelty' to LAYERS"),
        ({"cli.run": "import convbench.novelty"}, "convbench.novelty, which has no layer"),
        ({"roofline": "import click"}, "click, which belongs to cli"),
        ({"render.table": "from click.utils import echo"}, "click.utils, which belongs to cli"),
    ],
)  # fmt: skip
def test_the_check_finds(modules, complaint):
    found = complaints({f"convbench.{name}": source for name, source in modules.items()})
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    "modules",
    [
        {"work": "from convbench.problem import Case\nfrom convbench import units, errors"},
        {"work": "if TYPE_CHECKING:\n    from convbench.suite import Suite"},
        {"work": "if typing.TYPE_CHECKING:\n    import convbench.cli"},
        {"units": "from convbench import __version__\nfrom convbench.errors import InputError"},
        {"backends.cpu.fft": "from convbench.backends.cpu.plans import BasePlan\nfrom ...operands import Operands"},
        {"verify": "from convbench import reference"},
        {"cli.run": "import click\nfrom convbench.cli.options import options\nimport convbench.runner"},
        {"render.table": "import rich\nfrom convbench.roofline import place"},
        {"__main__": "from convbench.cli import main"},
    ],
)
def test_the_check_lets_pass(modules):
    assert complaints({f"convbench.{name}": source for name, source in modules.items()}) == []


HEAVY = ["numpy", "scipy", "matplotlib", "rich", "msgspec", "cupy", "cudnn", "pynvml", "torch"]


@pytest.mark.parametrize(
    "module",
    [
        "convbench",
        *(f"convbench.{name}" for name in ("errors", "suite", "problem", "work", "units", "stats")),
        *(f"convbench.backends.{name}" for name in ("cudnn", "cufft", "cudafft", "cuda.gpu", "cuda.arrays")),
    ],
)
def test_import_is_light(module, tmp_path):
    script = f"import sys, {module}; print(sorted({set(HEAVY)!r} & sys.modules.keys()), {module!r} in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=60
    )
    assert (ran.stdout.strip(), ran.stderr) == ("[] True", "")


def test_the_check_of_light_imports_can_fail(tmp_path):
    script = f"import sys, convbench.operands; print(sorted({set(HEAVY)!r} & sys.modules.keys()))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=60
    )
    assert ran.stdout.strip() == "['numpy']"

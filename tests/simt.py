"""CUDA kernels on the CPU: a source as it stands, compiled by g++ behind simt.hpp, called as CuPy calls kernels."""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from convbench.cache import cache_folder

HERE = Path(__file__).parent
KEPT_S = 30 * 24 * 3600
"""A library that nobody has asked for so long is removed."""
ORDERS = ("asc", "desc", "random")
MESSAGE_BYTES = 2000

NO_COMPILER = "" if sys.platform == "linux" and shutil.which("g++") else "CUDA kernels on the CPU need Linux and g++"
needs_compiler = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)


def _folder():
    """Where libraries are kept from run to run: they are loaded, so a folder that is nobody else's to write in."""
    folder = cache_folder() / "simt"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    made = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made) / "simt"


FOLDER = None if NO_COMPILER else _folder()
"""Found at import: a test has a cache folder of its own."""


class SimtError(Exception):
    """What a GPU would refuse or leave undefined: the block, the thread and the reason; or what g++ says."""


class Array(ctypes.Structure):
    """As in simt.hpp."""

    _fields_ = (("start", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("argument", ctypes.c_uint64))


class Launch(ctypes.Structure):
    """As in simt.hpp."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("arrays", ctypes.POINTER(Array)),
        ("stacks", ctypes.c_void_p),
        ("error", ctypes.c_char_p),
        ("error_bytes", ctypes.c_uint64),
        ("shared_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("limit_s", ctypes.c_double),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("array_count", ctypes.c_int),
        ("order", ctypes.c_int),
        ("most_threads", ctypes.c_int),
    )


class CpuModule:
    """The kernels of a CUDA source.

    `options` are NVRTC's; g++ gets what it knows of them, -D, -U, -I and -std. With `watch` each load and store is
    looked at: races are errors then, and so is what lies outside of the arguments' arrays (see simt_watch.hpp). With
    `sanitize` the address and the undefined-behaviour sanitizers look instead, which know static arrays better, in a
    process that has `sanitizer()` preloaded: see `run_sanitized`. Skips the test where there is no compiler.
    """

    def __init__(self, source, options=(), watch=False, sanitize=False, flags=("-O1",), folder=None):
        if NO_COMPILER:
            pytest.skip(NO_COMPILER)
        given = [option for option in options if option.startswith(("-D", "-U", "-I", "-std"))]
        flags = (*flags, *(WATCH if watch else ()), *(SANITIZERS if sanitize else ()))
        self._path = _built(source, given, flags, folder or FOLDER)
        self._library = ctypes.CDLL(str(self._path))

    def get_function(self, name):
        """The kernel of this name: extern "C" __global__ in the source, and not a template."""
        try:
            return CpuKernel(self._library, self._path, name)
        except AttributeError:
            raise SimtError(f'the source has no kernel extern "C" __global__ {name}') from None


class CpuKernel:
    """A kernel that runs before the call returns."""

    stacks = None
    """Of fibers, which all modules of the process share: their guards are a thousand mappings."""

    def __init__(self, library, path, name):
        self.name, self._path = name, path
        self._launch = library[f"simt_launch_{name}"]
        self._launch.restype = None
        library.simt_stacks.restype = ctypes.c_void_p
        CpuKernel.stacks = CpuKernel.stacks or library.simt_stacks()
        kinds, sizes = library[f"simt_kinds_{name}"], library[f"simt_sizes_{name}"]
        kinds.restype, sizes.restype = ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)
        kinds = kinds().decode()
        self._parameters = [*zip(kinds, sizes()[: len(kinds)], strict=True)]

    def __call__(self, grid, block, args, shared_mem=0, order="asc", seed=0, limit_s=60.0):
        """Runs it: `args` are arrays (the address of the first element counts), NumPy scalars and 0 for no array.

        `order` is that of the blocks, and of the threads of a block that can run; `seed` is of the random one.
        """
        if len(args) != len(self._parameters):
            raise SimtError(f"{self.name} has {len(self._parameters)} parameters, {len(args)} are given")
        values = [self._value(i, value) for i, value in enumerate(args)]
        arrays = [
            Array(low, high - low, i)
            for i, value in enumerate(args)
            if isinstance(value, np.ndarray)
            for low, high in [np.lib.array_utils.byte_bounds(value)]
        ]
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        launch = Launch(
            arguments=(ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)),
            arrays=(Array * len(arrays))(*arrays),
            array_count=len(arrays),
            stacks=self.stacks,
            error=ctypes.cast(message, ctypes.c_char_p),
            error_bytes=MESSAGE_BYTES,
            shared_bytes=shared_mem,
            seed=seed,
            limit_s=limit_s,
            grid=_three(grid),
            block=_three(block),
            order=ORDERS.index(order),
        )
        self._launch(ctypes.byref(launch))
        if message.value:
            raise SimtError(f"{self.name}: {_with_lines(message.value.decode(), self._path)}")

    def _value(self, i, value):
        kind, size = self._parameters[i]
        what = f"{self.name}: argument {i}"
        if kind == "*":
            address = _address(value, what)
            if address % size:
                raise SimtError(f"{what} is at an address that is no multiple of {size}")
            return ctypes.c_void_p(address)
        if not isinstance(value, np.generic):
            raise SimtError(f"{what} is of type {type(value).__name__}: give a NumPy scalar")
        given = value.dtype.kind
        fits = given == "V" if kind == "s" else (given in "iub") == (kind in "iu") and given in "iubf"
        if not fits or value.dtype.itemsize != size:
            raise SimtError(f"{what} is a {value.dtype}, the parameter has {size} bytes of kind {kind!r}")
        return ctypes.create_string_buffer(value.tobytes(), size)


def _address(value, what):
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, (int, np.integer)) and value == 0:
        return 0
    raise SimtError(f"{what} is a pointer: give an array, or 0 for none")


def _with_lines(message, library):
    """Addresses of code as lines of the source."""

    def line(address):
        asked = ["addr2line", "-e", str(library), address[1]]
        with contextlib.suppress(OSError):
            told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
            if found := re.search(r":(\d+)", told):
                return f"line {found[1]}:"
        return ""

    return re.sub(r"@([0-9a-f]+)", line, message)


def _three(size):
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))


# ---- building ----

FILES = ("simt.hpp", "simt.cpp", "simt_fibers.hpp", "simt_watch.hpp", "simt_faults.hpp", "simt.py")
COMMON = ("g++", "-std=c++17", "-w", "-fPIC", "-fno-exceptions", "-ffp-contract=off")
WATCH = ("-g1", "-fsanitize=thread", "-nodefaultlibs", "-DSIMT_WATCH")  # and not the sanitizer's library
SANITIZERS = (
    "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fsanitize-sections=simt_shared",
    "-DSIMT_SANITIZE",
)  # fmt: skip
KERNEL = re.compile(
    r'extern\s*"C"\s*((?:__global__|void|__launch_bounds__\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|\s)+)(\w+)\s*\('
)
BOUNDS = re.compile(r"__launch_bounds__\s*(\(.*\))", re.DOTALL)
DYNAMIC = re.compile(r"\bextern\s+__shared__\s+(?:__align__\s*\(\s*\w+\s*\)\s*)?([\w\s:]+?)\s*\b(\w+)\s*\[\s*\]\s*;")


def _built(source, options, flags, folder):
    """The path of the library, which is made first where there is none."""
    import fcntl  # of Linux only, as g++ is wanted

    text = "".join((HERE / name).read_text() for name in FILES)
    key = repr((source, options, flags, text, _compiler()))
    library = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    with contextlib.suppress(FileNotFoundError):
        os.utime(library)
        return library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:  # another process may be making it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _build(source, options, flags, library, _runtime(flags, text, folder))
            _forget(folder)
    return library


def _runtime(flags, text, folder):
    """The object file of simt.cpp, which all kernels of these flags share."""
    own = [flag for flag in flags if flag.startswith("-DSIMT_")]
    key = repr((own, text, _compiler()))
    made = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.o"
    if not made.exists():
        _compile([*COMMON, "-O2", *own, "-c", str(HERE / "simt.cpp")], made)
    os.utime(made)
    return made


def _build(source, options, flags, library, runtime):
    code = _around(source, options)
    link = [
        "-shared",
        "-include",
        str(HERE / "simt.hpp"),
        "-x",
        "c++",
        "-",
        "-x",
        "none",
        str(runtime),
        "-lm",
        "-lc",
        "-lgcc",
    ]
    _compile([*COMMON, *options, *flags, *link], library, code)


def _around(source, options):
    """The source in a namespace without a name: so its static arrays are no weak symbols, which no section may mix."""
    expanded = _compile([*COMMON, *options, "-E", "-P", "-x", "c++", "-"], None, source)
    found = [(head, name) for head, name in KERNEL.findall(expanded) if "__global__" in head]
    kernels = [f"SIMT_KERNEL({name}{_bounds(head)})" for head, name in found]
    source = DYNAMIC.sub(r"\1 (&\2)[] = *reinterpret_cast<\1 (*)[]>(simt::dynamic());", source)
    return "\n".join(["namespace {", '#line 1 "kernels.cu"', source, *kernels, "}"])


def _bounds(head):
    found = BOUNDS.search(head)
    return f", {found[1][1:-1]}" if found else ""


def _compile(command, made, code=""):
    """Runs g++; what it makes appears whole or not at all. Without `made`, returns what it prints."""
    new = made.with_suffix(f".{os.getpid()}") if made else None
    where = ["-o", str(new)] if new else []
    ran = subprocess.run([*command, *where], input=code, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SimtError(f"g++ does not compile it:\n{ran.stderr[-4000:]}")
    if new:
        new.replace(made)
    return ran.stdout


@functools.cache
def _compiler():
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _forget(folder):
    old = time.time() - KEPT_S
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < old:
                path.unlink()


# ---- sanitizers ----


@functools.cache
def sanitizer():
    """The address sanitizer's library; None where g++ has none."""
    if NO_COMPILER:
        return None
    asked = ["g++", "-print-file-name=libasan.so"]
    path = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


def run_apart(program, **environment):
    """A Python program in a process of its own, which finds what tests share and the same libraries."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**os.environ, "CONVBENCH_CACHE": str(FOLDER.parent), "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def run_sanitized(program):
    """The same in a process in which modules with sanitize=True can be loaded; skips where g++ has no sanitizer."""
    if sanitizer() is None:
        pytest.skip("g++ has no address sanitizer here")
    return run_apart(program, LD_PRELOAD=str(sanitizer()), ASAN_OPTIONS="detect_leaks=0")

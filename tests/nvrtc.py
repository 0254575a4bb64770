"""NVRTC without a GPU, and without CuPy: from the package nvidia-cuda-nvrtc, through ctypes."""

import ctypes
import functools
import importlib.util
import re
from pathlib import Path

import pytest


@functools.cache
def _library():
    """libnvrtc; None where the package is not installed, or is for another system."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = list(nvidia.submodule_search_locations or ()) if nvidia else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            if "builtins" not in path.name and "alt" not in path.name:
                return ctypes.CDLL(str(path))
    return None


def compiled(source, architecture, options, want="CUBIN"):
    """(image, log) of CUDA source for "sm_90", or with want="PTX" for "compute_90"; skips the test without NVRTC."""
    nvrtc = _library()
    if nvrtc is None:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    given = [option.encode() for option in (*options, f"-arch={architecture}", "--ptxas-options=-v")]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    log = _text(nvrtc, program, "ProgramLog").decode()
    assert status == 0, log
    image = _text(nvrtc, program, want)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image, log


def _text(nvrtc, program, what):
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{what}")(program, text) == 0
    return text.raw.rstrip(b"\0")


def report(log):
    """What ptxas says of each kernel: {"registers", "stack_bytes", "spilled_bytes"}."""
    found, kernel = {}, None
    for line in log.splitlines():
        if named := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found.setdefault(named[1], {})
        elif kernel is not None and (
            frame := re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", line)
        ):
            stack, *spilled = map(int, frame)
            kernel |= {"stack_bytes": stack, "spilled_bytes": sum(spilled)}
        elif kernel is not None and (used := re.search(r"Used (\d+) registers", line)):
            kernel["registers"] = int(used[1])
    return found

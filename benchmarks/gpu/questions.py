"""The open questions about CUDA's libraries on this GPU, each by one small program: a JSON line and a sentence.

    python benchmarks/gpu/questions.py PROGRAM [--out FILE]

Programs: floor, deviceless, fft, legacy, plans, products, transforms, own-kernels, kernels, sweep. docs/gpu.md lists
the questions. `make gpu-report` runs each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import answers
from parts import QUESTIONS

from convbench.errors import ConvbenchError

MODULES = {
    "deviceless": "ask_cudnn", "fft": "ask_cudnn", "plans": "ask_cudnn", "kernels": "ask_cudnn", "legacy": "ask_legacy",
}  # fmt: skip
"""Where a program is, if not in ask_cuda."""


def main() -> None:
    """Asks, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=QUESTIONS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the lines there, too")
    arguments = parser.parse_args()
    from convbench.backends import cuda

    if reason := cuda.unusable():
        sys.exit(reason)
    from ask_cuda import event_timer

    module = importlib.import_module(MODULES.get(arguments.program, "ask_cuda"))
    ask = getattr(module, arguments.program.replace("-", "_"))
    device = cuda.device()
    found = []
    try:
        for answer in ask(device, event_timer(device)):
            print(json.dumps(asdict(answer), default=str), answer.sentence, sep="\n", flush=True)
            found.append(answer)
            if arguments.out:
                answers.write(found, arguments.out)
    except ConvbenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""Which convolutions cuDNN has plans for, without a GPU: how many may be taken, and whether the first of them builds.

    python benchmarks/cudnn_coverage.py

Prints a row per pass, epilogue and number of axes, a column per precision and layout. Plans are listed, and compiled,
for the GPU that convbench/backends/cudnn/h200.json describes.
"""

import functools
import itertools
import time

from convbench.backends.cudnn.deviceless import described_gpu, descriptor, load_driver
from convbench.backends.cudnn.frontend import Graph, list_plans, missing, version
from convbench.backends.cudnn.graphs import describe
from convbench.errors import UnsupportedError
from convbench.problem import PRECISIONS, Case, ConvPass, Epilogue, Layout, Problem

FIELDS = {
    1: {"input_size": (1024,), "filter_size": (9,), "padding": ((4, 4),)},
    2: {"input_size": (28, 28), "filter_size": (3, 3), "padding": ((1, 1),) * 2},
    3: {"input_size": (8, 16, 16), "filter_size": (3, 3, 3), "padding": ((1, 1),) * 3},
}
LAYOUTS = (Layout.NCHW, Layout.NHWC)


def cell(cudnn, properties, case, reasons):
    """Of 14 plans 11 may be taken, and the first of them builds: "11/14"; else a letter that stands for the reason."""
    make = functools.partial(Graph, cudnn, describe(case), properties=properties)
    try:
        plans = list_plans(make)
        able = [plan for plan in plans if plan.reason(case.math_mode, None) is None]
        if able:
            make().build(able[0].name)
            return f"{len(able)}/{len(plans)}"
        text = plans[0].reason(case.math_mode, None)
    except UnsupportedError as error:
        plans, text = [], str(error)
    return f"0/{len(plans)} {reasons.setdefault(text, chr(ord('a') + len(reasons)))}"


def main():
    """Prints the table."""
    if reason := missing():
        raise SystemExit(reason)
    load_driver()
    import cudnn

    properties, reasons, started = cudnn.create_device_properties(descriptor()), {}, time.perf_counter()
    columns = [*itertools.product(PRECISIONS, LAYOUTS)]
    print(f"cuDNN {'.'.join(map(str, version(cudnn)))}, front end {cudnn.__version__}, for {described_gpu()}\n")
    print("| pass |", " | ".join(f"{precision} {layout}" for precision, layout in columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    rows = [*itertools.product(ConvPass, [Epilogue.NONE], FIELDS)]
    rows += itertools.product([ConvPass.FPROP], [Epilogue.BIAS, Epilogue.BIAS_RELU], FIELDS)
    for conv_pass, epilogue, ndim in rows:
        cells = []
        for precision, layout in columns:
            dtype, math_mode = PRECISIONS[precision]
            problem = Problem(batch=4, in_channels=32, out_channels=64, **FIELDS[ndim])
            case = Case(suite="", name="", problem=problem, conv_pass=conv_pass, dtype=dtype, math_mode=math_mode,
                        layout=layout, epilogue=epilogue)  # fmt: skip
            cells.append(cell(cudnn, properties, case, reasons))
        what = conv_pass if epilogue is Epilogue.NONE else f"{conv_pass} {epilogue}"
        print(f"| {what} {ndim}-D |", " | ".join(cells), "|", flush=True)
    print("\n" + "\n".join(f"{letter}: {text}" for text, letter in reasons.items()))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

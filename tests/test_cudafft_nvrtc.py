"""The kernels of cudafft compiled for three GPUs, without one: within their registers, hardly any in memory."""

import pytest
from nvrtc import compiled, report

from convbench.backends.cudafft import kernels

SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}
"""Of a multiprocessor; a block may have 1 KiB less, and costs 1 KiB besides (CUDA programming guide)."""
REGISTERS = 65536
"""Of a multiprocessor."""
PARTITIONS = 4
"""Of a multiprocessor, each with a quarter of the registers: warps are dealt out among them."""
MOST_REGISTERS = {
    "16": (32, 40, 40), "32": (40, 56, 56), "64": (40, 56, 56), "128": (56, 80, 80), "256": (56, 72, 72),
    "512": (72, 72, 96), "1024": (96, 128, 128), "8x8": (48, 40, 48), "16x16": (64, 64, 80), "32x32": (120, 120, 128),
    "64x64": (168, 168, 168), "8x8x8": (48, 48, 48), "16x16x16": (72, 64, 96),
}  # fmt: skip
"""Of forward, inverse and fused, multiples of 8, as they are handed out."""
SPILLED_BYTES = {"64x64": 16}
"""A line of 64 complex numbers takes 128 of the 168 registers that three warps a partition leave."""


@pytest.mark.parametrize("transform", kernels.TRANSFORMS, ids=lambda transform: transform.name)
@pytest.mark.parametrize("architecture", SHARED_BYTES)
def test_every_transform_compiles_within_its_registers(architecture, transform):
    _, log = compiled(kernels.source(), architecture, kernels.options(transform))
    found = report(log)
    assert set(found) == set(kernels.KERNELS)
    for kernel, most in zip(kernels.KERNELS, MOST_REGISTERS[transform.name], strict=True):
        of = found[kernel]
        assert of["registers"] <= most, kernel
        assert of["spilled_bytes"] <= SPILLED_BYTES.get(transform.name, 0), kernel
        assert of["stack_bytes"] <= SPILLED_BYTES.get(transform.name, 0), kernel
        blocks = transform.fused_blocks if kernel == "fused" else transform.blocks
        warps = -(-blocks * -(-transform.threads // 32) // PARTITIONS)
        assert warps * 32 * -(-of["registers"] // 8) * 8 <= REGISTERS // PARTITIONS, kernel


@pytest.mark.parametrize("transform", kernels.TRANSFORMS, ids=lambda transform: transform.name)
def test_every_transform_has_the_shared_memory_that_it_wants(transform):
    assert transform.shared_bytes + 1024 <= min(SHARED_BYTES.values())
    blocks = transform.blocks * (transform.shared_bytes + 1024)
    assert blocks <= SHARED_BYTES["sm_90"], "fewer blocks fit than registers are kept for"


@pytest.mark.parametrize("architecture", SHARED_BYTES)
def test_products_compile_without_memory_of_their_own(architecture):
    _, log = compiled(kernels.product_source(), architecture, kernels.product_options())
    found = report(log)
    assert set(found) == {"fprop", "dgrad", "wgrad", "split"}
    assert all(of["registers"] <= 64 and not of["stack_bytes"] + of["spilled_bytes"] for of in found.values()), found

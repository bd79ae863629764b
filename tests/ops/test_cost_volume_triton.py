"""The kernels in the interpreter, as machine code for GPUs that this machine lacks, and on a GPU if there is one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.ops.examples import FORMATS, features, values_and_gradient
from tests.support import assert_close
from torch import Tensor

from hcml_lightning.ops import cost_volume, cost_volume_reference
from hcml_lightning.ops.cost_volume import NORM_EPS, num_displacements

pytest.importorskip("triton")
from hcml_lightning.ops import cost_volume_triton as kernels

interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="the kernels run on the GPU itself"
)
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class KernelFunction(torch.autograd.Function):
    """The launchers alone, for tensors in memory that the interpreter can read."""

    @staticmethod
    def forward(ctx, x: Tensor, d: int, s: int, gradient_format: str = "contiguous") -> Tensor:
        ctx.save_for_backward(x)
        ctx.arguments, ctx.format = (d, s, NORM_EPS), FORMATS[gradient_format]
        costs = x.new_empty(x.shape[0], num_displacements(d, s), *x.shape[2:])
        costs = costs.to(memory_format=ctx.format)
        kernels.write_costs(x, costs, d, s, NORM_EPS)
        return costs

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        gradient = torch.empty_like(x)
        kernels.write_gradient(grad.to(memory_format=ctx.format), x, gradient, *ctx.arguments)
        return gradient, None, None, None


def kernel(gradient_format: str = "contiguous") -> Callable[[Tensor, int, int], Tensor]:
    return lambda x, d, s: KernelFunction.apply(x, d, s, gradient_format)


def compare(function: Callable[[Tensor, int, int], Tensor], x: Tensor, d: int, s: int) -> None:
    costs, gradient = values_and_gradient(function, x, d, s)
    expected = values_and_gradient(cost_volume_reference, x.double(), d, s)
    assert costs.dtype == gradient.dtype == x.dtype
    assert_close("costs", costs, expected[0])
    assert_close("gradient", gradient, expected[1])


@interpreted
@pytest.mark.parametrize(
    ("shape", "d", "s"),
    [
        ((1, 3, 2, 7, 5), 6, 2),
        ((1, 17, 2, 13, 9), 6, 2),
        ((2, 2, 1, 3, 4), 2, 1),
        ((1, 2, 2, 3, 5), 2, 3),  # one displacement
        ((1, 2, 2, 1, 1), 6, 2),  # grids without a pixel
        ((1, 3, 2, 2, 67), 6, 2),  # tiles next to each other
        ((1, 3, 2, 5, 6), 4, 1),  # nine displacements a row
        ((1, 2, 1, 4, 18), 9, 1),  # surroundings in several pieces
        ((1, 130, 1, 2, 3), 2, 2),  # channels in several pieces
    ],
    ids=str,
)
def test_agrees_with_reference(shape: tuple[int, ...], d: int, s: int) -> None:
    compare(kernel(), features(*shape, dtype=torch.float32), d, s)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_all_dtypes_and_memory_formats_agree_with_reference(
    dtype: torch.dtype, memory_format: str
) -> None:
    x = features(1, 5, 2, 6, 5, dtype=dtype, memory_format=memory_format)
    compare(kernel("channels_last" if memory_format == "contiguous" else "contiguous"), x, 4, 2)


@interpreted
def test_wide_maps_in_half_precision_agree_with_reference() -> None:
    compare(kernel(), features(1, 3, 2, 2, 99, dtype=torch.float16), 6, 2)


@interpreted
@pytest.mark.parametrize(("shape", "d", "s"), [((1, 2, 2, 3, 3), 1, 1), ((1, 2, 1, 3, 4), 2, 2)])
def test_gradient_is_the_derivative(shape: tuple[int, ...], d: int, s: int) -> None:
    x = features(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kernel()(x, d, s), (x,), fast_mode=True)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_zero_vector_has_zero_cost_and_finite_gradient(dtype: torch.dtype) -> None:
    x = features(1, 4, 2, 4, 4, dtype=dtype)
    x[:, :, 0, 2, 2] = 0
    costs, gradient = values_and_gradient(kernel(), x, 1, 1)
    assert not costs[:, :, 0, 2, 2].any()
    assert gradient.isfinite().all()


@interpreted
def test_expanded_gradient_is_read_correctly() -> None:
    x = features(1, 2, 2, 4, 3, dtype=torch.float32)
    ones, gradient = torch.ones((), dtype=x.dtype).expand(1, 9, 2, 4, 3), torch.empty_like(x)
    kernels.write_gradient(ones, x, gradient, 1, 1, NORM_EPS)
    leaf = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(cost_volume_reference(leaf, 1, 1).sum(), leaf)
    assert_close("gradient", gradient, expected)


# Budgets of static instructions for the costs and for the gradient, at the widest maps and at the most channels: a
# tenth above what Triton 3.6 and 3.9 generate, so that a costlier change is noticed.
BUDGETS = {
    ("sm_80", "bfloat16", "channels_last"): {"res2": (760, 2780), "res4": (705, 1970)},
    ("sm_80", "bfloat16", "contiguous"): {"res2": (760, 3210), "res4": (705, 2970)},
    ("sm_90", "bfloat16", "channels_last"): {"res2": (775, 2890), "res4": (705, 1850)},
    ("sm_90", "float32", "channels_last"): {"res2": (900, 2740), "res4": (1170, 6270)},
}


@pytest.mark.parametrize(("gpu_name", "dtype", "memory_format"), BUDGETS)
def test_machine_code_stays_within_its_budget(
    gpu_name: str, dtype: str, memory_format: str
) -> None:
    script = Path(__file__).with_name("ahead_of_time.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(script), gpu_name, dtype, memory_format]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in output.stdout.splitlines()]
    names = ("unit_kernel", "cost_volume_fwd_kernel", "cost_volume_bwd_kernel")
    assert {(row["kernel"], row["level"]) for row in rows} == {
        (name, level) for name in names for level in ("res2", "res4")
    }
    for row in rows:
        assert row["STL"] == row["LDL"] == 0, f"spilled registers: {row}"
        assert row["shared"] < 99 << 10, f"too much shared memory for small GPUs: {row}"
        if row["kernel"] != "unit_kernel":
            assert row["HMMA"] + row["HGMMA"] > 0, f"no tensor cores: {row}"
            forward, backward = BUDGETS[gpu_name, dtype, memory_format][row["level"]]
            budget = forward if "fwd" in row["kernel"] else backward
            assert row["instructions"] <= budget, f"more than {budget} instructions: {row}"


@pytest.mark.parametrize(
    ("shape", "d", "s", "dtype", "suited"),
    [
        ((8, 32, 16, 56, 56), 6, 2, torch.float32, True),
        ((1, 256, 1, 14, 14), 6, 2, torch.bfloat16, True),
        (
            (1, 257, 1, 14, 14),
            6,
            2,
            torch.bfloat16,
            False,
        ),  # compiles for a minute and spills registers
        ((1, 8, 2, 40, 90), 9, 1, torch.bfloat16, True),
        ((1, 8, 2, 40, 90), 9, 1, torch.float32, False),  # 128 KiB of shared memory
        ((1, 8, 2, 56, 56), 25, 1, torch.bfloat16, False),
        ((1, 8, 1024, 224, 224), 6, 2, torch.bfloat16, False),  # offsets of more than 32 bits
    ],
    ids=str,
)
def test_suits_accepts_only_what_the_kernels_support(
    shape: tuple[int, ...], d: int, s: int, dtype: torch.dtype, suited: bool
) -> None:
    assert kernels.suits(torch.empty(shape, dtype=dtype, device="meta"), d, s) is suited


def test_tensor_with_offsets_above_32_bits_is_copied() -> None:
    """Where the batch is not outermost, the channels of one sample may lie that far apart."""
    near = torch.empty(1000, 49, 16, 56, 56, device="meta")
    assert kernels.reachable(near) is near
    far = torch.empty(49, 1000, 16, 56, 56, device="meta").transpose(0, 1)
    assert kernels.reachable(far).is_contiguous()


class TestOnGPU:
    pytestmark = gpu

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
    )
    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize(
        ("shape", "d", "s"),
        [
            ((2, 32, 4, 56, 56), 6, 2),
            ((2, 64, 4, 28, 28), 6, 2),
            ((2, 128, 4, 14, 14), 6, 2),
            ((1, 17, 3, 13, 9), 6, 2),
            ((1, 200, 2, 7, 5), 4, 1),
            ((1, 8, 2, 40, 90), 9, 1),
            ((1, 3, 1, 80, 75), 2, 3),
        ],
        ids=str,
    )
    def test_agrees_with_reference(
        self, shape: tuple[int, ...], d: int, s: int, memory_format: str, dtype: torch.dtype
    ) -> None:
        compare(
            cost_volume, features(*shape, dtype=dtype, memory_format=memory_format).cuda(), d, s
        )

    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_operator_passes_opcheck(self, memory_format: str) -> None:
        x = features(1, 4, 3, 9, 10, dtype=torch.float32, memory_format=memory_format).cuda()
        torch.library.opcheck(torch.ops.hcml.cost_volume.default, (x, 6, 2))

    def test_results_are_bitwise_reproducible(self) -> None:
        x = features(2, 32, 4, 28, 28, dtype=torch.bfloat16).cuda()
        first, second = (values_and_gradient(cost_volume, x, 6, 2) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

    def test_compiled_function_agrees_with_eager(self) -> None:
        x = features(1, 8, 2, 20, 20, dtype=torch.float32).cuda()
        function = torch.compile(lambda x, d, s: cost_volume(x, d, s).relu(), fullgraph=True)
        expected = values_and_gradient(lambda x, d, s: cost_volume(x, d, s).relu(), x, 6, 2)
        actual = values_and_gradient(function, x, 6, 2)
        assert_close("costs", actual[0], expected[0])
        assert_close("gradient", actual[1], expected[1])

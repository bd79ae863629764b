"""Every operator against a slow reference, for random shapes, dtypes, memory layouts and magnitudes."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.ops.test_warp import warp_by_loops
from tests.strategies import dtypes, few, fewer, layouts, normal, seeds, sizes
from tests.support import TOLERANCE, assert_close
from torch import Tensor

from hcml_lightning.ops import cost_volume, cost_volume_reference, warp
from hcml_lightning.ops.cost_volume import NORM_EPS, num_displacements

# The norm of the smallest is far below the clamp, and the squares of the largest still fit into float32.
SCALES = (1e-30, 1e-7, 1.0, 1e4, 1e17)
scales = st.sampled_from(SCALES)
displacements = st.integers(0, 4)
strides = st.integers(1, 3)


def representable(dtype: torch.dtype, scale: float) -> float:
    """The scale, limited to values whose sums the dtype can hold."""
    return min(scale, 1e4) if dtype == torch.float16 else scale


def compare(actual: tuple[Tensor, Tensor], x: Tensor, grad: Tensor, d: int, s: int) -> None:
    """Compare costs and gradient with the reference in float64, the gradient as for features of length one."""
    leaf = x.double().requires_grad_()
    expected = cost_volume_reference(leaf, d, s)
    assert_close("costs", actual[0], expected)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    length = x.double().norm(dim=1, keepdim=True).clamp_min(NORM_EPS)
    # The gradient of a short vector may exceed the range of float16: it is clamped.
    largest = torch.finfo(x.dtype).max
    wanted = wanted.clamp(-largest, largest) * length
    assert_close("gradient", (actual[1].double() * length).to(x.dtype), wanted)


@few
@given(sizes(2, 5, 3, 9, 9), displacements, strides, dtypes, layouts, layouts, scales, seeds)
def test_cost_volume_agrees_with_reference(
    shape: tuple[int, ...],
    d: int,
    s: int,
    dtype: torch.dtype,
    layout: str,
    grad_layout: str,
    scale: float,
    seed: int,
) -> None:
    x = normal(shape, seed, dtype, layout, representable(dtype, scale))
    grad = normal((shape[0], num_displacements(d, s), *shape[2:]), seed + 1, dtype, grad_layout)
    leaf = x.requires_grad_()
    costs = cost_volume(leaf, d, s)
    (gradient,) = torch.autograd.grad(costs, leaf, grad)
    compare((costs, gradient), x.detach(), grad, d, s)
    assert costs.abs().max() <= 1 + TOLERANCE[dtype]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the GPU has its own tests")
@fewer
@given(
    sizes(1, 3, 2, 3, 4),
    st.sampled_from([(1, 1), (2, 2)]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    layouts,
    scales,
    seeds,
)
def test_kernels_agree_with_reference(
    shape: tuple[int, ...],
    reach: tuple[int, int],
    dtype: torch.dtype,
    layout: str,
    scale: float,
    seed: int,
) -> None:
    kernels = pytest.importorskip("hcml_lightning.ops.cost_volume_triton")
    x = normal(shape, seed, dtype, layout, representable(dtype, scale))
    grad = normal((shape[0], num_displacements(*reach), *shape[2:]), seed + 1, dtype, layout)
    costs, gradient = torch.empty_like(grad), torch.full_like(x, torch.nan)
    costs = costs.contiguous().fill_(torch.nan)
    gradient = gradient.contiguous()
    kernels.write_costs(x, costs, *reach, NORM_EPS)
    kernels.write_gradient(grad, x, gradient, *reach, NORM_EPS)
    compare((costs, gradient), x, grad, *reach)


@few
@given(sizes(2, 40, 2, 4, 4), dtypes, seeds)
def test_cosine_of_a_vector_with_itself_is_one(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    x = normal(shape, seed, dtype)
    last = cost_volume(x, 0, 1)[:, :, -1]
    torch.testing.assert_close(last, torch.ones_like(last), rtol=0, atol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_vector_whose_square_overflows_has_zero_cost(dtype: torch.dtype) -> None:
    x = normal((1, 4, 2, 3, 3), 0, dtype, scale=1e30).requires_grad_()
    costs = cost_volume(x, 1, 1)
    (gradient,) = torch.autograd.grad(costs.sum(), x)
    assert not costs.any()
    assert gradient.isfinite().all()


# Positions are computed in float32, or in float64 for float64 inputs.
WARP_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


@few
@given(
    sizes(2, 2, 5, 4), dtypes, layouts, layouts, st.sampled_from([0.0, 0.5, 3.0, 1e4, 1e12]), seeds
)
def test_warp_agrees_with_loops(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    flow_layout: str,
    reach: float,
    seed: int,
) -> None:
    frames = normal(shape, seed, dtype, layout).requires_grad_()
    flow_shape, flow_dtype = (shape[0], 2, *shape[2:]), torch.promote_types(dtype, torch.float32)
    flow = normal(flow_shape, seed + 1, flow_dtype, flow_layout, reach).requires_grad_()
    warped, valid = warp(frames, flow)
    slow = frames.detach().double().requires_grad_()
    expected, inside = warp_by_loops(slow, flow.detach().double())
    assert torch.equal(valid, inside)
    tolerance = WARP_TOLERANCE[dtype]
    torch.testing.assert_close(warped.double(), expected, rtol=0, atol=tolerance)
    grad = normal(shape, seed + 2, dtype)
    gradient, flow_gradient = torch.autograd.grad(warped, (frames, flow), grad)
    (wanted,) = torch.autograd.grad(expected, slow, grad.double())
    torch.testing.assert_close(gradient.double(), wanted, rtol=tolerance, atol=4 * tolerance)
    assert flow_gradient.isfinite().all()

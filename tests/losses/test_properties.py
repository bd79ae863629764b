"""Every loss against its formula in float64, for random shapes, dtypes, memory layouts and magnitudes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import HALVES, dtypes, few, layouts, normal, seeds, sizes
from torch import Tensor
from torch.nn import functional as F

from hcml_lightning.losses import charbonnier, contrastive_loss, photometric_loss, smoothness_loss

# Losses are computed in float32 or better; what comes in and what goes back is rounded to the dtype.
VALUE = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 5e-5, torch.bfloat16: 5e-5}
SMALLEST = 1e-4  # what is smaller than this counts as zero
GRADIENT = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


def compare(
    loss: Tensor,
    leaves: list[Tensor],
    slow: Tensor,
    slow_leaves: list[Tensor],
    unit: float | Tensor = 1.0,
) -> None:
    """Compare values and gradients; gradients are divided by a unit that brings them to about one."""
    dtype = leaves[0].dtype
    torch.testing.assert_close(loss.double(), slow, rtol=VALUE[dtype], atol=VALUE[dtype])
    actual = torch.autograd.grad(loss, leaves)
    expected = torch.autograd.grad(slow, slow_leaves)
    finfo = torch.finfo(dtype)
    # A dtype cannot exceed its largest number, and near zero it rounds to multiples of its smallest.
    largest, smallest = finfo.max, finfo.smallest_normal * finfo.eps
    for one, wanted in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        wanted = wanted.clamp(-largest, largest) / unit
        error = ((one.double() / unit - wanted).abs() - smallest / unit).max()
        assert (error / wanted.abs().max().clamp_min(SMALLEST)).item() < GRADIENT[dtype]


def doubles(*leaves: Tensor) -> list[Tensor]:
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


def similarities(predicted: Tensor, targets: Tensor, eps: float) -> Tensor:
    return F.normalize(predicted, dim=1, eps=eps) @ F.normalize(targets, dim=1, eps=eps).T


@settings(few, max_examples=40)
@given(
    sizes(20, 9, 12),
    dtypes,
    layouts,
    st.sampled_from([1e-12, 3e-7, 3e-4, 1.0, 1e4]),
    st.sampled_from([1e-12, 1.0, 1e4]),
    st.sampled_from([0.07, 0.005, 10.0]),
    st.sampled_from([1, 30, 1 << 20]),
    seeds,
)
def test_contrastive_loss_equals_its_formula(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    scale: float,
    target_scale: float,
    tau: float,
    block: int,
    seed: int,
) -> None:
    count, others, channels = shape
    predicted = normal((count, channels), seed, dtype, layout, scale).requires_grad_()
    targets = normal((others, channels), seed + 1, dtype, layout, target_scale)
    positive = torch.randint(others, (count,), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hcml_lightning.losses.contrastive.BLOCK", block)
        loss = contrastive_loss(predicted, targets, positive, tau)
    (slow,) = doubles(predicted)
    eps = 1e-3 if dtype in HALVES else 1e-6
    wanted = F.cross_entropy(similarities(slow, targets.double(), eps) / tau, positive)
    length = slow.detach().norm(dim=1, keepdim=True).clamp_min(eps)
    compare(loss, [predicted], wanted, [slow], unit=1 / (tau * count * length))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=["tiny", "huge"])
def test_vectors_whose_squares_overflow_or_underflow_stay_finite(
    dtype: torch.dtype, scale: float
) -> None:
    largest = torch.finfo(dtype).max
    values = normal((6, 4), 0, torch.float64, scale=scale).clamp(-largest, largest)
    predicted = values.to(dtype).requires_grad_()
    loss = contrastive_loss(predicted, normal((5, 4), 1, dtype), torch.arange(6) % 5)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@few
@given(sizes(40), dtypes, layouts, st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4]), seeds)
def test_charbonnier_equals_its_formula(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, scale: float, seed: int
) -> None:
    z = normal(shape, seed, dtype, layout, scale).requires_grad_()
    (slow,) = doubles(z)
    compare(charbonnier(z).mean(), [z], (slow**2 + 1e-6).pow(0.45).mean(), [slow])


@few
@given(sizes(2, 3, 5, 6), dtypes, layouts, layouts, st.floats(0, 1), seeds)
def test_photometric_loss_equals_its_formula(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    warped_layout: str,
    share: float,
    seed: int,
) -> None:
    frames = normal(shape, seed, dtype, layout, 0.3).requires_grad_()
    warped = normal(shape, seed + 1, dtype, warped_layout, 0.3).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(shape[0], 1, *shape[2:], generator=generator) < share
    loss = photometric_loss(frames, warped, valid)
    slow = doubles(frames, warped)
    # The loss sees the difference rounded to the dtype.
    difference = slow[0] - slow[1]
    rounded = (frames - warped).detach().double()
    difference = difference + (rounded - difference.detach())
    wanted = torch.where(valid, (difference**2 + 1e-6).pow(0.45), 0.0).sum() / frames.numel()
    compare(loss, [frames, warped], wanted, slow)


@few
@given(sizes(2, 5, 6), dtypes, layouts, st.sampled_from([0.0, 1e-6, 1.0, 1e3]), seeds)
def test_smoothness_loss_equals_its_formula(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, scale: float, seed: int
) -> None:
    flow = normal((shape[0], 2, *shape[1:]), seed, dtype, layout, scale).requires_grad_()
    loss = smoothness_loss(flow)
    (slow,) = doubles(flow)
    wanted = slow.sum() * 0
    for axis, component in ((a, c) for a in (2, 3) for c in (0, 1)):
        rounded = flow.detach()[:, component].diff(dim=axis - 1).double()
        step = slow[:, component].diff(dim=axis - 1)
        if step.numel():
            step = step + (rounded - step.detach())
            wanted = wanted + (step**2 + 1e-6).pow(0.45).mean()
    compare(loss, [flow], wanted, [slow])

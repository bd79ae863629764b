"""Inputs for the tests of the cost volume, and Eq. 1 as loops over pixels."""

import torch
from torch import Tensor

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


def features(
    *shape: int, dtype: torch.dtype = torch.float64, memory_format: str = "contiguous"
) -> Tensor:
    """Normally distributed features of shape (B, C, T, H, W), the same on every device."""
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return values.to(memory_format=FORMATS[memory_format])


def cost_volume_by_loops(features: Tensor, d: int, s: int) -> Tensor:
    """Eq. 1 for every pair of pixels, one at a time."""
    steps = range(-(d // s) * s, d // s * s + 1, s)
    batch, _, frames, height, width = features.shape
    costs = features.new_zeros(batch, len(steps), len(steps), frames, height, width)
    for b, t, y, x in torch.cartesian_prod(
        *map(torch.arange, (batch, frames, height, width))
    ).tolist():
        u = features[b, :, t, y, x]
        for i, dy in enumerate(steps):
            for j, dx in enumerate(steps):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    v = features[b, :, min(t + 1, frames - 1), y + dy, x + dx]
                    costs[b, i, j, t, y, x] = u @ v / (u.norm() * v.norm()).clamp_min(1e-12)
    return costs.flatten(1, 2)


def values_and_gradient(
    function: object, features: Tensor, d: int, s: int
) -> tuple[Tensor, Tensor]:
    """Costs that an implementation computes from features, and the features' gradient for fixed random weights."""
    leaf = features.detach().requires_grad_()
    costs = function(leaf, d, s)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(costs.shape, generator=generator, dtype=torch.float64).to(costs)
    return costs, torch.autograd.grad(costs, leaf, weights)[0]

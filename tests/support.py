"""How close two tensors must be: one measure and one table for all tests."""

import torch
from torch import Tensor

# Relative root-mean-square error that the dtype of the result allows: a few of its rounding steps.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}

# Errors are relative to at least this scale: tests work with values around one.
SMALLEST_SCALE = 1e-3


def assert_close(name: str, actual: Tensor, expected: Tensor) -> None:
    """Compare by relative root-mean-square error; `expected` may have a finer dtype than `actual`."""
    assert actual.shape == expected.shape, (
        f"{name}: {tuple(actual.shape)} != {tuple(expected.shape)}"
    )
    assert actual.isfinite().all(), f"{name} is not finite"
    difference = actual.detach().cpu().double() - expected.detach().cpu().double()
    scale = expected.detach().cpu().double().square().mean().sqrt().clamp_min(SMALLEST_SCALE)
    error = (difference.square().mean().sqrt() / scale).item()
    limit = TOLERANCE[actual.dtype]
    assert error <= limit, f"{name}: relative error {error:.1e} above {limit:.0e}"

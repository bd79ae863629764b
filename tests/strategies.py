"""Tensors of random shapes, dtypes, memory layouts and magnitudes, for property tests."""

from collections.abc import Sequence

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

# The same examples in every run, and none kept on disk; without a deadline, since a machine may be busy.
few = settings(max_examples=15, deadline=None, derandomize=True, database=None)
fewer = settings(few, max_examples=4)

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)
LAYOUTS = ("contiguous", "reversed", "gaps", "expanded")

dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**16)


def sizes(*bounds: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with axes from 1 to each of the bounds."""
    return st.tuples(*(st.integers(1, bound) for bound in bounds))


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same numbers in another memory layout; only `expanded` repeats the first sample, without copying it."""
    if layout == "reversed":
        # Axes in the opposite order in memory, similar to channels last.
        order = tuple(reversed(range(values.ndim)))
        return values.permute(order).contiguous().permute(order)
    if layout == "gaps":
        spread = values.new_full((*values.shape, 2), torch.nan)
        spread[..., 0] = values
        return spread[..., 0]
    if layout == "expanded":
        return values[:1].expand_as(values)
    return values.contiguous()


def normal(
    shape: Sequence[int],
    seed: int,
    dtype: torch.dtype,
    layout: str = "contiguous",
    scale: float = 1,
) -> Tensor:
    """Normally distributed numbers, rounded to a dtype."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return laid_out((scale * values).to(dtype), layout)

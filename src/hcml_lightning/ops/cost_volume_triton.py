"""[features → **cost volume on a GPU** → prime motion block]

How the maps are cut, and the launches of the kernels in `cost_volume_kernels.py`. Imported only when used.
"""

# Neither Triton nor `device_of` says its types.
# mypy: disable-error-code="no-untyped-call"

import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcml_lightning.ops.cost_volume_kernels import (
    cost_volume_bwd_kernel,
    cost_volume_fwd_kernel,
    unit_kernel,
)


class Tiling(NamedTuple):
    """How the maps are cut.

    Attributes:
        constants: values of the kernels' constants, by name.
        forward_options: how the kernel of the costs is compiled.
        backward_options: how the kernel of the gradient is compiled, and the constants that differ in it.
        tiles_y: tiles below each other in a grid.
        tiles_x: tiles beside each other in a grid.
        rows: rows of a padded grid, HP.
        columns: columns of a padded grid, WP.
    """

    constants: dict[str, Any]
    forward_options: dict[str, int]
    backward_options: dict[str, int]
    tiles_y: int
    tiles_x: int
    rows: int
    columns: int


def tiling(features: Tensor, max_displacement: int, stride: int) -> Tiling:
    """Choose the tiles for features of shape (B, C, T, H, W).

    The choices are the largest that compile without spilled registers for compute capability 8.0 and 9.0, and within
    the 99 KiB of shared memory that the smallest GPUs have. In float32 every product is three, chained, and all
    warps are then laid along the pixels: more than 16 of them would be computed several times over.
    """
    half = features.element_size() == 2
    radius, width = max_displacement // stride, -(-features.shape[4] // stride)
    slots = triton.next_power_of_2(2 * radius + 1)
    widest = 32 if half else 16
    if width <= widest:
        pixels, halo = max(16, slots, triton.next_power_of_2(width)), 0
    else:
        pixels, halo = max(widest, 2 * slots), radius
    block = min(128, max(16, triton.next_power_of_2(features.shape[1])))
    seen = min(8192 // pixels, 16384 // block) if half else min(64, 4096 // block)
    rows_seen = max(1, min(slots, seen // pixels))
    rows = 4
    tiles_y = -(-features.shape[3] // (stride * rows))
    tiles_x = -(-width // (pixels - 2 * halo))
    constants = {
        "CP": -(-features.shape[1] // block) * block,
        "RADIUS": radius,
        "STRIDE": stride,
        "HALO": halo,
        "ROWS": rows,
        "NX": pixels,
        "NY": rows_seen,
        "NK": slots,
        "BC": block,
        "ACC": tl.float64 if features.dtype == torch.float64 else tl.float32,
        # tf32 alone keeps 10 bits; three products of it come to float32 and still run on tensor cores.
        "PRECISION": "tf32x3" if features.dtype == torch.float32 else "ieee",
    }
    stages = {"num_stages": 2 if half else 1}
    warps = min(4 if half else 8, block // 8)
    backward = {"num_warps": max(warps, block // 16)}
    if half and features.stride(1) > 1:
        # Every element of the gradient has an address of its own, and the addresses have no room beside the rest.
        backward = {"num_warps": 8, "NY": min(rows_seen, 4)}
    last_row_seen = -(-(2 * radius + 1) // rows_seen) * rows_seen - 1
    return Tiling(
        constants,
        {"num_warps": warps, **stages},
        {**backward, **stages},
        tiles_y,
        tiles_x,
        rows=tiles_y * rows + last_row_seen,
        columns=tiles_x * (pixels - 2 * halo) + 2 * halo,
    )


def _operand_dtype(dtype: torch.dtype) -> torch.dtype:
    # The interpreter multiplies the bits of bfloat16: https://github.com/triton-lang/triton/issues/11584
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return torch.float32 if interpreted and dtype == torch.bfloat16 else dtype


def _unit(features: Tensor, tiles: Tiling, eps: float) -> tuple[Tensor, Tensor]:
    batch, channels, frames, height, width = features.shape
    constants = tiles.constants
    grids = (batch, frames, constants["STRIDE"], constants["STRIDE"], tiles.rows, tiles.columns)
    unit = features.new_empty(*grids, constants["CP"], dtype=_operand_dtype(features.dtype))
    inverse_dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    inverse = features.new_empty(grids, dtype=inverse_dtype)
    pixels = max(16, 4096 // constants["BC"])
    blocks = triton.cdiv(tiles.rows * tiles.columns, pixels)
    unit_kernel[(batch * frames * constants["STRIDE"] ** 2 * blocks,)](
        *(features, unit, inverse),
        *(frames, height, width, tiles.rows, tiles.columns, blocks),
        *features.stride(),
        EPS=eps,
        C=channels,
        BP=pixels,
        **{name: constants[name] for name in ("CP", "RADIUS", "STRIDE", "HALO", "BC", "ACC")},
    )
    return unit, inverse


def write_costs(
    features: Tensor, costs: Tensor, max_displacement: int, stride: int, eps: float
) -> None:
    """As `cost_volume_cpu.write_costs`, by two kernels."""
    batch, _, frames, height, width = features.shape
    tiles = tiling(features, max_displacement, stride)
    with torch.cuda.device_of(features):
        unit, _ = _unit(features, tiles, eps)
        cost_volume_fwd_kernel[(batch * frames * stride * tiles.tiles_y * tiles.tiles_x,)](
            *(unit, costs),
            *(frames, height, width, tiles.rows, tiles.columns, tiles.tiles_y, tiles.tiles_x),
            *costs.stride(),
            **tiles.constants,
            **tiles.forward_options,
        )


def write_gradient(
    grad: Tensor,
    features: Tensor,
    grad_features: Tensor,
    max_displacement: int,
    stride: int,
    eps: float,
) -> None:
    """As `cost_volume_cpu.write_gradient`, by two kernels; without atomics, so with the same bits every time."""
    batch, channels, frames, height, width = features.shape
    tiles = tiling(features, max_displacement, stride)
    limit = torch.finfo(torch.float16).max if features.dtype == torch.float16 else None
    with torch.cuda.device_of(features):
        unit, inverse = _unit(features, tiles, eps)
        cost_volume_bwd_kernel[(batch * frames * stride * tiles.tiles_y * tiles.tiles_x,)](
            *(grad, unit, inverse, grad_features),
            *(frames, height, width, tiles.rows, tiles.columns, tiles.tiles_y, tiles.tiles_x),
            *grad.stride(),
            *grad_features.stride(),
            EPS=eps,
            C=channels,
            LIMIT=limit,
            **(tiles.constants | tiles.backward_options),
        )

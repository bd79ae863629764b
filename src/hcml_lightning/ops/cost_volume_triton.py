"""[features → **cost volume on a GPU** → prime motion block]

Cuts the maps into tiles and launches the kernels of `cost_volume_kernels.py` and `cost_volume_backward_kernel.py`.
Imported only when used.
"""

# Neither Triton nor `device_of` has type hints.
# mypy: disable-error-code="no-untyped-call"

import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcml_lightning.ops.cost_volume import num_displacements
from hcml_lightning.ops.cost_volume_backward_kernel import cost_volume_bwd_kernel
from hcml_lightning.ops.cost_volume_kernels import cost_volume_fwd_kernel, unit_kernel


class Tiling(NamedTuple):
    """How the maps are cut into tiles.

    Attributes:
        constants: constants that both kernels take, by name.
        forward: further constants and compiler options of the kernel of the costs; they override `constants`.
        backward: further constants and compiler options of the kernel of the gradient; they override `constants`.
    """

    constants: dict[str, Any]
    forward: dict[str, Any]
    backward: dict[str, Any]

    def grids(self, height: int, width: int) -> dict[str, int]:
        """Return the numbers of tiles along y and x of a grid, and the rows and columns of the padded grid."""
        radius, stride, rows = (self.constants[name] for name in ("RADIUS", "STRIDE", "ROWS"))
        halo, step = self.constants["HALO"], self.constants["NX"] - 2 * self.constants["HALO"]
        tiles_y = -(-height // (stride * rows))
        tiles_x = -(-width // (stride * step))
        at_a_time = self.forward["NY"]
        last_row_seen = -(-(2 * radius + 1) // at_a_time) * at_a_time - 1
        return {
            "TILES_Y": tiles_y,
            "TILES_X": tiles_x,
            "HP": tiles_y * rows + last_row_seen,
            "WP": tiles_x * step + 2 * halo,
        }


def tiling(features: Tensor, max_displacement: int, stride: int) -> Tiling:
    """Choose the tiles for features of shape (B, C, T, H, W).

    A row of a grid is one tile if it fits into 32 pixels; wider maps are cut into tiles that include the surroundings
    on both sides, in steps of 16 columns, the width of an operand, or more. In float32 every product takes three
    products of tf32, so two warps share a row and loops are not unrolled. At the levels of R2D-50 and R(2+1)D-101,
    these choices are the largest that compile without spilled registers for compute capability 8.0 and 9.0, and within
    the 99 KiB of shared memory that the smallest GPUs have.
    """
    half = features.element_size() == 2
    radius, width = max_displacement // stride, -(-features.shape[4] // stride)
    slots = max(8, triton.next_power_of_2(2 * radius + 1))
    pixels, halo = max(16, slots, triton.next_power_of_2(width)), 0
    if width > 32:
        halo = -(-radius // 8) * 8
        pixels = max(32, triton.next_power_of_2(2 * halo + 16))
    channels = max(16, triton.next_power_of_2(features.shape[1]))
    block = min(channels, max(16, (2048 if half else 1024) // pixels))
    block_summed = min(channels, 128)
    rows = 4
    constants = {
        "CP": -(-features.shape[1] // block_summed) * block_summed,
        "RADIUS": radius,
        "STRIDE": stride,
        "HALO": halo,
        "ROWS": rows,
        "NX": pixels,
        "NK": slots,
        "UNROLL": 2 * radius + 1 if half else 1,
        "ACC": tl.float64 if features.dtype == torch.float64 else tl.float32,
        # tf32 alone keeps 10 bits; three tf32 products reach the precision of float32, still on tensor cores.
        "PRECISION": "tf32x3" if features.dtype == torch.float32 else "ieee",
    }
    options = {"num_warps": rows if half else 2 * rows, "num_stages": 1}
    groups = pixels // slots
    forward = {
        "NY": 4 if half and radius else 1,
        "BITS": groups.bit_length() - 1,
        "BC": block_summed,
        **options,
    }
    # If the maps are not channels last, the gradient kernel needs an address for every element.
    unrolled = {} if features.stride(1) == 1 else {"UNROLL": 1}
    return Tiling(constants, forward, {"BC": block, **options, **unrolled})


def suits(features: Tensor, max_displacement: int, stride: int) -> bool:
    """Return whether the kernels suit features of shape (B, C, T, H, W); if not, `cost_volume_cpu` is used.

    Very wide windows, wide ones in float32 and many channels need more registers and shared memory than exist, and
    minutes to compile; offsets inside a sample are 32 bits wide. Near these limits registers may spill, which is slower
    but correct.
    """
    _, channels, frames, height, width = features.shape
    pixels = tiling(features, max_displacement, stride).constants["NX"]
    widest = 64 if features.element_size() == 2 else 32
    largest = max(channels, num_displacements(max_displacement, stride)) * frames * height * width
    return pixels <= widest and channels <= 256 and largest < 2**31


def _operand_dtype(dtype: torch.dtype) -> torch.dtype:
    # The interpreter multiplies bfloat16 as raw bits: https://github.com/triton-lang/triton/issues/11584
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return torch.float32 if interpreted and dtype == torch.bfloat16 else dtype


def _unit(
    features: Tensor, tiles: Tiling, grids: dict[str, int], eps: float, paired: bool
) -> tuple[Tensor, Tensor]:
    batch, channels, frames, height, width = features.shape
    constants, rows, columns = tiles.constants, grids["HP"], grids["WP"]
    shape = (batch, frames, constants["STRIDE"], constants["STRIDE"], rows, columns)
    unit = features.new_empty(*shape, constants["CP"], dtype=_operand_dtype(features.dtype))
    inverse_dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    inverse = features.new_empty(shape, dtype=inverse_dtype)
    block = tiles.backward["BC"]
    pixels = max(16, 8192 // block)
    blocks = triton.cdiv(rows * columns, pixels)
    unit_kernel[(batch * frames * constants["STRIDE"] ** 2 * blocks,)](
        *(features, unit, inverse),
        *(frames, height, width, rows, columns, blocks),
        *_strides(features),
        EPS=eps,
        C=channels,
        BP=pixels,
        BC=block,
        PAIRED=paired,
        **{name: constants[name] for name in ("CP", "RADIUS", "STRIDE", "HALO", "ACC")},
    )
    return unit, inverse


def reachable(maps: Tensor) -> Tensor:
    """Return maps (B, X, T, H, W), copied to contiguous memory if offsets inside a frame exceed 32 bits."""
    sizes, strides = maps.shape, maps.stride()
    farthest = sum((sizes[i] - 1) * strides[i] for i in (1, 3, 4))
    return maps if farthest < 2**31 else maps.contiguous()


def _strides(tensor: Tensor) -> tuple[int, ...]:
    # The kernels take first the strides of batch and frame, which are not compile-time constants.
    batch, channels, frames, height, width = tensor.stride()
    return batch, frames, channels, height, width


def write_costs(
    features: Tensor, costs: Tensor, max_displacement: int, stride: int, eps: float
) -> None:
    """Do the same as `cost_volume_cpu.write_costs`, with two kernels."""
    batch, _, frames, height, width = features.shape
    features = reachable(features)
    tiles = tiling(features, max_displacement, stride)
    grids = tiles.grids(height, width)
    with torch.cuda.device_of(features):
        unit, _ = _unit(features, tiles, grids, eps, paired=False)
        cost_volume_fwd_kernel[(batch * frames * stride * grids["TILES_Y"] * grids["TILES_X"],)](
            *(unit, costs, frames, height, width, *grids.values()),
            *_strides(costs),
            **(tiles.constants | tiles.forward),
        )


def write_gradient(
    grad: Tensor,
    features: Tensor,
    grad_features: Tensor,
    max_displacement: int,
    stride: int,
    eps: float,
) -> None:
    """Do the same as `cost_volume_cpu.write_gradient`, with two kernels and the same bits in every run (no atomics)."""
    batch, channels, frames, height, width = features.shape
    features, grad = reachable(features), reachable(grad)
    tiles = tiling(features, max_displacement, stride)
    grids = tiles.grids(height, width)
    limit = torch.finfo(torch.float16).max if features.dtype == torch.float16 else None
    with torch.cuda.device_of(features):
        unit, inverse = _unit(features, tiles, grids, eps, paired=True)
        cost_volume_bwd_kernel[(batch * frames * stride * grids["TILES_Y"] * grids["TILES_X"],)](
            *(grad, features, unit, inverse, grad_features),
            *(frames, height, width, *grids.values()),
            *_strides(grad),
            *_strides(features),
            *_strides(grad_features),
            EPS=eps,
            C=channels,
            LIMIT=limit,
            **(tiles.constants | tiles.backward),
        )

"""[features → **cost volume on a CPU** → prime motion block]

The numbers of `cost_volume_reference` by matrix products, in plain PyTorch, an order of magnitude faster.

All displacements are multiples of the stride s, so a map falls apart into s × s grids of every s-th pixel, and within
a grid neighbours are one step apart. With channels last, r rows of a grid are one contiguous (r·w, C) matrix, and so
are the r + 2R rows of the next frame that they can meet. One product of the two holds every wanted cost in a band:

      columns: rows of the next frame            pixel (y, x) and displacement (dy, dx) meet at
      ┌────────────────────────────┐                row     y·w + x
      │ ■■■     ■■■     ■■■        │ pixel 0        column  (y + dy)·w + x + dx
      │  ■■■     ■■■     ■■■       │ pixel 1
      │   ■■■     ■■■     ■■■      │ pixel 2     so the address is linear in (dy, dx, y, x): the band is a
      └────────────────────────────┘             strided view of the product, read by one copy, without indices.

The product computes more than is wanted, but at the speed of a matrix product, and in one piece of scratch memory that
is used again and again and stays in the cache: on a CPU, touching fresh memory costs more than the arithmetic. A small
grid is multiplied whole, for as many frames at once as the scratch holds. The backward pass copies the gradient into
the same band and multiplies by either side.

Two traps. Spare columns on both sides of each row of the product keep the band of one pixel from reaching into the
next row. And a grid narrower than the band would put two displacements on one address: it is widened with zeros.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS_PER_BLOCK = 2  # measured: no worse than 1 and 4, at 56 × 56 and at 28 × 28
_WHOLE_GRID_PIXELS = 256  # up to here one product of all pairs of pixels is the fastest
_SCRATCH_ELEMENTS = 1 << 18  # 1 MiB of float32: half of a usual level 2 cache


def write_costs(
    features: Tensor, costs: Tensor, max_displacement: int, stride: int, eps: float
) -> None:
    """Write the cost volume of `features` into `costs`.

    Args:
        features: shape (B, C, T, H, W), any strides.
        costs: overwritten, shape (B, M, T, H, W), any strides.
        max_displacement: d, in pixels.
        stride: s, in pixels.
        eps: the smallest norm that a vector is divided by.
    """
    grids = _Grids(features, max_displacement // stride, stride)
    unit, _ = _normalise(features, grids, eps)
    scratch = unit.new_zeros(grids.scratch_elements)
    costs = torch.unflatten(costs, 1, (grids.window, grids.window))
    for step in grids.steps():
        torch.bmm(
            grids.blocks(unit, step),
            grids.surroundings(unit, step).mT,
            out=grids.products(scratch, step),
        )
        for band, part in grids.paired(scratch, costs, step):
            part.copy_(band)
    for index, reach in enumerate(range(-grids.radius, grids.radius + 1)):
        outside = slice(0, -reach * stride) if reach < 0 else slice(-reach * stride, None)
        if reach:
            costs[:, :, index, ..., outside].zero_()


def write_gradient(
    grad: Tensor,
    features: Tensor,
    grad_features: Tensor,
    max_displacement: int,
    stride: int,
    eps: float,
) -> None:
    """Write the gradient with respect to `features` into `grad_features`.

    Args:
        grad: gradient with respect to the costs, shape (B, M, T, H, W), any strides.
        features: shape (B, C, T, H, W), any strides.
        grad_features: overwritten, shape (B, C, T, H, W), any strides.
        max_displacement: d, in pixels.
        stride: s, in pixels.
        eps: the smallest norm that a vector is divided by.
    """
    grids = _Grids(features, max_displacement // stride, stride)
    unit, inverse = _normalise(features, grids, eps)
    grad_unit = torch.zeros_like(unit)
    scratch = unit.new_zeros(grids.scratch_elements)
    grad = torch.unflatten(grad, 1, (grids.window, grids.window))
    for step in grids.steps():
        for band, part in grids.paired(scratch, grad, step):
            band.copy_(part)
        grids.zero_edges(scratch, step)
        products, blocks = grids.products(scratch, step), grids.blocks(unit, step)
        grids.blocks(grad_unit, step).baddbmm_(products, grids.surroundings(unit, step))
        grad_surroundings = grids.surroundings(grad_unit, step)
        # The surroundings of neighbouring blocks overlap, those of every n-th block do not.
        n = grids.overlap
        for i in range(min(n, len(blocks))):
            grad_surroundings[i::n].baddbmm_(products[i::n].mT, blocks[i::n])

    # d(x / |x|) leaves only what is orthogonal to x; a clamped norm is a constant.
    radial = torch.linalg.vecdot(grad_unit, unit).mul_(inverse * eps < 1)
    grad_unit.addcmul_(unit, radial[..., None], value=-1).mul_(inverse[..., None])
    if grad_features.dtype == torch.float16:
        limit = torch.finfo(torch.float16).max
        grad_unit.clamp_(-limit, limit)
    for grid in range(stride * stride):
        grids.of_map(grad_features, grid).copy_(grids.of_buffer(grad_unit, grid))


def _normalise(features: Tensor, grids: "_Grids", eps: float) -> tuple[Tensor, Tensor]:
    """Split the maps into grids, channels last, and divide by the norms; also give the inverse norms."""
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    unit = torch.zeros(grids.buffer_shape, dtype=dtype, device=features.device)
    for grid in range(grids.stride**2):
        grids.of_buffer(unit, grid).copy_(grids.of_map(features, grid))
    inverse = torch.linalg.vector_norm(unit, dim=-1).clamp_min_(eps).reciprocal_()
    return unit.mul_(inverse[..., None]), inverse


class _Step(NamedTuple):
    """What is multiplied at once: `num_frames` frames from `frame` on, with those from `following` on."""

    sample: int
    frame: int
    following: int
    num_frames: int
    grids: range


class _Grids:
    """All sizes and addresses: how a map falls apart into grids, and where the costs lie in their products.

    Args:
        features: shape (B, C, T, H, W).
        radius: R = ⌊d/s⌋, largest displacement in steps of the grid.
        stride: s, in pixels.
    """

    def __init__(self, features: Tensor, radius: int, stride: int) -> None:
        self.batch, self.channels, self.frames, self.height, self.width = features.shape
        self.radius, self.stride = radius, stride
        self.window = 2 * radius + 1
        height = -(-self.height // stride)
        self.columns = max(-(-self.width // stride), self.window)
        self.whole = height * self.columns <= _WHOLE_GRID_PIXELS
        self.block_rows = height if self.whole else _ROWS_PER_BLOCK
        self.num_blocks = -(-height // self.block_rows)
        # Blocks see rows of zeros above and below the grid; a whole grid has spare columns in their place.
        self.padding = 0 if self.whole else radius
        self.rows = self.num_blocks * self.block_rows + 2 * self.padding
        self.buffer_shape = (
            self.batch,
            self.frames,
            stride**2,
            self.rows,
            self.columns,
            self.channels,
        )
        self.block_pixels = self.block_rows * self.columns
        self.surrounding_pixels = self.block_pixels + 2 * self.padding * self.columns
        self.overlap = -(-self.surrounding_pixels // self.block_pixels)
        self.spare = (radius - self.padding) * self.columns + radius
        self.pitch = self.surrounding_pixels + 2 * self.spare
        self.product_elements = self.block_pixels * self.pitch
        self.grids_per_step = stride**2 if self.whole else 1
        per_frame = self.grids_per_step * self.num_blocks * self.product_elements
        self.frames_per_step = (
            max(1, min(self.frames, _SCRATCH_ELEMENTS // per_frame)) if self.whole else 1
        )
        self.scratch_elements = self.frames_per_step * per_frame

    def steps(self) -> Iterator[_Step]:
        """All pairs of frames, as many in one step as the scratch holds; the last one pairs with itself."""
        last = self.frames - 1
        pairs = [
            (t, t + 1, min(self.frames_per_step, last - t))
            for t in range(0, last, self.frames_per_step)
        ]
        for sample in range(self.batch):
            for frame, following, count in [*pairs, (last, last, 1)]:
                for grid in range(0, self.stride**2, self.grids_per_step):
                    grids = range(grid, grid + self.grids_per_step)
                    yield _Step(sample, frame, following, count, grids)

    def of_map(self, maps: Tensor, grid: int) -> Tensor:
        """The pixels of one grid in maps of shape (B, X, T, H, W): a view (B, T, h, w, X)."""
        y, x = divmod(grid, self.stride)
        return maps[..., y :: self.stride, x :: self.stride].permute(0, 2, 3, 4, 1)

    def of_buffer(self, buffer: Tensor, grid: int) -> Tensor:
        """The same pixels in a buffer of `buffer_shape`, without its padding: a view (B, T, h, w, C)."""
        y, x = divmod(grid, self.stride)
        rows = len(range(y, self.height, self.stride))
        columns = len(range(x, self.width, self.stride))
        return buffer[:, :, grid, self.padding : self.padding + rows, :columns]

    def blocks(self, buffer: Tensor, step: _Step) -> Tensor:
        """The pixels that look around themselves: a view (blocks, pixels, C)."""
        start = buffer[step.sample, step.frame, step.grids[0], self.padding :]
        return self._matrices(start, step, self.block_pixels)

    def surroundings(self, buffer: Tensor, step: _Step) -> Tensor:
        """The pixels of the next frame that they can meet: a view (blocks, more pixels, C) that overlaps itself."""
        start = buffer[step.sample, step.following, step.grids[0]]
        return self._matrices(start, step, self.surrounding_pixels)

    def _matrices(self, start: Tensor, step: _Step, pixels: int) -> Tensor:
        size = (self._num_products(step), pixels, self.channels)
        return start.as_strided(size, (self.block_pixels * self.channels, self.channels, 1))

    def products(self, scratch: Tensor, step: _Step) -> Tensor:
        """All products of both: a view (blocks, pixels, more pixels)."""
        size = (self._num_products(step), self.block_pixels, self.surrounding_pixels)
        return scratch.as_strided(size, (self.product_elements, self.pitch, 1), self.spare)

    def _num_products(self, step: _Step) -> int:
        return step.num_frames * self.grids_per_step * self.num_blocks

    def bands(self, scratch: Tensor, step: _Step) -> Tensor:
        """The wanted products: a view (grids, frames, dy, dx, blocks, rows, w)."""
        block = self.product_elements
        grid = self.num_blocks * block
        pixel = self.pitch + 1
        size = (
            *(self.grids_per_step, step.num_frames, self.window, self.window),
            *(self.num_blocks, self.block_rows, self.columns),
        )
        strides = (
            *(grid, self.grids_per_step * grid, self.columns, 1),
            *(block, self.columns * pixel, pixel),
        )
        return scratch.as_strided(size, strides)

    def paired(self, scratch: Tensor, maps: Tensor, step: _Step) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of the bands and of maps (B, dy, dx, T, H, W) that hold the same costs."""
        bands = self.bands(scratch, step)
        maps = maps[step.sample, :, :, step.frame : step.frame + step.num_frames].movedim(2, 0)
        for grid, band in zip(step.grids, bands, strict=True):
            y, x = divmod(grid, self.stride)
            part = maps[..., y :: self.stride, x :: self.stride]
            band = band[..., : part.shape[-1]]
            full, rest = divmod(part.shape[-2], self.block_rows)
            if full:
                rows = full * self.block_rows
                yield (
                    band[..., :full, :, :],
                    torch.unflatten(part[..., :rows, :], -2, (full, self.block_rows)),
                )
            if rest:
                yield band[..., full, :rest, :], part[..., full * self.block_rows :, :]

    def zero_edges(self, scratch: Tensor, step: _Step) -> None:
        """Clear what left the grid sideways and would count in the row before or after."""
        bands = self.bands(scratch, step)
        for index, reach in enumerate(range(-self.radius, self.radius + 1)):
            if reach:
                outside = slice(0, -reach) if reach < 0 else slice(-reach, None)
                bands[:, :, :, index, ..., outside].zero_()

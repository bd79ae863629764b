"""[maps of features, costs → **their grids, and bands of products** → cost volume on a CPU]

All sizes and addresses of the algorithm that `cost_volume_cpu.py` describes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

_ROWS_PER_BLOCK = 2  # measured: no worse than 1 and 4, at 56 × 56 and at 28 × 28
_WHOLE_GRID_PIXELS = 256  # up to here one product of all pairs of pixels is the fastest
_SCRATCH_ELEMENTS = 1 << 18  # 1 MiB of float32: half of a usual level 2 cache


class Step(NamedTuple):
    """The frames multiplied in one product: `num_frames` frames from `frame` on, each with the one after it."""

    sample: int
    frame: int
    num_frames: int
    grids: range

    def of(self, maps: Tensor) -> Tensor:
        """Return the part of maps (B, dy, dx, T, H, W) that this step uses: a view (dy, dx, frames, H, W)."""
        return maps[self.sample, :, :, self.frame : self.frame + self.num_frames]


class Grids:
    """All sizes and addresses: how a map splits into grids, and where the costs lie in their products.

    Args:
        features: shape (B, C, T, H, W).
        radius: R = ⌊d/s⌋, largest displacement in steps of the grid.
        stride: s, in cells.
    """

    def __init__(self, features: Tensor, radius: int, stride: int) -> None:
        self.batch, self.channels, self.frames, self.height, self.width = features.shape
        self.radius, self.stride = radius, stride
        self.window = 2 * radius + 1
        height = -(-self.height // stride)
        self.columns = max(-(-self.width // stride), self.window)
        # Grids of one size are copied in one call: on small maps, starting a copy takes longer than the copy itself.
        self.even = self.height % stride == self.width % stride == 0
        self.whole = height * self.columns <= _WHOLE_GRID_PIXELS
        self.block_rows = height if self.whole else _ROWS_PER_BLOCK
        self.num_blocks = -(-height // self.block_rows)
        # Blocks need rows of zeros above and below the grid; a whole grid has spare columns instead.
        self.padding = 0 if self.whole else radius
        self.rows = self.num_blocks * self.block_rows + 2 * self.padding
        # The last frame is stored twice, because it is its own successor.
        self.buffer_shape = (
            self.batch,
            self.frames + 1,
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

    def steps(self) -> Iterator[Step]:
        """Yield steps that cover all pairs of frames, each with as many as the scratch buffer holds."""
        for sample in range(self.batch):
            for frame in range(0, self.frames, self.frames_per_step):
                count = min(self.frames_per_step, self.frames - frame)
                for grid in range(0, self.stride**2, self.grids_per_step):
                    grids = range(grid, grid + self.grids_per_step)
                    yield Step(sample, frame, count, grids)

    def pieces(self, maps: Tensor, buffer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield matching parts of maps (B, X, T, H, W), as (X, ..., H, W), and a buffer: single frames if `are_far`."""
        if not self.are_far(maps.movedim(1, 0)):
            yield maps.movedim(1, 0), buffer[:, : self.frames]
            return
        for sample in range(self.batch):
            for frame in range(self.frames):
                yield maps[sample, :, frame], buffer[sample, frame]

    def are_far(self, maps: Tensor) -> bool:
        """Return whether the values of a pixel in maps (X, ...) are so far apart that frames should be copied first."""
        return not self.whole and maps.stride(0) > 1

    def pixels(self, maps: Tensor, buffer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield views of maps (X, ..., H, W) and of frames of a buffer that hold the same pixels, (..., h, w, X)."""
        s = self.stride
        if self.even:
            rows, columns = self.height // s, self.width // s
            inner = buffer[..., self.padding : self.padding + rows, :columns, :]
            yield (
                rearrange(maps, "c ... (h y) (w x) -> ... y x h w c", y=s, x=s),
                torch.unflatten(inner, -4, (s, s)),
            )
            return
        for grid in range(s * s):
            y, x = divmod(grid, s)
            part = maps[..., y::s, x::s].movedim(0, -1)
            rows, columns = part.shape[-3:-1]
            yield part, buffer[..., grid, self.padding : self.padding + rows, :columns, :]

    def blocks(self, buffer: Tensor, step: Step) -> Tensor:
        """Return the pixels whose costs are computed: a view (blocks, pixels, C)."""
        return self._matrices(buffer, step, step.frame, self.padding, self.block_pixels)

    def surroundings(self, buffer: Tensor, step: Step) -> Tensor:
        """Return the pixels of the next frame within reach: a view (blocks, more pixels, C) that overlaps itself."""
        return self._matrices(buffer, step, step.frame + 1, 0, self.surrounding_pixels)

    def _matrices(self, buffer: Tensor, step: Step, frame: int, row: int, pixels: int) -> Tensor:
        size = (self._num_products(step), pixels, self.channels)
        strides = (self.block_pixels * self.channels, self.channels, 1)
        sample, _, grid, line, *_ = buffer.stride()
        start = step.sample * sample + frame * buffer.stride(1) + step.grids[0] * grid + row * line
        return buffer.as_strided(size, strides, start)

    def products(self, scratch: Tensor, step: Step) -> Tensor:
        """Return all products of `blocks` and `surroundings`: a view (blocks, pixels, more pixels)."""
        size = (self._num_products(step), self.block_pixels, self.surrounding_pixels)
        return scratch.as_strided(size, (self.product_elements, self.pitch, 1), self.spare)

    def _num_products(self, step: Step) -> int:
        return step.num_frames * self.grids_per_step * self.num_blocks

    def bands(self, scratch: Tensor, step: Step) -> Tensor:
        """Return the products that are costs: a view (grids, frames, dy, dx, blocks, rows, w)."""
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

    def paired(self, scratch: Tensor, maps: Tensor, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield views of the bands and of maps (dy, dx, frames, H, W) that hold the same costs."""
        bands = self.bands(scratch, step)
        maps = maps.movedim(2, 0)
        if self.whole and self.even:
            part = rearrange(
                maps, "n dy dx (h y) (w x) -> y x n dy dx h w", y=self.stride, x=self.stride
            )
            band = rearrange(bands, "(y x) n dy dx 1 h w -> y x n dy dx h w", y=self.stride)
            yield band[..., : part.shape[-1]], part
            return
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

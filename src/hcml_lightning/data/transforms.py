"""[video file → frames → **crop** → batch → model → loss → metric]

Where a clip is cropped and how it is resized. Parameters are chosen first (`View`), then applied to all frames of the
clip and, in the same way, to its true flow.

Frames stay uint8, and the crop is taken from the source frames before anything is resized, for a fraction of the work
of scaling the whole video. The network normalises by mean and standard deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class View:
    """A square cut out of the source frames, and how it is transformed.

    Attributes:
        top: first row of the square, pixels of the source.
        left: first column of the square, pixels of the source.
        side: rows and columns of the square, pixels of the source.
        size: rows and columns after resizing, pixels.
        flip: whether left and right are exchanged.
    """

    top: int
    left: int
    side: int
    size: int
    flip: bool = False

    @property
    def scale(self) -> float:
        """Pixels of the result for each pixel of the source."""
        return self.size / self.side


def random_view(
    height: int,
    width: int,
    short_side: tuple[int, int],
    crop_size: int,
    flip: bool,
    rng: np.random.Generator,
) -> View:
    """Draw the training view of Sec. B.2: short side scaled to a random length, random crop, flip with probability 1/2.

    Args:
        height: rows of the source frames.
        width: columns of the source frames.
        short_side: lowest and highest length of the scaled short side, pixels.
        crop_size: rows and columns of the crop out of the scaled frames.
        flip: whether flips are allowed.
        rng: source of randomness.

    Returns:
        The view; a source smaller than the requested size is scaled up.
    """
    scaled = int(rng.integers(short_side[0], short_side[1] + 1))
    side = _source_side(height, width, scaled, crop_size)
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    # Drawn even without flips, so that a run without flips sees the same crops as a run with them.
    turned = bool(rng.integers(2))
    return View(top, left, side, crop_size, flip and turned)


def even_views(
    height: int, width: int, short_side: int, crop_size: int, num_crops: int = 1
) -> list[View]:
    """Place `num_crops` crops evenly along the longer side, from end to end; a single crop is centred.

    Args:
        height: rows of the source frames.
        width: columns of the source frames.
        short_side: length of the scaled short side, pixels.
        crop_size: rows and columns of each crop out of the scaled frames.
        num_crops: number of crops.

    Returns:
        The views, from left to right (from top to bottom if the video is higher than wide).

    Example:
        >>> [(view.left, view.side) for view in even_views(256, 340, 256, 256, num_crops=3)]
        [(0, 256), (42, 256), (84, 256)]
        >>> even_views(240, 320, 256, 224)
        [View(top=15, left=55, side=210, size=224, flip=False)]
    """
    side = _source_side(height, width, short_side, crop_size)
    down, right = height - side, width - side
    if num_crops == 1:
        return [View(down // 2, right // 2, side, crop_size)]
    gaps = num_crops - 1
    if height > width:
        return [View(down * k // gaps, right // 2, side, crop_size) for k in range(num_crops)]
    return [View(down // 2, right * k // gaps, side, crop_size) for k in range(num_crops)]


# Departure: B.2 crops the scaled video. Here the crop is cut out first, so it begins at a whole pixel of the source,
# and the pixels at its edge are averaged without those outside.
def apply_view(frames: Tensor, view: View) -> Tensor:
    """Crop, resize and flip frames.

    Args:
        frames: RGB, uint8, shape (T, H, W, 3).
        view: where to crop, and to which size.

    Returns:
        uint8, shape (3, T, size, size), contiguous.
    """
    bottom, end = view.top + view.side, view.left + view.side
    video = rearrange(frames[:, view.top : bottom, view.left : end], "t h w c -> t c h w")
    if view.side != view.size:
        size = (view.size, view.size)
        video = interpolate(video, size, mode="bilinear", align_corners=False, antialias=True)
    if view.flip:
        video = video.flip(-1)
    return rearrange(video, "t c h w -> c t h w").contiguous()


def apply_view_to_flow(flow: Tensor, view: View) -> Tensor:
    """Crop, resize and flip a flow field; displacements are scaled and mirrored accordingly.

    Args:
        flow: float32, shape (2, T, H, W), pixels of the source, x first.
        view: the view of the frames.

    Returns:
        float32, shape (2, T, size, size), pixels of the crop.
    """
    bottom, end = view.top + view.side, view.left + view.side
    flow = flow[:, :, view.top : bottom, view.left : end]
    if view.side != view.size:
        size = (view.size, view.size)
        flow = interpolate(flow, size, mode="bilinear", align_corners=False, antialias=True)
        flow = flow * view.scale
    if view.flip:
        flow = flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    return flow.contiguous()


def check_sizes(short_side: Any, crop_size: int) -> tuple[int, int]:
    """Refuse a crop that does not fit into the scaled video.

    Returns:
        The lowest and the highest length of the short side.

    Raises:
        ValueError: if the crop does not fit, or `short_side` is not a range.
    """
    if not isinstance(short_side, Sequence) or len(short_side) != 2:
        raise ValueError(
            f"short_side must be two numbers, the lowest and the highest length, got {short_side!r}"
        )
    low, high = short_side
    if not crop_size <= low <= high:
        raise ValueError(
            f"short_side={low, high} must be ascending and at least crop_size={crop_size}"
        )
    return low, high


def _source_side(height: int, width: int, short_side: int, crop_size: int) -> int:
    """Return the rows and columns of the source that become `crop_size` if the short side is scaled to `short_side`."""
    shortest = min(height, width)
    return max(1, min(shortest, round(crop_size * shortest / short_side)))

"""[flow → **warp** → photometric loss]

Backward bilinear warp: aligns the next frame with this one along a flow field, and marks where that was possible.
Paper: Yang et al., Hierarchical Contrastive Motion Learning, Sec. 3.3, the Î of Eq. 3 and its mask m.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Sample each frame where the flow points: warped(y, x) = frame(y + v, x + u), bilinearly.

    With the flow from frame t to frame t+1 and frame t+1 as input, the result looks like frame t. Gradients flow to
    both arguments. Positions are computed in float32 or better, because half precision cannot address more than a few
    hundred pixels exactly.

    Args:
        frames: images or feature maps, shape (N, C, H, W), floating point.
        flow: displacement (u, v) of every pixel, x first, in pixels of `frames`, shape (N, 2, H, W).

    Returns:
        The warped frames, shape (N, C, H, W), in the dtype of `frames`; and a bool mask, shape (N, 1, H, W), true
        where the sampled position lies inside the frame (between the centres of its first and last pixels).
        Samples outside are interpolated towards zero; a loss should leave them out.

    Raises:
        ValueError: if the shapes do not match, or `frames` is not floating point.

    Example:
        >>> frame = torch.arange(4.0).view(1, 1, 1, 4)
        >>> flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> warped, valid = warp(frame, flow)
        >>> warped.flatten().tolist(), valid.flatten().tolist()
        ([1.0, 2.0, 3.0, 0.0], [True, True, True, False])
    """
    if frames.dim() != 4:
        raise ValueError(f"`frames` must have shape (N, C, H, W), got {tuple(frames.shape)}")
    count, _, height, width = frames.shape
    if not frames.is_floating_point():
        raise ValueError(f"`frames` must be floating point, got {frames.dtype}; use frames.float()")
    if flow.shape != (count, 2, height, width):
        raise ValueError(
            f"`flow` must have shape {(count, 2, height, width)} to fit `frames`, got {tuple(flow.shape)}"
        )

    dtype = torch.promote_types(torch.promote_types(frames.dtype, flow.dtype), torch.float32)
    x = flow[:, 0].to(dtype) + torch.arange(width, device=flow.device, dtype=dtype)
    y = flow[:, 1].to(dtype) + torch.arange(height, device=flow.device, dtype=dtype)[:, None]
    valid = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)

    # `align_corners=False` puts pixel i at (2i + 1) / size - 1, which is also defined if the axis has one pixel.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    warped = F.grid_sample(
        frames.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return warped.to(frames.dtype), valid[:, None]

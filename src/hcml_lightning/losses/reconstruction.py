"""[flow → **reconstruction loss**]

Measures how well a frame is reconstructed from the next one, and how smooth the flow used for it is. Penalties are
computed in float32 or better, whatever the precision of the inputs.

Paper: Yang et al., Hierarchical Contrastive Motion Learning, Sec. 3.3, Eq. 3 and 4.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from hcml_lightning.ops import warp


def charbonnier(z: Tensor, alpha: float = 0.45, eps: float = 1e-3) -> Tensor:
    """Compute the generalised Charbonnier penalty ρ(z) = (z² + ε²)^α, element by element.

    Args:
        z: any shape.
        alpha: α.
        eps: ε, in the unit of z.

    Returns:
        Same shape as z, in float32 or better: half precision has too few values of z² + ε² near 0, where the curvature
        of the penalty is largest.

    Example:
        >>> round(float(charbonnier(torch.zeros(()))), 6)
        0.001995
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return (z.square() + eps**2).pow(alpha)


def photometric_loss(frames: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
    """Compute the penalty between frames and their reconstructions, over the pixels that could be rebuilt (Eq. 3).

    The sum is divided by the number of all pixels, valid or not, as in Eq. 3.

    Args:
        frames: I, intensities in 0..1, (N, C, H, W).
        warped: Î, the next frames warped by the flow, (N, C, H, W).
        valid: whether each pixel was sampled inside the frame, bool, (N, 1, H, W).

    Returns:
        Scalar; mean over frames, channels and pixels.

    Raises:
        ValueError: if the shapes do not match, or the frames are integers.

    Example:
        >>> frame = torch.rand(2, 3, 4, 4)
        >>> inside = torch.ones(2, 1, 4, 4, dtype=torch.bool)
        >>> bool(photometric_loss(frame, frame, inside) < photometric_loss(frame, 1 - frame, inside))
        True
    """
    if frames.shape != warped.shape or valid.shape != (len(frames), 1, *frames.shape[2:]):
        raise ValueError(
            "frames and warped must have the same shape (N, C, H, W) and valid (N, 1, H, W), "
            f"got {tuple(frames.shape)}, {tuple(warped.shape)} and {tuple(valid.shape)}"
        )
    if not frames.is_floating_point() or not warped.is_floating_point():
        # Differences of unsigned integers would wrap around.
        raise ValueError(
            f"frames and warped must be floating point, got {frames.dtype} and {warped.dtype}"
        )
    # Unstated in the paper: how ρ applies to colours. It penalises each channel, and the mean is taken.
    # Unstated in the paper: which value of m means valid. m marks invalid pixels, but Eq. 3 counts the pixels with
    # m = 1; the text says that invalid ones are left out, as here.
    return torch.where(valid, charbonnier(frames - warped), 0.0).mean()


def smoothness_loss(flow: Tensor) -> Tensor:
    """Compute the penalty on the spatial gradients of both flow components (Eq. 4).

    Args:
        flow: cells, x first, (N, 2, H, W).

    Returns:
        Scalar: the sum of four terms (x and y gradients of U and V), each a mean.

    Raises:
        ValueError: if flow is not (N, 2, H, W).

    Example:
        >>> constant = torch.full((1, 2, 4, 4), 3.0)
        >>> round(float(smoothness_loss(constant)), 6)
        0.007981
    """
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"flow must have shape (N, 2, H, W), got {tuple(flow.shape)}")
    # Unstated in the paper: how Eq. 4 reduces over pixels. A mean, as in Eq. 3, makes ζ independent of the size.
    terms = [flow.diff(dim=axis) for axis in (2, 3)]
    means = [2 * charbonnier(term).mean() for term in terms if term.numel() > 0]
    return torch.stack(means).sum() if means else flow.sum() * 0.0


class FlowTerms(NamedTuple):
    """Results of reconstructing frames from their successors.

    Attributes:
        flow: cells of the level's grid, (B, 2, T − 1, H, W).
        photometric: Eq. 3, scalar.
        smoothness: Eq. 4, scalar.
        photometric_zero: Eq. 3 of zero flow, scalar; times `valid`, the baseline that the flow has to beat.
        valid: share of pixels that could be rebuilt, scalar. Watch it, because flow that leaves the frame also lowers
            Eq. 3.
    """

    flow: Tensor
    photometric: Tensor
    smoothness: Tensor
    photometric_zero: Tensor
    valid: Tensor

    def loss(self, smoothness_weight: float) -> Tensor:
        """Return the reconstruction loss, photometric + ζ · smoothness (Sec. 3.3)."""
        return self.photometric + smoothness_weight * self.smoothness

    def measurements(self) -> dict[str, Tensor]:
        """Return all scalars by name, without gradient."""
        names = ("photometric", "photometric_zero", "smoothness", "valid")
        return {name: getattr(self, name).detach() for name in names}


def reconstruct(flow: Tensor, clip: Tensor, step: int = 1) -> FlowTerms:
    """Rebuild each frame of a clip from the next, on the grid and at the frame rate of the flow (Sec. 3.3).

    Args:
        flow: flow from each used frame to the next, cells, x first, (B, 2, T − 1, H, W).
        clip: RGB in 0..255, (B, 3, ., ., .); every `step`-th frame is used, T in total.
        step: distance between used frames, in frames of the clip.

    Raises:
        ValueError: if the number of used frames is not T.

    Example:
        >>> clip = torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8)
        >>> float(reconstruct(torch.zeros(1, 2, 3, 4, 4), clip, step=2).valid)
        1.0
    """
    frames = clip[:, :, ::step]
    if frames.shape[2] != flow.shape[2] + 1:
        raise ValueError(
            f"flow between {flow.shape[2] + 1} frames needs {flow.shape[2] + 1} frames, but {frames.shape[2]} of the "
            f"clip's {clip.shape[2]} are used with step={step}"
        )
    flow = flow.float()
    height, width = flow.shape[3:]
    # Unstated in the paper: the range of intensities, on which ε, ζ and λ depend. It is 0..1.
    # Unstated in the paper: the size and the rate of the rebuilt frames, and whether the last one, which has no
    # successor, is one of the T of Eq. 3. The size and the rate are those of P^l, and the last frame is not counted.
    frames = rearrange(frames, "b c t h w -> (b t) c h w").float() / 255
    frames = F.adaptive_avg_pool2d(frames, (height, width))
    frames = rearrange(frames, "(b t) c h w -> b t c h w", b=len(clip))
    target, source = (
        rearrange(part, "b t c h w -> (b t) c h w") for part in (frames[:, :-1], frames[:, 1:])
    )
    folded = rearrange(flow, "b c t h w -> (b t) c h w")
    warped, valid = warp(source, folded)
    return FlowTerms(
        flow=flow,
        photometric=photometric_loss(target, warped, valid),
        smoothness=smoothness_loss(folded),
        photometric_zero=photometric_loss(target, source, torch.ones_like(valid)).detach(),
        valid=valid.float().mean(),
    )

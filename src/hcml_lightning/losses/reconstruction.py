"""[flow → **reconstruction loss**]

How well a frame is rebuilt from the next one, and how smooth the flow is that rebuilds it. In float32, whatever comes.

Paper: Yang et al., Hierarchical Contrastive Motion Learning, Sec. 3.3, Eq. 3 and 4.
"""

import torch
from torch import Tensor


def charbonnier(z: Tensor, alpha: float = 0.45, eps: float = 1e-3) -> Tensor:
    """Generalised Charbonnier penalty ρ(z) = (z² + ε²)^α, element by element.

    Args:
        z: any shape.
        alpha: α.
        eps: ε, in the unit of z.

    Returns:
        Same shape as z, at least float32: ε² is lost in half precision, and with it the gradient at 0.

    Example:
        >>> round(float(charbonnier(torch.zeros(()))), 6)
        0.001995
    """
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    return (z.square() + eps**2).pow(alpha)


def photometric_loss(frames: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
    """Penalty between frames and their reconstructions, over the pixels that could be rebuilt (Eq. 3).

    Divided by all pixels, valid or not, as Eq. 3 has it.

    Args:
        frames: I, intensities in 0..1, (N, C, H, W).
        warped: Î, the next frames warped by the flow, (N, C, H, W).
        valid: whether each pixel was sampled inside the frame, bool, (N, 1, H, W).

    Returns:
        Scalar; mean over frames, channels and pixels.

    Raises:
        ValueError: if the shapes disagree.

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
    # Unstated in the paper: what ρ does with colours. It penalises each channel, and the mean is taken.
    return torch.where(valid, charbonnier(frames - warped), 0.0).mean()


def smoothness_loss(flow: Tensor) -> Tensor:
    """Penalty on the spatial gradients of both flow components (Eq. 4).

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
    # Unstated in the paper: Eq. 4 does not say how pixels are reduced; a mean, as in Eq. 3, frees ζ from the size.
    terms = [flow.diff(dim=axis) for axis in (2, 3)]
    means = [2 * charbonnier(term).mean() for term in terms if term.numel() > 0]
    return torch.stack(means).sum() if means else flow.sum() * 0.0

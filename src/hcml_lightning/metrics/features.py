"""[motion features → **their quality**]

Measures whether the features have collapsed to a single one, and how well a light classifier on them generalises.
"""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from hcml_lightning.ops.precision import full_precision


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """Measure how much features differ in direction: 0 if all have the same, about 1 if they fill the space.

    Args:
        features: (B, C, T, H, W).

    Returns:
        Scalar: √C times the mean over channels of the standard deviation of the unit vectors over B, T, H, W.

    Example:
        >>> float(feature_spread(torch.ones(2, 8, 3, 4, 4)))
        0.0
    """
    vectors = F.normalize(rearrange(features, "b c t h w -> (b t h w) c").float(), dim=1, eps=1e-6)
    return vectors.std(dim=0, correction=0).mean() * math.sqrt(vectors.shape[1])


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """Measure over how many directions features spread: 1 if they lie on a line, C if they fill all channels equally.

    This is the exponential of the entropy of the normalised eigenvalues of the covariance (Roy and Vetterli, 2007).
    RankMe uses the singular values of the features, which are square roots of eigenvalues, and gives larger numbers.

    Args:
        features: (B, C, T, H, W).

    Returns:
        Scalar in 1..C; 1 if all features are the same, NaN if one of them is not finite.

    Example:
        >>> line = torch.arange(8.0).view(8, 1, 1, 1, 1) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
        >>> round(float(effective_rank(line)), 3)
        1.0
    """
    vectors = rearrange(features, "b c t h w -> (b t h w) c").float()
    vectors = vectors - vectors.mean(dim=0)
    # The rank does not depend on the scale, but squares of very large or very small numbers would overflow or vanish.
    vectors = vectors / vectors.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    # Half precision cannot hold sums over so many cells, and PyTorch has no half-precision eigenvalues on a GPU.
    with full_precision(vectors.device.type):
        covariance = vectors.t() @ vectors
        finite = covariance.isfinite().all()
        # If many channels are dead, LAPACK fails to converge in float32. Apple's GPUs do not support float64.
        wide = torch.float32 if covariance.device.type == "mps" else torch.float64
        # Eigenvalues of a matrix that is not finite raise an error that does not tell the cause.
        eigenvalues = torch.linalg.eigvalsh(covariance.where(finite, 0).to(wide)).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float32).tiny)
    rank: Tensor = torch.special.entr(share).sum().exp().float()
    return rank.where(finite, torch.nan)


def feature_health(level: int, features: Tensor) -> dict[str, Tensor]:
    """Return the metrics that tell whether the motion features of a level have collapsed.

    Args:
        level: l.
        features: P^l, (B, C, T, H, W).

    Returns:
        `spread_l{level}` by `feature_spread` and `rank_l{level}` by `effective_rank`.
    """
    return {
        f"spread_l{level}": feature_spread(features),
        f"rank_l{level}": effective_rank(features),
    }


def efficacy_score(train_accuracy: float, test_accuracy: float) -> float:
    """Return Acc_train / (Acc_train − Acc_test): features that discriminate and generalise score high (Sec. 4.2).

    Args:
        train_accuracy: top-1 on the training set, of a light classifier on the features.
        test_accuracy: top-1 on the test set, in the same unit.

    Returns:
        The score; 0 if nothing was learned (training accuracy 0), infinite if the classifier is not worse on the test
        set, so that there is no gap to divide by; NaN if an accuracy is NaN.

    Example:
        >>> efficacy_score(0.75, 0.5)
        3.0
    """
    gap = train_accuracy - test_accuracy
    if math.isnan(gap):
        return math.nan
    if gap > 0:
        return train_accuracy / gap
    return math.inf if train_accuracy > 0 else 0.0

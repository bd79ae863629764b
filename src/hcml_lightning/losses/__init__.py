"""The losses of the paper as plain functions."""

from hcml_lightning.losses.contrastive import (
    contrastive_accuracy,
    contrastive_loss,
    pair_with_future,
    sample_locations,
)
from hcml_lightning.losses.reconstruction import (
    charbonnier,
    photometric_loss,
    reconstruct,
    smoothness_loss,
)

__all__ = [
    "charbonnier",
    "contrastive_accuracy",
    "contrastive_loss",
    "pair_with_future",
    "photometric_loss",
    "reconstruct",
    "sample_locations",
    "smoothness_loss",
]

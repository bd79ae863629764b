"""Reported metrics: accuracy on videos, end-point error of flow, spread of motion features, and the efficacy score."""

from hcml_lightning.metrics.features import (
    effective_rank,
    efficacy_score,
    feature_health,
    feature_spread,
)
from hcml_lightning.metrics.flow_error import EndPointError, end_point_distance
from hcml_lightning.metrics.per_video import BatchMeans, VideoAccuracy

__all__ = [
    "BatchMeans",
    "EndPointError",
    "VideoAccuracy",
    "effective_rank",
    "efficacy_score",
    "end_point_distance",
    "feature_health",
    "feature_spread",
]

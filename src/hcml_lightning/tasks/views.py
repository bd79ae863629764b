"""[views of a video → **one probability** → metric, predictions.csv]

The class probabilities of a video from several clips and crops of it (Sec. 4.3).
"""

from collections.abc import Callable
from typing import TypedDict

import torch
from einops import rearrange, reduce
from torch import Tensor


class VideoPrediction(TypedDict):
    """Class probabilities of videos.

    Attributes:
        video_id: names, length B.
        probability: mean over the views of each video, (B, K).
    """

    video_id: list[str]
    probability: Tensor


def mean_probability(
    classify: Callable[[Tensor], Tensor], clips: Tensor, views_per_forward: int
) -> Tensor:
    """Return the mean class probabilities over all views of each video.

    Args:
        classify: function of RGB in 0..255, (B, 3, T, H, W), that returns logits (B, K).
        clips: V clips of each video, (B, V, 3, T, H, W), or a single one, (B, 3, T, H, W).
        views_per_forward: number of clips that are classified at a time; fewer take less memory.

    Returns:
        float32, (B, K).
    """
    clips = clips if clips.ndim == 6 else clips[:, None]
    views = torch.split(rearrange(clips, "b v c t h w -> (b v) c t h w"), views_per_forward)
    probability = torch.cat([classify(view).float().softmax(dim=1) for view in views])
    return reduce(probability, "(b v) k -> b k", "mean", v=clips.shape[1])

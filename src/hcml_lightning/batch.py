"""[video file → **batch** → model → loss → metric]

The contract between data and tasks: data loaders return batches of this form, and steps read nothing else.

The axis letters used in every docstring of this package: B batch, V views, C channels, T frames, H height, W width,
M displacements, N sampled locations, Δ offsets of a predictor, K classes, S contrastive targets, P predictions.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor


class VideoBatch(TypedDict):
    """A mini-batch of video clips.

    Attributes:
        video: RGB, uint8 in 0..255. Shape (B, 3, T, H, W) in training and validation, (B, V, 3, T, H, W) in test and
            prediction, where the V views are all temporal clips × spatial crops of one video.
        label: class index, int64, shape (B,); -1 if it is unknown.
        index: position of each video in its split, int64, shape (B,): lets metrics count every video exactly once.
        video_id: name of each video in its dataset, length B.
        flow: true motion, float32, shape (B, 2, T, H, W), in pixels of the frames in `video`, x first, from frame t to
            frame t+1 of the clip; zeros in the last frame. Present only for videos generated with known motion.
    """

    video: Tensor
    label: Tensor
    index: Tensor
    video_id: list[str]
    flow: NotRequired[Tensor]


def check_batch(batch: object, needed: Sequence[str]) -> None:
    """Raise an error if a loader's batch lacks what a step reads.

    Args:
        batch: batch from the loader.
        needed: keys of a `VideoBatch` that the step reads.

    Raises:
        TypeError: if the batch is not a mapping.
        ValueError: if a key is missing, or labels are not one int64 class index for each clip.

    Warns:
        UserWarning: if the clips have negative values, or seem to be scaled to 0..1.
    """
    contract = (
        f"expected a dict with {', '.join(map(repr, needed))} (hcml_lightning.batch.VideoBatch)"
    )
    if not isinstance(batch, Mapping):
        raise TypeError(f"the loader's batch is a {type(batch).__name__}; {contract}")
    if missing := [name for name in needed if name not in batch]:
        given = f"only {', '.join(map(repr, batch))}" if batch else "it is empty"
        raise ValueError(f"the loader's batch has no {missing[0]!r} ({given}); {contract}")
    video = batch["video"]
    if "label" in needed:
        label = batch["label"]
        if label.dtype != torch.int64 or label.shape != video.shape[:1]:
            raise ValueError(
                f"the loader's batch has labels of {label.dtype} and shape {tuple(label.shape)}; expected one class "
                f"index for each clip, int64 of shape {tuple(video.shape[:1])}"
            )
    if not video.is_floating_point() or video.numel() == 0:
        return
    low, high = float(video.min()), float(video.max())
    if low < 0:
        warnings.warn(
            f"the clips of this batch have negative values (down to {low:.3g}), but the network expects RGB in 0..255 "
            "and normalises it itself; leave out your own normalisation, or clamp what interpolation overshoots",
            stacklevel=2,
        )
    elif 0 < high <= 1:
        warnings.warn(
            "the clips of this batch are floats up to 1, nearly black for a network that expects RGB in 0..255; pass "
            "them as uint8, or multiply them by 255",
            stacklevel=2,
        )


def middle_view(batch: VideoBatch) -> VideoBatch:
    """Return the batch of a multi-view test with only the middle view of each video; any other batch unchanged."""
    clip = batch["video"]
    if clip.ndim < 6:
        return batch
    views = clip.shape[1]
    # With an even number of clips of three crops each, `views // 2` is the first crop of a clip, not its centre crop.
    # Of six clips of one crop each, this takes the one after the middle.
    middle = views // 2 + (views % 6 == 0)
    return {**batch, "video": clip[:, middle]}

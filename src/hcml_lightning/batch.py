"""[video file → **batch** → model → loss → metric]

The one contract between the data and the tasks: what a data loader gives is what a step reads, and nothing else.

The axis letters used in every docstring of this package: B batch, V views, C channels, T frames, H height, W width,
M displacements, N sampled locations, Δ offsets of a predictor, K classes, S contrastive targets, P predictions.
"""

from typing import NotRequired, TypedDict

from torch import Tensor


class VideoBatch(TypedDict):
    """A mini-batch of video clips.

    Attributes:
        video: RGB, uint8 in 0..255. Shape (B, 3, T, H, W) in training and validation, (B, V, 3, T, H, W) in test and
            prediction, where the V views are all temporal clips × spatial crops of one video.
        label: class index, int64, shape (B,); -1 where it is unknown.
        index: position of each video in its split, int64, shape (B,): lets metrics count every video exactly once.
        video_id: name of each video as its dataset calls it, length B.
        flow: true motion, float32, shape (B, 2, T, H, W), pixels of the given frames, x first, from frame t to frame
            t+1 of the clip; zeros in the last frame. Present only for videos that were generated with known motion.
    """

    video: Tensor
    label: Tensor
    index: Tensor
    video_id: list[str]
    flow: NotRequired[Tensor]


def middle_view(batch: VideoBatch) -> VideoBatch:
    """The batch of a multi-view test with the middle one of its views alone; any other batch as it is."""
    clip = batch["video"]
    if clip.ndim < 6:
        return batch
    views = clip.shape[1]
    # Half of an even number of clips with three crops each is the first crop of a clip; the next one is its centre.
    middle = views // 2 + (views % 6 == 0)
    return {**batch, "video": clip[:, middle]}

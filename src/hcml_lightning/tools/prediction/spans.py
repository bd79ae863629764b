"""[video → **views of spans of it** → probabilities]

Which parts of a video are recognised (the whole video, or windows that slide over a long one), and their frames.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hcml_lightning.data.dataset import ClipRecipe
from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.sampling import clip_frames, clip_span
from hcml_lightning.data.transforms import apply_view, even_views
from hcml_lightning.tools.prediction.frame_times import FloatArray, frame_times

# Frames in memory at a time, in their full size: 0.4 GB of full HD.
FRAMES_AT_A_TIME = 64
# Seconds: less than the distance of any two frames, and more than the rounding errors of times.
_ROUNDING = 1e-7


class Span(NamedTuple):
    """A part of a video.

    Attributes:
        first: its first frame.
        end: the frame after its last one.
    """

    first: int
    end: int


class SpanViews(NamedTuple):
    """What the network sees of a span.

    Attributes:
        start: seconds from the start of the video.
        end: seconds from the start of the video.
        views: RGB, uint8, (V, 3, T, H, W).
    """

    start: float
    end: float
    views: Tensor


def sliding_windows(times: FloatArray, window: float, hop: float) -> list[Span]:
    """Lay windows over a video, from its first frame to its last.

    Args:
        times: times of its frames and of its end, seconds, as returned by `frame_times`.
        window: length of each window, seconds.
        hop: from the start of one window to that of the next, seconds.

    Returns:
        Spans of that length, to the nearest frame; the last one ends with the video, whatever its distance from the
        one before. A video that is shorter than the window is one span.

    Raises:
        ValueError: if window or hop is not positive.

    Example:
        >>> sliding_windows(np.arange(101) / 25, window=2.0, hop=1.5)
        [Span(first=0, end=50), Span(first=37, end=87), Span(first=50, end=100)]
    """
    if not (0 < window < math.inf and 0 < hop < math.inf):
        raise ValueError(f"window and hop must be greater than 0 seconds, got {window} and {hop}")
    num_frames = len(times) - 1
    last = times[-1] - window
    if last <= 0:
        return [Span(0, num_frames)]
    middles = (times[:-1] + times[1:]) / 2
    # A time halfway between two frames counts as the earlier one; at the start of the last window, as the later one. So
    # no window is lengthened by a tie.
    starts = np.arange(0, last, hop)
    firsts = np.searchsorted(middles, starts - _ROUNDING)
    ends = np.searchsorted(middles, times[firsts] + window - _ROUNDING)
    spans = {
        # A window shorter than a frame still has the frame that is shown at its start.
        Span(first, max(end, first + 1))
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)
    }
    final = min(int(np.searchsorted(middles, last + _ROUNDING)), num_frames - 1)
    return sorted({span for span in spans if span.first < final} | {Span(final, num_frames)})


def read_spans(path: str, spans: Sequence[Span] | None, recipe: ClipRecipe) -> list[SpanViews]:
    """Read the views of spans of a video.

    Args:
        path: video file, or folder of images.
        spans: parts of the video, each of which gets one clip; None for the whole video, with the clips of the recipe.
        recipe: how clips are cut out.

    Returns:
        The views of each span, clip by clip.

    Raises:
        VideoError: if the video cannot be read.
    """
    info, times = probe(path), frame_times(path)
    if spans is None:
        spans, num_clips = [Span(0, info.num_frames)], recipe.num_clips
    else:
        num_clips = 1
    clips = [clip for span in spans for clip in _clips(span, info.num_frames, num_clips, recipe)]
    views = even_views(
        info.height, info.width, recipe.short_side[0], recipe.crop_size, recipe.num_crops
    )
    size = max(1, FRAMES_AT_A_TIME // recipe.clip_length)
    crops: list[Tensor] = []
    for start in range(0, len(clips), size):
        group = clips[start : start + size]
        frames = read_frames(path, [number for clip in group for number in clip])
        crops += [apply_view(clip, view) for clip in frames.chunk(len(group)) for view in views]
    groups = torch.stack(crops).chunk(len(spans))
    return [
        SpanViews(float(times[span.first]), float(times[span.end]), group)
        for span, group in zip(spans, groups, strict=True)
    ]


def _clips(span: Span, num_frames: int, num_clips: int, recipe: ClipRecipe) -> list[list[int]]:
    """Return the frame numbers of the clips of a span; a span too short for a clip is widened within the video."""
    if recipe.frame_stride != "spread":
        needed = min(clip_span(recipe.clip_length, recipe.frame_stride), num_frames)
        lack = max(0, needed - (span.end - span.first))
        first = min(max(0, span.first - lack // 2), num_frames - max(needed, span.end - span.first))
        span = Span(first, first + max(needed, span.end - span.first))
    clips = clip_frames(
        span.end - span.first, recipe.clip_length, recipe.frame_stride, num_clips=num_clips
    )
    return [[span.first + number for number in clip] for clip in clips]

"""[video file → **frame numbers** → batch → model → loss → metric]

Which frames of a video make a clip. Integers only: nothing here opens a file.

A clip of `clip_length` frames, `stride` apart, spans `(clip_length - 1) * stride + 1` frames, so a video of
`num_frames` leaves room for `num_frames - span + 1` different starts. With `clip_length=4, stride=2` (span 7) in a
video of 10:

| function            | frames                                      | used for                            |
|---------------------|---------------------------------------------|-------------------------------------|
| `jittered`          | one of 0 2 4 6, 1 3 5 7, 2 4 6 8, 3 5 7 9    | training ("temporal jittering", B.2) |
| `uniform`, 1 clip   | 1 3 5 7                                     | validation                          |
| `uniform`, 3 clips  | 0 2 4 6, 2 4 6 8, 3 5 7 9                   | test (Sec. 4.3)                     |
| `spread`, with rng  | one of 0 1, one of 2 3 4, of 5 6, of 7 8 9  | training, whole video               |
| `spread`, 1 clip    | 1 3 6 8                                     | validation, whole video             |

A video shorter than the span starts at 0 and repeats its last frame: a picture that stands still adds no motion, while
starting over would add a jump that never happened. `spread` repeats each frame in its place, for the same reason.
"""

from itertools import pairwise
from typing import Any, Literal

import numpy as np

from hcml_lightning.ranges import check_at_least

# Unstated in the paper: how a clip is cut out of a video that is too short for it. Its last frame is repeated, so that
# some of the temporal negatives of the contrastive loss are the same frame.
FrameStride = int | Literal["spread"]


def clip_frames(
    num_frames: int,
    clip_length: int,
    frame_stride: FrameStride,
    rng: np.random.Generator | None = None,
    num_clips: int = 1,
) -> list[list[int]]:
    """Choose the frames of `num_clips` clips: at random if `rng` is given, else evenly and always the same.

    Args:
        num_frames: frames in the video.
        clip_length: frames in a clip, T.
        frame_stride: frames from one frame of the clip to the next, or "spread" for T frames over the whole video.
        rng: source of the jitter in training.
        num_clips: number of clips.

    Returns:
        `num_clips` lists of `clip_length` frame numbers, each ascending, all within 0 .. num_frames - 1.

    Raises:
        ValueError: if one of the numbers is below 1.

    Example:
        >>> clip_frames(10, 4, 2)
        [[1, 3, 5, 7]]
        >>> clip_frames(10, 4, "spread")
        [[1, 3, 6, 8]]
    """
    stride = 1 if frame_stride == "spread" else frame_stride
    check_at_least(
        1, num_frames=num_frames, clip_length=clip_length, frame_stride=stride, num_clips=num_clips
    )
    if frame_stride == "spread":
        return spread(num_frames, clip_length, rng, num_clips)
    if rng is None:
        return uniform(num_frames, clip_length, stride, num_clips)
    return [jittered(num_frames, clip_length, stride, rng) for _ in range(num_clips)]


def jittered(num_frames: int, clip_length: int, stride: int, rng: np.random.Generator) -> list[int]:
    """Start the clip anywhere it fits, every start equally likely.

    Example:
        >>> jittered(7, 4, 2, np.random.default_rng(0))
        [0, 2, 4, 6]
        >>> jittered(5, 4, 2, np.random.default_rng(0))
        [0, 2, 4, 4]
    """
    start = int(rng.integers(_room(num_frames, clip_length, stride) + 1))
    return _clip(start, num_frames, clip_length, stride)


def uniform(num_frames: int, clip_length: int, stride: int, num_clips: int) -> list[list[int]]:
    """Spread the starts evenly from the first to the last possible one; a single clip is centred.

    Example:
        >>> uniform(10, 4, 2, 3)
        [[0, 2, 4, 6], [2, 4, 6, 8], [3, 5, 7, 9]]
        >>> uniform(11, 4, 2, 1)
        [[2, 4, 6, 8]]
    """
    room = _room(num_frames, clip_length, stride)
    if num_clips == 1:
        starts = [room // 2]
    else:
        gaps = num_clips - 1
        starts = [(2 * k * room + gaps) // (2 * gaps) for k in range(num_clips)]
    return [_clip(start, num_frames, clip_length, stride) for start in starts]


def spread(
    num_frames: int, clip_length: int, rng: np.random.Generator | None = None, num_clips: int = 1
) -> list[list[int]]:
    """Cut the whole video into `clip_length` segments and take one frame of each.

    If `rng` is given (training), the frame is drawn from its segment. Otherwise clip k of n takes the frame at
    (k + 1/2) / n of each segment, which is the middle one for a single clip.

    Example:
        >>> spread(12, 4)
        [[1, 4, 7, 10]]
        >>> spread(12, 4, num_clips=3)
        [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
        >>> spread(3, 6)
        [[0, 0, 1, 1, 2, 2]]
    """
    edges = [i * num_frames // clip_length for i in range(clip_length + 1)]
    segments = [(low, max(high - low, 1)) for low, high in pairwise(edges)]
    if rng is not None:
        return [[low + int(rng.integers(size)) for low, size in segments] for _ in range(num_clips)]
    return [
        [low + (2 * k + 1) * size // (2 * num_clips) for low, size in segments]
        for k in range(num_clips)
    ]


def clip_span(clip_length: int, frame_stride: FrameStride) -> int:
    """Return how many frames of a video a clip spans; a shorter video repeats some of its frames.

    Example:
        >>> clip_span(4, 2), clip_span(4, "spread")
        (7, 4)
    """
    return clip_length if frame_stride == "spread" else (clip_length - 1) * frame_stride + 1


def check_frame_stride(value: Any) -> None:
    """Check that a frame stride is a number of frames or "spread".

    Raises:
        ValueError: if it is neither.
    """
    if value != "spread" and not (hasattr(value, "__index__") and value >= 1):
        raise ValueError(
            f"frame_stride must be a whole number of frames, 1 or more, or 'spread', got {value!r}"
        )


def _room(num_frames: int, clip_length: int, stride: int) -> int:
    return max(num_frames - clip_span(clip_length, stride), 0)


def _clip(start: int, num_frames: int, clip_length: int, stride: int) -> list[int]:
    return [min(start + i * stride, num_frames - 1) for i in range(clip_length)]

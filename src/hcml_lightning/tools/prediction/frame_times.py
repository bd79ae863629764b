"""[video → **when each frame is shown** → spans of seconds]

Phones and screen recorders store a frame when something changes, so the number of a frame says little about its time.
"""

import math
import os

import numpy as np
import numpy.typing as npt

from hcml_lightning.data.decode import probe
from hcml_lightning.data.stored_index import find_index
from hcml_lightning.data.video_file import open_video
from hcml_lightning.data.video_index import frame_rate

FloatArray = npt.NDArray[np.float64]


def frame_times(path: str) -> FloatArray:
    """Return the times at which the frames of a video are shown.

    Args:
        path: video file, or folder of images. If its frame rate is missing or impossible, 12 frames per second are
            assumed.

    Returns:
        Seconds from the first frame, for each of the N frames and for the end of the last one, which is assumed to last
        as long as the average: ascending, (N + 1,).

    Raises:
        VideoError: if the video cannot be read.
    """
    info = probe(path)
    rate = frame_rate(info)
    regular = np.arange(info.num_frames + 1) / float(rate)
    if os.path.isdir(path) or not math.isclose(rate, info.fps, rel_tol=1e-4):
        return regular
    index = find_index(path)
    with open_video(path) as (_, stream):
        tick = stream.time_base
    if index.sequential or not tick:
        return regular
    ticks = (index.pts - index.pts[0]).astype(np.float64)
    ticks = np.append(ticks, ticks[-1] + float(1 / (rate * tick)))
    # A single division at the end, so that 12 frames of 1/25 s take exactly 0.48 s.
    times: FloatArray = ticks * tick.numerator / tick.denominator
    return times

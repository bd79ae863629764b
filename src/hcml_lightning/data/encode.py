"""[frames → **video file**]

Encode generated or drawn frames as a video.
"""

from collections.abc import Mapping
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.stream import VideoStream


def encode(
    container: OutputContainer,
    codec: str,
    frames: npt.NDArray[np.uint8],
    fps: int,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write frames as the only stream of a container, in one thread, so that the same frames give the same bytes.

    Args:
        container: container opened for writing.
        codec: FFmpeg's name of the encoder.
        frames: RGB, (T, H, W, 3), H and W even.
        fps: frames per second.
        options: options of the encoder.
    """
    stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=dict(options or {})))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1
    for picture in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode(None))

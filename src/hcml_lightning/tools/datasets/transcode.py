"""[video → **its copy for training**]

Encodes a video as small as training needs it, and quick to seek in: short side scaled down, H.264 with a key frame
every few frames, no audio, and as many frames as the source.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from hcml_lightning.data.decode import VideoError, VideoInfo, probe, upright_frames
from hcml_lightning.data.video_index import frame_rate


class TargetError(OSError):
    """The copy cannot be written, for a reason that would prevent any other copy too."""


@dataclass(frozen=True)
class Encoding:
    """How copies are made.

    Attributes:
        short_side: rows or columns of the copy, whichever are fewer, pixels; smaller videos are not scaled up.
        gop: frames from one key frame to the next.
        crf: quality of H.264: 18 is hard to tell from the source, 23 is libx264's default.
        preset: preset of libx264, which sets how much time it spends on a smaller file.
    """

    short_side: int = 256
    gop: int = 12
    crf: int = 20
    preset: str = "veryfast"


def copy_size(info: VideoInfo, short_side: int) -> tuple[int, int]:
    """Return width and height of the copy: even, as H.264 requires, and never larger than those of the source.

    Example:
        >>> copy_size(VideoInfo(1, 25.0, 1920, 1080), 256), copy_size(VideoInfo(1, 12.0, 133, 100), 256)
        ((456, 256), (132, 100))
    """
    scale = min(1.0, short_side / min(info.width, info.height))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (info.width, info.height))
    # Rounding must not scale up an odd side.
    return min(width, info.width // 2 * 2 or 2), min(height, info.height // 2 * 2 or 2)


def encode(path: str, encoding: Encoding) -> tuple[bytes, int]:
    """Decode a video and encode its copy, in memory.

    Args:
        path: video file, or folder of images.
        encoding: settings of the encoder.

    Returns:
        Content of an mp4 file, always the same for the same video, and its number of frames.

    Raises:
        VideoError: if a frame of the source is damaged or missing.
    """
    info = probe(path)
    content = io.BytesIO()
    try:
        count = _encode_into(content, path, info, encoding)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be encoded ({error})") from error
    return content.getvalue(), count


def _encode_into(content: io.BytesIO, path: str, info: VideoInfo, encoding: Encoding) -> int:
    rate = frame_rate(info)
    width, height = copy_size(info, encoding.short_side)
    count = 0
    with av.open(content, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        settings = {
            "crf": str(encoding.crf),
            "preset": encoding.preset,
            "g": str(encoding.gop),
            # Key frames at equal distances only: more of them at scene cuts would increase the size.
            "sc_threshold": "0",
            # With mbtree, libx264's vector code gives a different result for the same frames once in a few hundred
            # times; and mbtree looks ahead further than a short GOP reaches.
            "mbtree": "0",
            "bf": "2",
        }
        stream = container.add_stream("libx264", rate=rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # With more threads the result would depend on their number.
        stream.thread_count = 1
        scaler = VideoReformatter()
        for frame in upright_frames(path):
            picture = scaler.reformat(
                frame, width=width, height=height, format="yuv420p", interpolation="AREA", threads=1
            )
            picture.pts, picture.time_base = count, 1 / rate
            # Otherwise the encoder would have to keep the type of each source frame (key frame or not).
            picture.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode(None))
    return count


def make_copy(source: str, target: Path, scratch: Path, encoding: Encoding) -> int:
    """Write the copy of a video; it appears when it is complete.

    Args:
        source: video file, or folder of images.
        target: path of the copy, on the same file system as `scratch`.
        scratch: folder for unfinished files.
        encoding: settings of the encoder.

    Returns:
        Number of frames.

    Raises:
        VideoError: if the source cannot be read, or the written copy does not have all of its frames.
        TargetError: if the copy cannot be written.
    """
    content, count = encode(source, encoding)
    # Named after this process, because one left over from an earlier start may still write the same video.
    partial = scratch / f"{os.getpid()}.mp4"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written = probe(partial).num_frames
        if written == count:
            partial.replace(target)
    except OSError as error:
        raise TargetError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    if written != count:
        raise VideoError(f"{source}: its copy has {written} frames instead of {count}")
    return count

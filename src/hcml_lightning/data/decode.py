"""[**video file → frames** → batch → model → loss → metric]

A path and frame numbers become uint8 frames, through PyAV: exactly the frames asked for, each recognised by its time
stamp, or an error that names the file. A folder of JPEG files is a video too.

What makes it exact and fast: one pass over the packets, without decoding, lists the time stamp of every frame (headers
lie, and webm has no frame count at all); decoding starts at the key frame before the first frame wanted, in one thread
(parallelism belongs to the workers of the data loader), leaves out frames that nobody needs, and ends at the last one
wanted.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor


class VideoError(ValueError):
    """A video that cannot be read as asked; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        num_frames: number of frames that can be asked for, counted, not taken from the header.
        fps: frames in a second, on average.
        width: pixels.
        height: pixels.
    """

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class _Index:
    """Time stamps of a file: of all frames, of the packets that carry them, and of the key frames (pts, dts)."""

    info: VideoInfo
    pts: tuple[int, ...]
    pts_of_dts: dict[int, int]
    keys: tuple[tuple[int, int], ...]


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Count the frames of a video and read its size, without decoding it.

    Args:
        path: video file, or folder of JPEG frames.

    Returns:
        Number of frames, frame rate, width and height.

    Raises:
        VideoError: if the file is missing, empty, cut short or no video.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return _probe_images(path)
    return _cached_index(*_identity(path)).info


def read_frames(path: str | os.PathLike[str], numbers: Sequence[int]) -> Tensor:
    """Decode frames by their numbers.

    Args:
        path: video file, or folder of JPEG frames.
        numbers: frame numbers from 0, in any order; repetitions are allowed.

    Returns:
        RGB, uint8, shape (T, H, W, 3), in the order of `numbers`.

    Raises:
        VideoError: if the video is missing, damaged or no video, or has no such frame.
    """
    path = os.fspath(path)
    info = probe(path)
    for number in numbers:
        if not 0 <= number < info.num_frames:
            raise VideoError(
                f"{path}: frame {number} was asked for, but the video has frames 0 to "
                f"{info.num_frames - 1}."
            )
    if os.path.isdir(path):
        return _read_images(path, info, numbers)
    return _decode(path, _cached_index(*_identity(path)), numbers)


def _identity(path: str) -> tuple[str, int, int]:
    """The file and its version: an index must not outlive the file it was made from."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}).") from error
    if stat.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes).")
    return path, stat.st_size, stat.st_mtime_ns


@contextmanager
def _open(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file for one-threaded decoding; whatever FFmpeg raises becomes an error with the name of the file."""
    try:
        # Some genuine files have metadata that is not UTF-8.
        with av.open(path, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: the file has no video stream.")
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: {_what_is_wrong(path)} ({error}).") from error


def _what_is_wrong(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(256)
    if start.startswith(b"version https://git-lfs"):
        return "the file is a git-LFS pointer, not the video itself; fetch it with `git lfs pull`"
    if start.isascii() and start.decode().isprintable():
        return "the file is text, not a video"
    return "the file is no video, damaged or cut short"


@lru_cache(maxsize=256)
def _cached_index(path: str, size: int, modified: int) -> _Index:
    """List all time stamps by one pass over the packets."""
    with _open(path) as (container, stream):
        packets = [
            (packet.pts if packet.pts is not None else packet.dts, packet.dts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        stamped = [(p, d if d is not None else p, key) for p, d, key in packets if p is not None]
        if not stamped:
            raise VideoError(f"{path}: the file has no frames.")
        pts = tuple(sorted({p for p, _, _ in stamped}))
        rate = stream.average_rate or stream.guessed_rate
        context = stream.codec_context
        return _Index(
            info=VideoInfo(len(pts), float(rate) if rate else 0.0, context.width, context.height),
            pts=pts,
            pts_of_dts={d: p for p, d, _ in stamped},
            keys=tuple(sorted((p, d) for p, d, key in stamped if key)),
        )


def _decode(path: str, index: _Index, numbers: Sequence[int]) -> Tensor:
    info = index.info
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        rows.setdefault(index.pts[number], []).append(row)
    frames = torch.empty((len(numbers), info.height, info.width, 3), dtype=torch.uint8)
    buffer = frames.numpy()
    # One converter for all frames: a new one for each costs twenty times as much as the conversion.
    converter = VideoReformatter()
    missing = dict(rows)
    for pts, frame in _frames_at(path, index, rows):
        picture = converter.reformat(
            frame, width=info.width, height=info.height, format="rgb24", threads=1
        )
        plane = picture.planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(info.height, plane.line_size)  # type: ignore[call-overload]
        pixels = lines[:, : info.width * 3].reshape(info.height, info.width, 3)
        buffer[missing.pop(pts)] = pixels
        if not missing:
            return frames
    lost = sorted(index.pts.index(pts) for pts in missing)
    raise VideoError(
        f"{path}: frame {lost[0]} cannot be decoded ({len(lost)} of {len(rows)} frames are lost); "
        "the file is damaged or cut short."
    )


def _frames_at(
    path: str, index: _Index, wanted: dict[int, list[int]]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames, each once, with their time stamps, in the order of decoding."""
    if not wanted:
        return
    first = bisect_right(index.keys, (min(wanted), 1 << 62)) - 1
    done: set[int] = set()
    with _open(path) as (container, stream):
        context = stream.codec_context
        if first > 0:
            container.seek(index.keys[first][1], stream=stream, backward=True)
        for packet in container.demux(stream):
            if packet.size and packet.dts is not None:
                # AVI loses the time stamps of presentation after a seek.
                packet.pts = index.pts_of_dts.get(packet.dts, packet.pts)
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                pts = frame.pts
                if pts in wanted and pts not in done:
                    done.add(pts)
                    yield pts, frame
            if len(done) == len(wanted):
                return


def _image_files(path: str) -> list[str]:
    files = [
        name for name in os.listdir(path) if name.lower().endswith((".jpg", ".jpeg", ".png"))
    ]
    if not files:
        raise VideoError(f"{path}: the folder holds no JPEG or PNG frames.")
    return sorted(files, key=lambda name: (_number(name), name))


def _number(name: str) -> int:
    """The number in the name of a frame: 2.jpg comes before 10.jpg."""
    digits = "".join(c if c.isdigit() else " " for c in Path(name).stem).split()
    return int(digits[-1]) if digits else -1


def _probe_images(path: str) -> VideoInfo:
    from PIL import Image

    files = _image_files(path)
    with Image.open(os.path.join(path, files[0])) as image:
        return VideoInfo(len(files), 0.0, image.width, image.height)


def _read_images(path: str, info: VideoInfo, numbers: Sequence[int]) -> Tensor:
    from PIL import Image

    files = _image_files(path)
    frames = torch.empty((len(numbers), info.height, info.width, 3), dtype=torch.uint8)
    buffer = frames.numpy()
    for row, number in enumerate(numbers):
        file = os.path.join(path, files[number])
        with Image.open(file) as image:
            buffer[row] = np.asarray(image.convert("RGB"))
    return frames

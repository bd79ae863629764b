"""[**video file → frames** → batch → model → loss → metric]

Decode frames with PyAV, as uint8, by their numbers, from a path or from the content of a file: exactly the frames asked
for, each identified by its time stamp, or an error that names the file. A folder of images is a video too.

Decoding starts at the key frame before the first wanted frame, skips unwanted frames that no other frame depends on,
and ends at the last wanted frame.
"""

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import BinaryIO, TypeGuard, cast

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from hcml_lightning.data.image_folder import probe_images, read_images
from hcml_lightning.data.stored_index import StoredVideo, find_index
from hcml_lightning.data.video_file import VideoError, exact_decoder, name_of, open_video
from hcml_lightning.data.video_index import VideoIndex, VideoInfo

__all__ = ["VideoError", "VideoInfo", "VideoSource", "check_video", "probe", "read_frames"]

VideoSource = str | os.PathLike[str] | bytes | BinaryIO


def probe(path: VideoSource, stored: StoredVideo | None = None) -> VideoInfo:
    """Count the frames of a video and find their size, without decoding more than the first if possible.

    Args:
        path: video file, or folder of images; or the content of a video file, as bytes or as a binary file object,
            which is read completely, from its start.
        stored: what a manifest says about the file; used only if the file is unchanged.

    Returns:
        Number of frames, frame rate, width and height.

    Raises:
        VideoError: if the file is missing, empty, cut short or not a video.
    """
    path = _path_or_content(path)
    return _info_of_images(path, stored) if _is_folder(path) else find_index(path, stored).info


def read_frames(
    path: VideoSource, numbers: Sequence[int], stored: StoredVideo | None = None
) -> Tensor:
    """Decode frames by their numbers.

    Args:
        path: video file, folder of images, or content of a video file, as in `probe`.
        numbers: frame numbers from 0, in any order; repetitions are allowed.
        stored: what a manifest says about the file; used only if the file is unchanged.

    Returns:
        RGB, uint8, shape (T, H, W, 3), in the order of `numbers`.

    Raises:
        VideoError: if the video is missing, damaged where it is read, not a video, or lacks one of the frames.
    """
    path = _path_or_content(path)
    if _is_folder(path):
        info = _info_of_images(path, stored)
        _refuse_others(path, numbers, info)
        return read_images(path, numbers, info)
    index = find_index(path, stored)
    _refuse_others(path, numbers, index.info)
    return _read_video(path, index, numbers)


def check_video(path: str | os.PathLike[str]) -> VideoInfo:
    """Decode a whole video, to find any damage.

    Args:
        path: video file, or folder of images.

    Returns:
        Number of frames, frame rate, width and height.

    Raises:
        VideoError: if a frame is damaged or missing.
    """
    path = os.fspath(path)
    info = probe(path)
    for _ in upright_frames(path):
        pass
    return info


def upright_frames(path: str | os.PathLike[str]) -> Iterator[av.VideoFrame]:
    """Yield the frames of a whole video one by one, in the order in which they are shown, and upright.

    Args:
        path: video file, or folder of images.

    Raises:
        VideoError: if a frame is damaged or missing; raised at the end at the latest.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        info = probe_images(path)
        for number in range(info.num_frames):
            (image,) = read_images(path, [number], info).numpy()
            yield av.VideoFrame.from_ndarray(image, format="rgb24")
        return
    index = find_index(path)
    lost = {pts: number for number, pts in enumerate(index.pts.tolist())}
    converter = VideoReformatter()
    for pts, frame in _decode(path, index, list(lost)):
        del lost[pts]
        if index.rotation:
            upright = np.ascontiguousarray(_pixels(frame, index, converter))
            yield av.VideoFrame.from_ndarray(upright, format="rgb24")
        else:
            yield frame
    _raise_if_lost(path, list(lost.values()))


def _path_or_content(path: VideoSource) -> str | bytes:
    if isinstance(path, bytes):
        return path
    if isinstance(path, str | os.PathLike):
        return os.fspath(path)
    path.seek(0)
    return path.read()


def _is_folder(path: str | bytes) -> TypeGuard[str]:
    return isinstance(path, str) and os.path.isdir(path)


def _info_of_images(path: str, stored: StoredVideo | None) -> VideoInfo:
    if stored is not None and stored.modified == os.stat(path).st_mtime_ns:
        return stored.info
    return probe_images(path)


def _refuse_others(path: str | bytes, numbers: Sequence[int], info: VideoInfo) -> None:
    for number in numbers:
        if not 0 <= number < info.num_frames:
            raise VideoError(
                f"{name_of(path)}: frame {number} was requested, but the video has frames 0 to "
                f"{info.num_frames - 1}."
            )


def _read_video(path: str | bytes, index: VideoIndex, numbers: Sequence[int]) -> Tensor:
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        rows.setdefault(int(index.pts[number]), []).append(row)
    frames = torch.empty((len(numbers), index.info.height, index.info.width, 3), dtype=torch.uint8)
    buffer = frames.numpy()
    # One converter for all frames, because creating one takes twenty times as long as converting a frame.
    converter = VideoReformatter()
    for pts, frame in _decode(path, index, rows):
        buffer[rows.pop(pts)] = _pixels(frame, index, converter)
    _raise_if_lost(path, [numbers[row] for lost in rows.values() for row in lost])
    return frames


def _pixels(
    frame: av.VideoFrame, index: VideoIndex, converter: VideoReformatter
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Convert a frame to RGB and turn it upright, (H, W, 3)."""
    width, height = index.info.width, index.info.height
    if index.rotation % 2:
        width, height = height, width
    picture = converter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
    plane = picture.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
    stored = lines[:, : width * 3].reshape(height, width, 3)
    return np.rot90(stored[::-1] if index.rotation >= 4 else stored, index.rotation)


def _raise_if_lost(path: str | bytes, numbers: list[int]) -> None:
    if numbers:
        raise VideoError(
            f"{name_of(path)}: the file is damaged: frame {min(numbers)} cannot be decoded "
            f"({len(numbers)} such frames were requested)."
        )


def _decode(
    path: str | bytes, index: VideoIndex, stamps: Collection[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames with the given time stamps, each once, in the order in which they are shown.

    Raises:
        VideoError: if a frame that is decoded on the way is damaged, because the following ones are predicted from it.
    """
    wanted = set(stamps)
    if not wanted:
        return
    frames = _count_frames(path) if index.sequential else _stamped_frames(path, index, wanted)
    for pts, frame in frames:
        if frame.is_corrupt:
            number = int(np.searchsorted(index.pts, pts))
            raise VideoError(f"{name_of(path)}: the file is damaged at frame {number}.")
        if pts in wanted:
            wanted.remove(pts)
            yield pts, frame
        if not wanted:
            return


def _count_frames(path: str | bytes) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from the start, and yield each frame with its number in the order of output."""
    with open_video(path) as (container, stream):
        yield from enumerate(container.decode(stream))


def _stamped_frames(
    path: str | bytes, index: VideoIndex, wanted: Collection[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from the key frame before the first wanted frame, skipping unwanted frames that no frame depends on."""
    last_key = bisect_right([pts for pts, _ in index.keys], min(wanted)) - 1
    # If the file was cut, the key frame of its first frames may lie before the cut and not be shown.
    start, seek_to = index.keys[last_key] if last_key >= 0 else (int(index.pts[0]), 0)
    with open_video(path) as (container, stream):
        decoder = exact_decoder(stream)
        if last_key > 0:
            container.seek(seek_to, stream=stream, backward=True)
        for packet in _needed(container.demux(stream), decoder, index, frozenset(wanted)):
            for frame in decoder.decode(packet):
                # Frames shown before the key frame lack the frames that they are predicted from.
                if frame.pts is not None and frame.pts >= start:
                    yield frame.pts, frame


def _needed(
    packets: "Iterable[Packet[VideoStream]]",
    decoder: VideoCodecContext,
    index: VideoIndex,
    wanted: Collection[int],
) -> "Iterator[Packet[VideoStream] | None]":
    """Yield packets up to the last wanted one, then None, which makes the decoder output its delayed frames."""
    missing = set(wanted)
    # libdav1d delays its frames, and drops even wanted ones if `skip_frame` is set by the time they are output.
    may_skip = decoder.name != "libdav1d"
    skips = None
    for packet in packets:
        if packet.size:
            # After a seek, the packets of an AVI file have no presentation time stamps.
            if packet.dts in index.pts_of_dts:
                packet.pts = index.pts_of_dts[packet.dts]
            is_wanted = packet.pts in wanted
            # The two fields of an interlaced frame may be separate packets, with the same time stamp or one without
            # any: a wanted frame is complete only when a packet with another time stamp comes.
            if not missing and packet.pts is not None and not is_wanted:
                break
            missing.discard(cast(int, packet.pts))
            if may_skip and skips is not (not is_wanted):
                skips = not is_wanted
                decoder.skip_frame = "NONREF" if skips else "DEFAULT"
            yield packet
    yield None

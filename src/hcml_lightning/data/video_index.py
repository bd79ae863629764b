"""[**video file → time stamps** → frames → batch → model → loss → metric]

Find what a video file holds by one pass over its packets. Headers are not reliable (a file that was cut short still
announces all of its frames), and some formats have no frame count at all. Only the first frame is decoded, except in
files without usable time stamps, whose frames are decoded to count them.
"""

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from stat import S_ISREG
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from hcml_lightning.data.video_file import VideoError, cannot_open, check_size, name_of, open_video

# Frames per second at which Something-Something V1 was cut into images; a folder of images does not store its rate.
RATE_OF_IMAGES = 12
# A header with a rate outside of these limits is damaged, or gives the unit of its time stamps instead.
LOWEST_RATE, HIGHEST_RATE = 1, 240


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        num_frames: number of frames that can be read; counted, not taken from the header.
        fps: average number of frames per second; 0 if unknown.
        width: pixels, as displayed, but counted as square even if the file says that they are not.
        height: pixels, as displayed.
    """

    num_frames: int
    fps: float
    width: int
    height: int


def frame_rate(info: VideoInfo) -> Fraction:
    """Return the frames per second; those of Something-Something V1 if the file gives none or an implausible number.

    Example:
        >>> frame_rate(VideoInfo(1, 29.97002997, 64, 48)), frame_rate(VideoInfo(1, 0.0, 64, 48))
        (Fraction(30000, 1001), Fraction(12, 1))
    """
    known = LOWEST_RATE <= info.fps <= HIGHEST_RATE
    return Fraction(info.fps if known else RATE_OF_IMAGES).limit_denominator(1001)


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are.

    Attributes:
        info: size and number of frames.
        pts: time stamp of each frame, ascending; the number of the frame if the file is `sequential`.
        pts_of_dts: presentation time stamp of each packet by its decoding time stamp, if the format (AVI) stores only
            the latter; else empty.
        keys: (pts, stamp to seek to) of each key frame, ascending.
        rotation: quarter turns, counter-clockwise, from the frames as stored to the frames as displayed; 4 more if they
            are mirrored, top to bottom, before they are turned.
        sequential: whether time stamps are unusable, so that frames are counted from the start of the file.
    """

    info: VideoInfo
    pts: npt.NDArray[np.int64]
    pts_of_dts: dict[int, int]
    keys: tuple[tuple[int, int], ...]
    rotation: int
    sequential: bool


def index_video(path: str | bytes) -> VideoIndex:
    """Return the index of a video file, cached until the file changes, or of the content of a file.

    Raises:
        VideoError: if the file is missing, empty, not a video or cut short.
    """
    if isinstance(path, bytes):
        if not path:
            raise VideoError(f"{name_of(path)}: the file is empty (0 bytes).")
        return _scan(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise cannot_open(path, error) from error
    if not S_ISREG(stat.st_mode):
        raise VideoError(f"{path}: is a pipe, a socket or a device; expected a file.")
    if stat.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes).")
    return _cached_index(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2048)
def _cached_index(path: str, size: int, modified: int) -> VideoIndex:
    return _scan(path)


def _scan(path: str | bytes) -> VideoIndex:
    with open_video(path) as (container, stream):
        return _Scan(name_of(path), container, stream).index()


class _Scan:
    """One pass over the packets of a file."""

    def __init__(self, name: str, container: InputContainer, stream: VideoStream) -> None:
        self.name = name
        self.container = container
        self.stream = stream
        self.is_avi = container.format.name == "avi"
        self.packed = _is_packed(stream.codec_context.extradata) or _is_misnamed(container, stream)
        self.stamps: list[tuple[int, int, bool]] = []
        self.first: av.VideoFrame | None = None
        self.decoded = 0
        self.discarded = 0
        self.end = 0.0

    def index(self) -> VideoIndex:
        for packet in self.container.demux():
            if packet.is_corrupt:
                raise VideoError(
                    f"{self.name}: the file is cut short or damaged: packet {len(self.stamps)} is incomplete, and "
                    f"its header promises {self.stream.frames or 'an unknown number of'} frames."
                )
            if packet.dts is not None and packet.time_base is not None:
                end = (packet.dts if packet.pts is None else packet.pts) + (packet.duration or 0)
                self.end = max(self.end, float(end * packet.time_base))
            if packet.stream.index == self.stream.index:
                self._take(cast("Packet[VideoStream]", packet))
        if self.first is None or not self.stamps:
            raise VideoError(f"{self.name}: the file has no frames.")
        self._check_length()
        return self._result(self.first)

    def _take(self, packet: "Packet[VideoStream]") -> None:
        pts = packet.dts if packet.pts is None else packet.pts
        if packet.size and pts is not None and _is_shown(packet):
            self.packed = self.packed or (not self.stamps and _is_packed(bytes(packet)))
            dts = pts if packet.dts is None else packet.dts
            self.stamps.append((dts, pts, packet.is_keyframe))
        elif packet.size and packet.is_discard:
            self.discarded += 1
        if self.first is None or self.packed:
            for frame in self.stream.codec_context.decode(packet):
                self.first = self.first or frame
                self.decoded += 1

    def _check_length(self) -> None:
        """Compare what the header announces with what was found."""
        dts = [dts for dts, _, _ in self.stamps]
        # The header also counts packets that a cut left before the start and, in AVI, dropped frames, which leave gaps
        # in the time stamps.
        found = len(dts) + self.discarded
        if self.is_avi:
            found = max(found, dts[-1] - dts[0] + 1)
        promised = self.stream.frames
        if promised - found > max(1, promised // 100):
            raise VideoError(
                f"{self.name}: the file is cut short or damaged: its header promises {promised} "
                f"frames, but it holds {found}."
            )
        seconds = (self.container.duration or 0) / av.time_base
        if not promised and seconds - self.end > max(0.5, 0.05 * seconds):
            raise VideoError(
                f"{self.name}: the file is cut short: its header promises {seconds:.1f} s, but it "
                f"ends after {self.end:.1f} s."
            )

    def _result(self, first: av.VideoFrame) -> VideoIndex:
        pts = sorted({pts for _, pts, _ in self.stamps})
        if self.packed:
            pts = list(range(self.decoded))
        rate = self.stream.average_rate
        check_size(self.name, first.width, first.height)
        turns = round(first.rotation / 90) % 4 + 4 * _is_mirrored(first)
        size = (first.width, first.height) if turns % 2 == 0 else (first.height, first.width)
        stores_pts = "matroska" in self.container.format.name
        keys = [(pts, pts if stores_pts else dts) for dts, pts, key in self.stamps if key]
        return VideoIndex(
            info=VideoInfo(len(pts), float(rate) if rate else 0.0, *size),
            pts=np.array(pts),
            pts_of_dts={dts: pts for dts, pts, _ in self.stamps} if self.is_avi else {},
            keys=tuple(sorted(keys)),
            rotation=turns,
            sequential=self.packed,
        )


def _is_mirrored(frame: av.VideoFrame) -> bool:
    """Return whether a frame is displayed mirrored, as videos of a front camera may be."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(float)
    return bool(a * d - b * c < 0)


def _is_packed(header: bytes | None) -> bool:
    """Return whether DivX or XviD put a P- and a B-frame into one packet and an empty one after it.

    Such a file has no time stamps of its own, and those that FFmpeg infers belong to the wrong frames, but the order in
    which frames are output is right. Many videos of UCF-101 and HMDB-51 are of this kind.
    """
    return re.search(rb"DivX\d+(?:b|Build)\d+p", header or b"") is not None


def _is_misnamed(container: InputContainer, stream: VideoStream) -> bool:
    """Return whether FFmpeg infers wrong time stamps, because AVI stores none for frames that are out of order."""
    context = stream.codec_context
    return (
        container.format.name == "avi" and context.name in ("h264", "hevc") and context.has_b_frames
    )


def _is_shown(packet: "Packet[VideoStream]") -> bool:
    """Return whether the frame of a packet is shown: VP8 has hidden ones, and a cut may leave some before the start."""
    if packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)

"""[**video file → time stamps** → frames → batch → model → loss → metric]

What a video file holds, found by one pass over its packets: headers lie (a file that was cut short still promises all
of its frames), and some formats have no frame count at all. Nothing is decoded but the first frame.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from stat import S_ISREG
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream


class VideoError(ValueError):
    """A video that cannot be read as asked; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        num_frames: number of frames that can be asked for, counted, not taken from the header.
        fps: frames in a second, on average; 0 where unknown.
        width: pixels, as displayed.
        height: pixels, as displayed.
    """

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are.

    Attributes:
        info: size and number of frames.
        pts: time stamp of each frame, ascending; for a `sequential` file its number.
        pts_of_dts: presentation time stamp of each packet by its decoding time stamp, where the format (AVI) stores
            only the latter; else empty.
        keys: (pts, stamp to seek to) of each key frame, ascending.
        rotation: quarter turns, counter-clockwise, from the frames as stored to the frames as displayed.
        sequential: whether time stamps are no use, so that frames are counted from the start of the file.
    """

    info: VideoInfo
    pts: npt.NDArray[np.int64]
    pts_of_dts: dict[int, int]
    keys: tuple[tuple[int, int], ...]
    rotation: int
    sequential: bool


def index_video(path: str | bytes) -> VideoIndex:
    """Find the frames of a video file, remembered until the file changes, or of the content of one.

    Raises:
        VideoError: if the file is missing, empty, no video or cut short.
    """
    if isinstance(path, bytes):
        if not path:
            raise VideoError(f"{name_of(path)}: the file is empty (0 bytes).")
        return _scan(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}).") from error
    if not S_ISREG(stat.st_mode):
        raise VideoError(f"{path}: is a pipe, a socket or a device; expected a file.")
    if stat.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes).")
    return _cached_index(path, stat.st_size, stat.st_mtime_ns)


# Formats that hold their video themselves. FFmpeg knows others, playlists say, that are text and make it read whatever
# other file they name, whatever the name of the file is.
FORMATS = ",".join(
    (
        "avi",
        "matroska,webm",
        "mov,mp4,m4a,3gp,3g2,mj2",
        "mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf",
        "flv,asf,ogg,gif,nut,dv,rm,mxf",
        # Sound alone is told from damage.
        "wav,mp3,flac,aac",
    )
)
# Twice the pixels of 8K video. A header of a few bytes can promise frames that fill the memory.
LARGEST_FRAME = 2**26


def name_of(path: str | bytes) -> str:
    """What messages call a video.

    Example:
        >>> name_of("a.mp4"), name_of(b"...")
        ('a.mp4', 'a video given as 3 bytes')
    """
    return path if isinstance(path, str) else f"a video given as {len(path)} bytes"


@contextmanager
def open_video(path: str | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file to decode it in one thread; what FFmpeg raises becomes an error with the name of the file."""
    try:
        # Some genuine files have metadata that is not UTF-8. Without `file:` a name may be taken for a URL.
        file = io.BytesIO(path) if isinstance(path, bytes) else f"file:{path}"
        with av.open(
            file,
            "r",
            metadata_errors="ignore",
            options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        ) as container:
            if not container.streams.video:
                raise VideoError(f"{name_of(path)}: the file has no video stream.")
            stream = container.streams.video[0]
            context = stream.codec_context
            check_size(name_of(path), context.width, context.height)
            _use_one_thread(context)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        problem = f"{_what_is_wrong(path)} ({error.strerror})"
        raise VideoError(f"{name_of(path)}: {problem}.") from error


def check_size(path: str, width: int, height: int) -> None:
    """Refuse frames of a size that no camera has.

    Raises:
        VideoError: naming the file.
    """
    if width * height > LARGEST_FRAME:
        raise VideoError(
            f"{path}: frames of {width}×{height} pixels, more than {LARGEST_FRAME / 1e6:.0f} million, are damage or "
            "made to fill the memory."
        )


def exact_decoder(stream: VideoStream) -> VideoCodecContext:
    """Give the decoder that tells damage, where there are several.

    VP9 has no checksums. Only libvpx looks whether the data of a tile end where they should, and after nearly every
    flipped bit they do not; FFmpeg's own decoder goes on with other pictures. Both give the same ones of a whole file.
    """
    context = stream.codec_context
    if context.name != "vp9" or "libvpx-vp9" not in av.codecs_available:
        return context
    exact = av.CodecContext.create("libvpx-vp9", "r")
    exact.extradata = context.extradata
    _use_one_thread(exact)
    return exact


def _use_one_thread(context: VideoCodecContext) -> None:
    # Parallelism belongs to the workers of the data loader; threads of FFmpeg would compete with them.
    context.thread_type = "NONE"
    context.thread_count = 1


def _what_is_wrong(path: str | bytes) -> str:
    try:
        start = path[:256] if isinstance(path, bytes) else _start_of(path)
    except OSError:
        return "the file cannot be read"
    if start.lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"ffconcat")):
        return "the file is a playlist, which names other files; give those themselves"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a git-LFS pointer, not the video itself; fetch it with `git lfs pull`"
    if start.isascii() and start.decode().replace("\n", " ").strip().isprintable():
        return "the file is text, not a video"
    return "the file is no video, or it is damaged or cut short"


def _start_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(256)


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
        self.packed = _is_packed(stream.codec_context.extradata)
        self.stamps: list[tuple[int, int, bool]] = []
        self.first: av.VideoFrame | None = None
        self.decoded = 0
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
        if self.first is None or self.packed:
            for frame in self.stream.codec_context.decode(packet):
                self.first = self.first or frame
                self.decoded += 1

    def _check_length(self) -> None:
        """Compare what the header promises with what was found."""
        dts = [dts for dts, _, _ in self.stamps]
        # AVI counts dropped frames too: there the time stamps are frame numbers.
        found = len(dts)
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
        turns = round(first.rotation / 90) % 4
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


def _is_packed(header: bytes | None) -> bool:
    """Whether DivX or XviD put a P- and a B-frame into one packet and an empty one after it.

    Such a file has no time stamps of its own, and those that FFmpeg infers name the wrong frames; the order in which
    frames come out is right. Many videos of UCF-101 and HMDB-51 are of this kind.
    """
    return re.search(rb"DivX\d+(?:b|Build)\d+p", header or b"") is not None


def _is_shown(packet: "Packet[VideoStream]") -> bool:
    """Whether a packet gives a frame: VP8 has hidden ones, and a cut may leave some before the start."""
    if packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)

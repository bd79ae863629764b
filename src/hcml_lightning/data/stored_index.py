"""[video file → **stored time stamps** → frames → batch → model → loss → metric]

The index of a video as one line of text, so that a manifest can store it and later runs need not scan the file for its
frames again. The stored index is used only if size and modification time of the file are unchanged.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hcml_lightning.data.video_file import cannot_open
from hcml_lightning.data.video_index import VideoIndex, VideoInfo, index_video


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """What was found in a video, and the state of the file at that time.

    Attributes:
        info: size and number of frames.
        size: size in bytes of the file, or of all images of a folder together.
        modified: modification time of the file or folder, nanoseconds.
        index: where the frames are, in the format of `pack_index`; empty for a folder of images.
    """

    info: VideoInfo
    size: int
    modified: int
    index: str


def find_index(path: str | bytes, stored: StoredVideo | None = None) -> VideoIndex:
    """Return the index of a video file: the stored one if the file is unchanged, else one from a pass over its packets.

    Raises:
        VideoError: if the file is missing, empty, not a video or cut short.
    """
    if stored is None or not stored.index:
        return index_video(path)
    if isinstance(path, bytes):
        # The stored index of a file is also valid for its content as bytes, of which only the size can be compared.
        same = len(path) == stored.size
        return unpack_index(stored.index, stored.info) if same else index_video(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise cannot_open(path, error) from error
    if (stat.st_size, stat.st_mtime_ns) != (stored.size, stored.modified):
        return index_video(path)
    return unpack_index(stored.index, stored.info)


def pack_index(index: VideoIndex) -> str:
    """Return an index as text without line ends, in which time stamps are runs of equal steps.

    Example:
        >>> info = VideoInfo(4, 25.0, 64, 48)
        >>> pack_index(VideoIndex(info, np.array([0, 512, 1024, 1536]), {}, ((0, 0),), 0, False))
        '0 512*3;;0;0;0;0'
    """
    fields = [
        _pack(index.pts.tolist()),
        _pack(pts - dts for dts, pts in index.pts_of_dts.items()),
        _pack(pts for pts, _ in index.keys),
        _pack(pts - seek for pts, seek in index.keys),
        str(index.rotation),
        str(int(index.sequential)),
    ]
    if index.pts_of_dts:
        fields.append(_pack(index.pts_of_dts))
    return ";".join(fields)


def unpack_index(text: str, info: VideoInfo) -> VideoIndex:
    """Return the index that `pack_index` has written as text."""
    stamps, late, keys, early, rotation, sequential, *decoding = text.split(";")
    dts = _unpack(decoding[0]) if decoding else []
    return VideoIndex(
        info=info,
        pts=np.array(_unpack(stamps)),
        pts_of_dts={key: key + wait for key, wait in zip(dts, _unpack(late), strict=True)},
        keys=tuple((p, p - wait) for p, wait in zip(_unpack(keys), _unpack(early), strict=True)),
        rotation=int(rotation),
        sequential=sequential == "1",
    )


def _pack(values: Iterable[int]) -> str:
    """Return the first value, then the steps from each value to the next, with equal consecutive steps counted."""
    numbers = list(values)
    steps = [after - before for before, after in zip([0, *numbers], numbers, strict=False)]
    if not steps:
        return ""
    runs = [(step, len(list(run))) for step, run in groupby(steps[1:])]
    return " ".join([str(steps[0]), *(f"{s}*{n}" if n > 1 else str(s) for s, n in runs)])


def _unpack(text: str) -> list[int]:
    numbers: list[int] = []
    last = 0
    for word in text.split():
        step, _, count = word.partition("*")
        for _ in range(int(count or 1)):
            last += int(step)
            numbers.append(last)
    return numbers

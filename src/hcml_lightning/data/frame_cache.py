"""[video file → **frames kept** → batch → model → loss → metric]

Data sets of a few hundred small videos fit into memory; there each video is decoded once and not once an epoch.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from hcml_lightning.data.decode import VideoInfo, probe, read_frames
from hcml_lightning.data.stored_index import StoredVideo


class FrameCache:
    """Whole videos, decoded when they are first asked for and kept from then on.

    Args:
        limit: bytes of frames after which it gives up; half of the machine's memory where None.
    """

    def __init__(self, limit: int | None = None) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.limit = memory // 2 if limit is None else limit
        self.bytes = 0
        self._videos: dict[str, tuple[VideoInfo, Tensor]] = {}

    def probe(self, path: str, stored: StoredVideo | None = None) -> VideoInfo:
        """As `decode.probe`."""
        return self._video(path, stored)[0]

    def read_frames(
        self, path: str, numbers: Sequence[int], stored: StoredVideo | None = None
    ) -> Tensor:
        """As `decode.read_frames`, for numbers that the video has."""
        return self._video(path, stored)[1][torch.as_tensor(numbers)]

    def _video(self, path: str, stored: StoredVideo | None) -> tuple[VideoInfo, Tensor]:
        if path not in self._videos:
            info = probe(path, stored)
            frames = read_frames(path, range(info.num_frames), stored)
            self.bytes += frames.numel()
            if self.bytes > self.limit:
                raise MemoryError(
                    f"cache=true: the first {len(self._videos) + 1} videos take "
                    f"{self.bytes / 2**30:.3g} GiB of the {self.limit / 2**30:.3g} GiB that may be used. Set cache to "
                    "false (--data.cache false), or make smaller copies of the videos (hcml data prepare)"
                )
            self._videos[path] = info, frames
        return self._videos[path]

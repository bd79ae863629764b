"""[video file → **frames kept** → batch → model → loss → metric]

Datasets of a few hundred small videos fit into memory; there each video is decoded once and not once an epoch.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from hcml_lightning.data.decode import VideoInfo, probe, read_frames
from hcml_lightning.data.stored_index import StoredVideo


class FrameCache:
    """Whole videos, decoded when they are first asked for and kept from then on.

    Args:
        processes: how many on this machine keep videos, each its own.
        limit: bytes of frames after which it gives up; half of the usable memory, shared by all, where None.
    """

    def __init__(self, processes: int = 1, limit: int | None = None) -> None:
        self.limit = usable_memory() // (2 * processes) if limit is None else limit
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


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that the machine has, or fewer where a container or a scheduler allows fewer.

    Args:
        root: where the system says so.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limits(root):
        # A group without a limit says "max", and the outermost one has no such file.
        with suppress(OSError, ValueError):
            sizes.append(int(file.read_text()))
    return min(sizes)


def _limits(root: Path) -> Iterator[Path]:
    """Where the limits of this process stand: of its control group, of version 2 or 1, and of those around it."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, kinds, group = line.split(":", 2)
        if not kinds:
            folder, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in kinds.split(","):
            folder, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = Path(group).parts[1:]
        for depth in range(len(parts) + 1):
            yield folder.joinpath(*parts[:depth], name)

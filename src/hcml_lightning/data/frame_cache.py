"""[video file → **frames kept** → batch → model → loss → metric]

A cache for datasets of a few hundred small videos, which fit into memory: each video is decoded once instead of once
per epoch.
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
        processes: number of processes on this machine, each of which keeps its own cache.
        limit: largest total size of the frames in bytes, above which reading raises a MemoryError; None for half of the
            usable memory, divided among the processes.
    """

    def __init__(self, processes: int = 1, limit: int | None = None) -> None:
        self.limit = usable_memory() // (2 * processes) if limit is None else limit
        self.bytes = 0
        self._videos: dict[str, tuple[VideoInfo, Tensor]] = {}

    def probe(self, path: str, stored: StoredVideo | None = None) -> VideoInfo:
        """Return the same as `decode.probe`, from the cache."""
        return self._video(path, stored)[0]

    def read_frames(
        self, path: str, numbers: Sequence[int], stored: StoredVideo | None = None
    ) -> Tensor:
        """Return the same as `decode.read_frames`, from the cache; the video must have all the `numbers`."""
        return self._video(path, stored)[1][torch.as_tensor(numbers)]

    def _video(self, path: str, stored: StoredVideo | None) -> tuple[VideoInfo, Tensor]:
        if path not in self._videos:
            info = probe(path, stored)
            frames = read_frames(path, range(info.num_frames), stored)
            self.bytes += frames.numel()
            if self.bytes > self.limit:
                raise MemoryError(
                    f"cache=true: the first {len(self._videos) + 1} videos take "
                    f"{self.bytes / 2**30:.3g} GiB, more than the {self.limit / 2**30:.3g} GiB that the cache may use; "
                    "set cache=false (--data.cache false), or make smaller copies of the videos with `hcml data "
                    "prepare`"
                )
            self._videos[path] = info, frames
        return self._videos[path]


def usable_memory(root: Path = Path("/")) -> int:
    """Return the memory of the machine in bytes, or the limit of a container or a scheduler if that is lower.

    Args:
        root: root of the file system, below which the system reports the limits in `proc` and `sys`.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limits(root):
        # The file of a group without a limit holds "max", and the outermost group has no such file.
        with suppress(OSError, ValueError):
            sizes.append(int(file.read_text()))
    return min(sizes)


def _limits(root: Path) -> Iterator[Path]:
    """Yield the files with the memory limits of this process's control group (version 2 or 1) and its parent groups."""
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

"""[video file → **sample** → batch → model → loss → metric]

A record of a split becomes a sample: choose frames, decode them, crop them. Samples become a `VideoBatch`.

Everything random in a training sample comes from (seed, epoch, index of the record), so it depends neither on the
number of workers nor on the batch size nor on what was drawn before. `loading.EpochSampler` passes the epoch together
with the index, because persistent workers hold a copy of the dataset that a `set_epoch` in the main process would never
reach.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data.decode import VideoError, VideoInfo, probe, read_frames
from hcml_lightning.data.frame_cache import FrameCache
from hcml_lightning.data.packed import PackedList
from hcml_lightning.data.sampling import FrameStride, clip_frames
from hcml_lightning.data.stored_index import StoredVideo
from hcml_lightning.data.synthetic import true_flow
from hcml_lightning.data.transforms import (
    View,
    apply_view,
    apply_view_to_flow,
    even_views,
    random_view,
)

Flip = Literal["none", "plain", "mirror"]


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video of a split.

    Attributes:
        path: video file, or folder of frames; a path-like object becomes a string.
        label: class index; -1 if it is unknown.
        video_id: name of the video in its dataset.
        stored: what the manifest of the dataset, if there is one, says about the video.
    """

    path: str
    label: int
    video_id: str
    stored: StoredVideo | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))


@dataclass(frozen=True)
class ClipRecipe:
    """How clips are cut out of videos; see `VideoDataModule` for each value.

    Attributes:
        clip_length: frames in a clip, T.
        frame_stride: frames from one frame of the clip to the next, or "spread".
        short_side: range of the scaled short side, pixels.
        crop_size: rows and columns of a clip, pixels.
        flip: whether clips are flipped, and whether a flip changes the label.
        mirror_classes: for each label that has a mirrored class, the label of that class.
        num_clips: clips of each video; if not `random`, there are clips × crops views.
        num_crops: crops of each clip.
        random: whether frames and crop are drawn at random (training) or fixed.
        multi_view: whether a sample has an axis of views, even for a single view.
        true_flow: whether to read the stored motion of synthetic videos.
    """

    clip_length: int
    frame_stride: FrameStride
    short_side: tuple[int, int]
    crop_size: int
    flip: Flip = "none"
    mirror_classes: dict[int, int] | None = None
    num_clips: int = 1
    num_crops: int = 1
    random: bool = False
    multi_view: bool = False
    true_flow: bool = False


@dataclass(frozen=True)
class Sample:
    """One entry of a `VideoBatch`."""

    video: Tensor
    label: int
    index: int
    video_id: str
    flow: Tensor | None


class VideoDataset(Dataset[Sample | None]):
    """Videos of one split, as samples.

    Args:
        records: the videos.
        recipe: how to cut clips out of them.
        seed: determines everything random, together with epoch and index.
        skip_broken: whether a video that cannot be read gives None, which `collate` leaves out, instead of an error.
            Each such file is named once in a warning.
        skip_limit: share of unreadable videos above which an error is raised nevertheless.
        cache: cache of decoded videos; None decodes each time.

    Attributes:
        labels: class index of each record, int64; -1 if it is unknown.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        recipe: ClipRecipe,
        seed: int = 0,
        skip_broken: bool = False,
        skip_limit: float = 0.05,
        cache: FrameCache | None = None,
    ) -> None:
        self.records = PackedList(records)
        self.labels = torch.tensor([record.label for record in records], dtype=torch.int64)
        self.recipe = recipe
        self.seed = seed
        self.skip_broken = skip_broken
        self.skip_limit = skip_limit
        self.probe = probe if cache is None else cache.probe
        self.read_frames = read_frames if cache is None else cache.read_frames
        # In shared memory, so that all workers count together.
        self.broken = torch.zeros(len(self.records), dtype=torch.uint8)
        self.broken.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample | None:
        """Read one sample; `key` is the index of the video, or (epoch, index).

        A random clip depends on the seed, the epoch and the index. Without an epoch, as with the samplers of PyTorch, a
        random number of PyTorch takes its place, so that each access gives another clip.

        Raises:
            IndexError: if there is no such video.
            VideoError: if the video cannot be read, and broken videos are not skipped or there are too many of them.
        """
        if isinstance(key, tuple):
            epoch, index = key
        else:
            epoch, index = int(torch.randint(1 << 31, ())) if self.recipe.random else 0, key
        # From the end, as in a list, but the video has one index alone, by which it is counted.
        index = range(len(self))[index]
        try:
            return self._read(epoch, index)
        except VideoError as error:
            if not self.skip_broken:
                raise type(error)(
                    f"{error} Download it again, or run `hcml data check` and set on_error='skip' (--data.on_error "
                    "skip) to skip every unreadable video."
                ) from error
            self._count_broken(index, error)
            return None

    def _read(self, epoch: int, index: int) -> Sample:
        record, recipe = self.records[index], self.recipe
        rng = np.random.default_rng((self.seed, epoch, index)) if recipe.random else None
        info = self.probe(record.path, record.stored)
        clips = clip_frames(
            info.num_frames, recipe.clip_length, recipe.frame_stride, rng, recipe.num_clips
        )
        views = self._views(info, rng)
        numbers = [number for clip in clips for number in clip]
        frames = self.read_frames(record.path, numbers, record.stored)
        videos = [apply_view(clip, view) for clip in frames.chunk(len(clips)) for view in views]
        flow = None
        if recipe.true_flow:
            flow = apply_view_to_flow(true_flow(record.path, clips[0]), views[0])
        label = record.label
        if views[0].flip and recipe.flip == "mirror":
            label = (recipe.mirror_classes or {}).get(label, label)
        video = torch.stack(videos) if recipe.multi_view else videos[0]
        return Sample(video, label, index, record.video_id, flow)

    def _views(self, info: VideoInfo, rng: np.random.Generator | None) -> list[View]:
        recipe = self.recipe
        if rng is None:
            return even_views(
                info.height, info.width, recipe.short_side[0], recipe.crop_size, recipe.num_crops
            )
        flip = recipe.flip != "none"
        return [
            random_view(info.height, info.width, recipe.short_side, recipe.crop_size, flip, rng)
        ]

    def _count_broken(self, index: int, error: VideoError) -> None:
        if not self.broken[index]:
            self.broken[index] = 1
            warnings.warn(f"skipped in training: {error}", stacklevel=2)
        count = int(self.broken.sum())
        if count > max(1, self.skip_limit * len(self)):
            raise VideoError(
                f"{count} of {len(self)} training videos cannot be read, more than "
                f"{self.skip_limit:.0%}; the last was {error} Run `hcml data check` to list them all."
            ) from error


def collate(samples: Sequence[Sample | None]) -> VideoBatch:
    """Stack samples into a batch, leaving out the videos that could not be read.

    Raises:
        VideoError: if no sample is left.
    """
    good = [sample for sample in samples if sample is not None]
    if not good:
        raise VideoError(
            f"none of the {len(samples)} videos in a batch can be read; raise batch_size so that some remain, or run "
            "`hcml data check` to find the broken ones"
        )
    batch = VideoBatch(
        video=torch.stack([sample.video for sample in good]),
        label=torch.tensor([sample.label for sample in good]),
        index=torch.tensor([sample.index for sample in good]),
        video_id=[sample.video_id for sample in good],
    )
    flows = [sample.flow for sample in good if sample.flow is not None]
    if flows:
        batch["flow"] = torch.stack(flows)
    return batch

"""[**splits → loaders** → batch → model → loss → metric]

What all datasets have in common: how splits become loaders of `VideoBatch`. A subclass says which classes there are and
lists the records of each split; that is all that is true of one dataset only.
"""

from abc import abstractmethod
from typing import Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data.dataset import (
    ClipRecipe,
    EpochSampler,
    Flip,
    VideoDataset,
    VideoRecord,
    collate,
)
from hcml_lightning.data.sampling import FrameStride

Split = Literal["train", "val", "test", "predict"]


class VideoDataModule(pl.LightningDataModule):
    """Loaders of video clips.

    Args:
        root: folder of the dataset.
        clip_length: frames in a clip, T.
        frame_stride: frames from one frame of the clip to the next, or "spread" for T frames over the whole video.
        short_side: range from which training draws the length of the scaled short side, pixels; validation and test
            scale to its lower end, or to the crop where that is larger.
        crop_size: rows and columns of the crops of training and validation, pixels.
        test_crop_size: rows and columns of the crops of test and prediction, pixels; None for `crop_size`.
        test_clips: clips of each video in test and prediction.
        test_crops: crops of each clip in test and prediction, along the longer side.
        batch_size: videos in a batch, on each device.
        num_workers: processes that decode, on each device.
        seed: source of order, frames and crops in training.
        flip: "plain" flips half of the training clips, as the paper does; "mirror" also swaps the label with the class
            that the flip makes of it ("left" and "right"); "none" flips nothing.
        on_error: "raise" stops at a video that cannot be read; "skip" leaves it out by name, in training up to 5 % of
            the split.
        true_flow: add the true flow of synthetic videos to the batches of training and validation.
    """

    def __init__(
        self,
        root: str,
        clip_length: int = 16,
        frame_stride: FrameStride = 2,
        short_side: tuple[int, int] = (256, 320),
        crop_size: int = 224,
        test_crop_size: int | None = 256,
        test_clips: int = 10,
        test_crops: Literal[1, 3] = 3,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        flip: Flip = "plain",
        on_error: Literal["raise", "skip"] = "raise",
        true_flow: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.root = root
        self.clip_length = clip_length
        self.frame_stride: FrameStride = frame_stride
        self.short_side = (short_side[0], short_side[1])
        self.crop_size = crop_size
        self.test_crop_size = crop_size if test_crop_size is None else test_crop_size
        self.test_clips = test_clips
        self.test_crops = test_crops
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.flip: Flip = flip
        self.on_error = on_error
        self.true_flow = true_flow
        self.class_names: list[str] = []
        self.mirror_classes: dict[int, int] = {}
        self.datasets: dict[Split, VideoDataset] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def set_classes(self, class_names: list[str]) -> None:
        """Name the classes; a subclass calls this in its constructor."""
        self.class_names = class_names
        self.mirror_classes = mirror_classes(class_names)

    @abstractmethod
    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split."""

    def setup(self, stage: str) -> None:
        """List the videos that the stage needs."""
        needed: dict[str, list[Split]] = {
            "fit": ["train", "val"],
            "validate": ["val"],
            "test": ["test"],
            "predict": ["predict"],
        }
        for split in needed[stage]:
            if split not in self.datasets:
                self.datasets[split] = VideoDataset(
                    self.records(split),
                    self._recipe(split),
                    self.seed,
                    skip_broken=self.on_error == "skip" and split == "train",
                )

    def train_dataloader(self) -> DataLoader[VideoBatch]:
        """Load shuffled random clips, (B, 3, T, H, W).

        Raises:
            ValueError: if the split is smaller than one batch on every device.
        """
        dataset = self.datasets["train"]
        ranks, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        if len(dataset) < self.batch_size * ranks:
            raise ValueError(
                f"batch_size={self.batch_size} on {ranks} device(s) needs {self.batch_size * ranks} training videos, "
                f"but the split has {len(dataset)}; every epoch would be empty. Lower batch_size."
            )
        sampler = EpochSampler(dataset, self.seed, ranks, rank)
        return self._loader("train", sampler)

    def val_dataloader(self) -> DataLoader[VideoBatch]:
        """Load the centred clip of each video, (B, 3, T, H, W)."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[VideoBatch]:
        """Load all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[VideoBatch]:
        """Load all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("predict")

    def _loader(self, split: Split, sampler: EpochSampler | None = None) -> DataLoader[VideoBatch]:
        return DataLoader(
            self.datasets[split],  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=sampler is not None,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def _recipe(self, split: Split) -> ClipRecipe:
        if split in ("test", "predict"):
            short = max(self.short_side[0], self.test_crop_size)
            return ClipRecipe(
                self.clip_length,
                self.frame_stride,
                (short, short),
                self.test_crop_size,
                num_clips=self.test_clips,
                num_crops=self.test_crops,
                multi_view=True,
            )
        return ClipRecipe(
            self.clip_length,
            self.frame_stride,
            self.short_side,
            self.crop_size,
            flip=self.flip,
            mirror_classes=self.mirror_classes,
            random=split == "train",
            true_flow=self.true_flow,
        )


_OPPOSITES = {"left": "right", "clockwise": "counterclockwise"}
_OPPOSITES |= {second: first for first, second in _OPPOSITES.items()}


def mirror_classes(class_names: list[str]) -> dict[int, int]:
    """Find the classes that a left/right flip turns into each other, by their names.

    Example:
        >>> mirror_classes(["push left to right", "lift", "push right to left"])
        {0: 2, 2: 0}
    """
    place = {name: i for i, name in enumerate(class_names)}
    mirrored = [
        " ".join(_OPPOSITES.get(word, word) for word in name.split(" ")) for name in class_names
    ]
    return {
        i: place[other]
        for i, (name, other) in enumerate(zip(class_names, mirrored, strict=True))
        if other != name and other in place
    }

"""[**splits → loaders** → batch → model → loss → metric]

What all datasets have in common: how splits become loaders of `VideoBatch`. A subclass says which classes there are and
lists the records of each split (`listed.py`); that is all that is true of one dataset only.
"""

import inspect
import os
import weakref
from dataclasses import replace
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data.dataset import ClipRecipe, Flip, VideoDataset, collate
from hcml_lightning.data.frame_cache import FrameCache
from hcml_lightning.data.listed import ListedDataModule, Split
from hcml_lightning.data.loading import EpochSampler, EvaluationSampler, ResumableLoader
from hcml_lightning.data.sampling import FrameStride, check_frame_stride
from hcml_lightning.data.transforms import check_sizes
from hcml_lightning.ranges import check_at_least, check_one_of
from hcml_lightning.signatures import show_all_arguments
from hcml_lightning.storage import plain

_STAGES: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class VideoDataModule(ListedDataModule):
    """Loaders of video clips.

    Where `root` holds the manifest that `hcml data check` writes, it says which videos can be read and where their
    frames are; a video changed since then is examined again.

    Args:
        root: folder of the dataset.
        clip_length: frames in a clip, T.
        frame_stride: frames from one frame of the clip to the next, or "spread" for T frames over the whole video.
        short_side: range from which training draws the length of the scaled short side, pixels; validation and test
            scale to its lower end, test to its crop where that is larger.
        crop_size: rows and columns of the crops of training and validation, pixels.
        test_crop_size: rows and columns of the crops of test and prediction, pixels; None for the least of
            `short_side`, the paper's 256, so that a centre crop sees all of the shorter side.
        test_clips: clips of each video in test and prediction.
        test_crops: crops of each clip in test and prediction, along the longer side.
        batch_size: videos in a batch, on each device.
        num_workers: processes that decode, on each device.
        seed: source of order, frames and crops in training.
        flip: "plain" flips half of the training clips, as the paper does; "mirror" also swaps the label with the class
            that the flip makes of it ("left" and "right"); "none" flips nothing.
        on_error: "raise" stops at a video that is missing or cannot be read. "skip" leaves it out by name: missing ones
            before the start, damaged ones of training when they are met (up to 5 % of the split), damaged ones of
            the other splits before the start, as far as they can be told without decoding.
        cache: decode every video once and keep it in memory: for a few hundred small videos, with `num_workers=0`.
        true_flow: add the true flow of synthetic videos to the batches of validation.
        follow_links: whether symbolic links may lead to lists and videos outside of `root`, as on clusters they often
            do. False for what a stranger has packed: such links are refused then. What lists say never leads outside.

    Raises:
        ValueError: if a crop does not fit into the scaled video, or a number is too small.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_all_arguments(cls)

    def __init__(
        self,
        root: str | os.PathLike[str],
        clip_length: int = 16,
        frame_stride: FrameStride = 2,
        short_side: tuple[int, int] = (256, 320),
        crop_size: int = 224,
        test_crop_size: int | None = None,
        test_clips: int = 10,
        test_crops: Literal[1, 3] = 3,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        flip: Flip = "plain",
        on_error: Literal["raise", "skip"] = "raise",
        true_flow: bool = False,
        follow_links: bool = True,
        cache: bool = False,
    ) -> None:
        super().__init__(root, on_error, follow_links)
        # Without `frame`, Lightning holds a frame in a cycle, and with it the loaders of the caller; the workers of a
        # loader that dies in a cycle are not told to end, and are waited for.
        self.save_hyperparameters(frame=inspect.currentframe())
        self.hparams.update(plain(dict(self.hparams)))
        low, high = check_sizes(short_side, crop_size)
        test_size = low if test_crop_size is None else test_crop_size
        check_at_least(
            1,
            clip_length=clip_length,
            crop_size=crop_size,
            test_crop_size=test_size,
            test_clips=test_clips,
            batch_size=batch_size,
        )
        check_at_least(0, num_workers=num_workers, seed=seed)
        check_one_of("flip", flip, ("none", "plain", "mirror"))
        check_one_of("on_error", on_error, ("raise", "skip"))
        check_one_of("test_crops", test_crops, (1, 3))
        check_frame_stride(frame_stride)
        if cache and num_workers > 0:
            raise ValueError(
                f"cache=true needs num_workers=0, but num_workers is {num_workers}: every worker would decode and keep "
                "a copy of its own."
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.flip: Flip = flip
        self.true_flow = true_flow
        self._keeps = cache
        self._cache: FrameCache | None = None
        self._clip = ClipRecipe(clip_length, frame_stride, (low, high), crop_size)
        # Unstated in the paper: what its 30 and 9 views are, and what is averaged. 10 and 3 clips of three crops, as in
        # [57], and of their class probabilities the mean.
        self._test_clip = ClipRecipe(
            clip_length,
            frame_stride,
            (max(low, test_size), max(low, test_size)),
            test_size,
            num_clips=test_clips,
            num_crops=test_crops,
            multi_view=True,
        )
        self._datasets: dict[Split, VideoDataset] = {}
        self._training: weakref.ref[ResumableLoader] | None = None
        self._resume: dict[str, Any] | None = None

    @property
    def clip_shape(self) -> tuple[int, int]:
        """Frames of a training clip, and pixels of each of its sides."""
        return self._clip.clip_length, self._clip.crop_size

    def dataset(self, split: Split) -> VideoDataset:
        """Give the videos of a split, once `setup` has listed them."""
        if split not in self._datasets:
            raise RuntimeError(f"the {split} split is not listed yet; call setup() first.")
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """List the videos that the stage needs, and look whether they are there."""
        if stage == "fit" and self.flip == "plain" and self.mirror_classes:
            first, second = (self.class_names[i] for i in next(iter(self.mirror_classes.items())))
            rank_zero_warn(
                f"flip='plain' makes {first!r} look like {second!r} without changing the label; "
                "use flip='mirror' to swap such labels, or flip='none'."
            )
        if self._keeps and self._cache is None:
            self._cache = FrameCache(1 if self.trainer is None else self.trainer.num_devices)
        for split in _STAGES[stage]:
            if split not in self._datasets:
                self._datasets[split] = VideoDataset(
                    self.usable_records(split),
                    self.recipe(split),
                    self.seed,
                    skip_broken=self.on_error == "skip" and split == "train",
                    cache=self._cache,
                )

    def videos_without_label(self, stage: str) -> list[str]:
        """Paths of the videos that a stage lists and whose label is none of the classes."""
        paths = []
        for dataset in map(self.dataset, _STAGES[stage]):
            without = (dataset.labels < 0) | (dataset.labels >= self.num_classes)
            paths += [dataset.records[i].path for i in without.nonzero().flatten().tolist()]
        return paths

    def check_batch_size(self, num_videos: int, num_devices: int = 1) -> None:
        """Hold the size of batches to the number of training videos.

        Raises:
            ValueError: if there are fewer than in one batch on every device.
        """
        needed = self.batch_size * num_devices
        if num_videos < needed:
            raise ValueError(
                f"batch_size={self.batch_size} on {num_devices} device(s) needs {needed} training videos, but the "
                f"split has {num_videos}, so that every epoch would be empty; lower batch_size."
            )

    def train_dataloader(self) -> DataLoader[VideoBatch]:
        """Load shuffled random clips, (B, 3, T, H, W).

        The trainer tells the sampler which epoch it is; without one, call `loader.sampler.set_epoch(epoch)`.

        Raises:
            ValueError: if the split is smaller than one batch on every device.
        """
        dataset = self.dataset("train")
        ranks, rank = self._ranks()
        self.check_batch_size(len(dataset), ranks)
        sampler = EpochSampler(dataset, self.seed, ranks, rank)
        loader = ResumableLoader(
            dataset,  # type: ignore[arg-type]
            sampler=sampler,
            drop_last=True,
            **self._settings(),
        )
        state, self._resume = self._resume, None
        if state is not None:
            loader.load_state_dict(state)
        # Not held: its workers end with it, and the trainer says when.
        self._training = weakref.ref(loader)
        return loader

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the data: where in the epoch training is.

        Lightning itself stores the same of each loader, but gives it back only to loaders that are made after the rest
        of the checkpoint is read, and a task that asks how many steps there will be has its loader made before.
        """
        loader = None if self._training is None else self._training()
        return {} if loader is None else loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader go on where the checkpoint was written, unless it is only evaluated."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            self._resume = state_dict or None

    def __getstate__(self) -> dict[str, Any]:
        """All but the loader that is in use, which belongs to this process."""
        return {**self.__dict__, "_training": None}

    def val_dataloader(self) -> DataLoader[VideoBatch]:
        """Load the centred clip of each video, (B, 3, T, H, W)."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[VideoBatch]:
        """Load all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[VideoBatch]:
        """Load all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("predict")

    def _loader(self, split: Split) -> DataLoader[VideoBatch]:
        dataset = self.dataset(split)
        ranks, rank = self._ranks()
        sampler = None
        # In prediction the Trainer deals out the videos itself, to know where its results belong.
        if self.trainer is not None and ranks > 1 and split != "predict":
            sampler = EvaluationSampler(dataset, ranks, rank, self.batch_size)
        return DataLoader(dataset, sampler=sampler, **self._settings())  # type: ignore[arg-type]

    def _settings(self) -> dict[str, Any]:
        """What all loaders have in common."""
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
        }

    def _ranks(self) -> tuple[int, int]:
        """Number of ranks, and which of them this is."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def recipe(self, split: Split) -> ClipRecipe:
        """How clips are cut out of the videos of a split."""
        if split in ("test", "predict"):
            return self._test_clip
        return replace(
            self._clip,
            flip=self.flip,
            mirror_classes=self.mirror_classes,
            random=split == "train",
            # Nobody trains on it.
            true_flow=self.true_flow and split == "val",
        )

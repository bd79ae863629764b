"""[**splits → loaders** → batch → model → loss → metric]

What all datasets have in common: how splits become loaders of `VideoBatch`. A subclass only sets the classes and lists
the records of each split (see `listed.py`).
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
from hcml_lightning.data.loading import (
    EpochSampler,
    EvaluationSampler,
    ResumableLoader,
    leave_stopping_to_the_run,
)
from hcml_lightning.data.sampling import FrameStride, check_frame_stride
from hcml_lightning.data.transforms import check_sizes
from hcml_lightning.ranges import check_one_of, check_whole
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

    If `root` holds a manifest written by `hcml data check`, it tells which videos can be read and where their frames
    are; videos that have changed since then are examined again.

    Args:
        root: folder of the dataset.
        clip_length: frames in a clip, T.
        frame_stride: frames from one frame of the clip to the next, or "spread" for T frames over the whole video.
        short_side: range from which training draws the length of the scaled short side, pixels; validation and test
            scale to its lower end, test to `test_crop_size` if that is larger.
        crop_size: rows and columns of the crops of training and validation, pixels.
        test_crop_size: rows and columns of the crops of test and prediction, pixels; None for the lower end of
            `short_side`, the paper's 256, so that a centre crop covers the whole shorter side.
        test_clips: clips of each video in test and prediction.
        test_crops: crops of each clip in test and prediction, along the longer side.
        batch_size: videos in a batch, on each device.
        num_workers: worker processes that decode, on each device.
        seed: determines the order, the frames and the crops in training.
        flip: "plain" flips half of the training clips, as the paper does; "mirror" also replaces the label of a flipped
            clip by its mirrored class ("left" by "right"); "none" flips nothing.
        on_error: "raise" raises an error for a video that is missing or cannot be read. "skip" leaves it out and names
            it in a warning: missing videos before the start, damaged training videos when they are read (up to 5 % of
            the split), damaged videos of the other splits before the start, if the damage shows without decoding.
        cache: decode every video once and keep it in memory: for a few hundred small videos, with `num_workers=0`.
        true_flow: add the true flow of synthetic videos to the validation batches.
        follow_links: whether symbolic links may lead to lists and videos outside of `root`, as is common on clusters.
            With False, for data of untrusted origin, such links are refused. Names in lists may never lead outside.

    Raises:
        ValueError: if a crop does not fit into the scaled video, an argument is out of range, or `cache` is combined
            with workers.
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
        # Without `frame`, Lightning keeps a stack frame in a reference cycle, and with it the loaders of the caller.
        # The workers of a loader that is freed as part of a cycle are not told to end, and the process waits for them.
        self.save_hyperparameters(frame=inspect.currentframe())
        self.hparams.update(plain(dict(self.hparams)))
        low, high = check_sizes(short_side, crop_size)
        test_size = low if test_crop_size is None else test_crop_size
        check_whole(
            1,
            clip_length=clip_length,
            crop_size=crop_size,
            test_crop_size=test_size,
            test_clips=test_clips,
            batch_size=batch_size,
        )
        check_whole(0, num_workers=num_workers, seed=seed)
        check_one_of("flip", flip, ("none", "plain", "mirror"))
        check_one_of("on_error", on_error, ("raise", "skip"))
        check_one_of("test_crops", test_crops, (1, 3))
        check_frame_stride(frame_stride)
        if cache and num_workers > 0:
            raise ValueError(
                f"cache=true needs num_workers=0, got {num_workers}, because every worker would decode and keep its "
                "own copy; set num_workers=0 (--data.num_workers 0)"
            )
        # PyTorch's loaders and generators refuse NumPy's numbers.
        self.batch_size, self.num_workers, self.seed = map(int, (batch_size, num_workers, seed))
        self.flip: Flip = flip
        self.true_flow = true_flow
        self._keeps = cache
        self._cache: FrameCache | None = None
        self._clip = ClipRecipe(clip_length, frame_stride, (low, high), crop_size)
        # Unstated in the paper: what its 30 and 9 views are, and what is averaged. They are taken as 10 and 3 clips of
        # three crops, as in [57], and their class probabilities are averaged.
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
        """Number of frames of a training clip, and its side length in pixels."""
        return self._clip.clip_length, self._clip.crop_size

    def dataset(self, split: Split) -> VideoDataset:
        """Return the videos of a split, which `setup` must have listed before."""
        if split not in self._datasets:
            raise RuntimeError(f"the {split} split has not been set up yet; call setup() first")
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """List the videos that the stage needs, and check that they exist.

        Args:
            stage: `fit`, `validate`, `test` or `predict`.

        Raises:
            ValueError: if the stage is another one, or a label is none of the classes.
            FileNotFoundError: if videos are missing or broken, unless they are skipped.
        """
        check_one_of("stage", stage, tuple(_STAGES))
        if stage == "fit" and self.flip == "plain" and self.mirror_classes:
            first, second = (self.class_names[i] for i in next(iter(self.mirror_classes.items())))
            rank_zero_warn(
                f"flip='plain' makes {first!r} look like {second!r} without changing the label; "
                "use flip='mirror' to swap such labels, or flip='none'"
            )
        if self._keeps and self._cache is None:
            self._cache = FrameCache(1 if self.trainer is None else self.trainer.num_devices)
        # All at once, so that an error names the broken videos of all of them.
        new = [split for split in _STAGES[stage] if split not in self._datasets]
        for split, records in self.usable_records(new).items():
            self._datasets[split] = VideoDataset(
                records,
                self.recipe(split),
                self.seed,
                skip_broken=self.on_error == "skip" and split == "train",
                cache=self._cache,
            )

    def videos_without_label(self, stage: str) -> list[str]:
        """Return the paths of the videos of a stage whose class is unknown."""
        paths = []
        for dataset in map(self.dataset, _STAGES[stage]):
            without = (dataset.labels < 0).nonzero().flatten().tolist()
            paths += [dataset.records[i].path for i in without]
        return paths

    def check_batch_size(self, num_videos: int, num_devices: int = 1) -> None:
        """Check that there are enough training videos for one batch on every device.

        Raises:
            ValueError: if there are fewer.
        """
        needed = self.batch_size * num_devices
        if num_videos < needed:
            devices = f" on {num_devices} devices" if num_devices > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size}{devices} needs {needed} training videos, but the split has "
                f"{num_videos}, so every epoch would be empty; lower batch_size (--data.batch_size)"
            )

    def train_dataloader(self) -> DataLoader[VideoBatch]:
        """Return a loader of shuffled random clips, (B, 3, T, H, W).

        The Trainer sets the epoch of the sampler; without a Trainer, call `loader.sampler.set_epoch(epoch)`.

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
        # A weak reference, because its workers end with the loader, and the Trainer decides when.
        self._training = weakref.ref(loader)
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of training in its epoch, for the checkpoint.

        Lightning itself stores the same for each loader, but restores it only to loaders that are created after the
        rest of the checkpoint is loaded; a task that asks for the number of steps causes its loader to be created
        before.
        """
        loader = None if self._training is None else self._training()
        return {} if loader is None else loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader resume where the checkpoint was written, unless the Trainer only evaluates."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            self._resume = state_dict or None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the loader in use, which belongs to this process."""
        return {**self.__dict__, "_training": None}

    def val_dataloader(self) -> DataLoader[VideoBatch]:
        """Return a loader of the centred clip of each video, (B, 3, T, H, W)."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[VideoBatch]:
        """Return a loader of all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[VideoBatch]:
        """Return a loader of all views of each video, (B, V, 3, T, H, W)."""
        return self._loader("predict")

    def _loader(self, split: Split) -> DataLoader[VideoBatch]:
        dataset = self.dataset(split)
        ranks, rank = self._ranks()
        sampler = None
        # In prediction the Trainer distributes the videos itself, because it must map the results back to them.
        if self.trainer is not None and ranks > 1 and split != "predict":
            sampler = EvaluationSampler(dataset, ranks, rank, self.batch_size)
        return DataLoader(dataset, sampler=sampler, **self._settings())  # type: ignore[arg-type]

    def _settings(self) -> dict[str, Any]:
        """Return the arguments that all loaders have in common."""
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": leave_stopping_to_the_run,
        }

    def _ranks(self) -> tuple[int, int]:
        """Return the number of ranks, and the rank of this process."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def recipe(self, split: Split) -> ClipRecipe:
        """Return how clips are cut out of the videos of a split."""
        if split in ("test", "predict"):
            return self._test_clip
        return replace(
            self._clip,
            flip=self.flip,
            mirror_classes=self.mirror_classes,
            random=split == "train",
            # Only validation measures against true flow; training never uses it.
            true_flow=self.true_flow and split == "val",
        )

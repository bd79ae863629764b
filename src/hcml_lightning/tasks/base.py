"""[batch → **what every stage shares** → loss]

The base of all tasks: the model, its warm start, optimizer and schedule, and the two self-supervised terms of Eq. 5.
"""

import inspect
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, ClassVar, get_args

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hcml_lightning.callbacks import StopOnCollapse, TrainOnly
from hcml_lightning.losses import pair_with_future, reconstruct, sample_locations
from hcml_lightning.losses.reconstruction import FlowTerms
from hcml_lightning.models import MotionHierarchy, SideBranch
from hcml_lightning.optim import (
    OptimizerName,
    ScheduleSteps,
    WarmupCosine,
    make_optimizer,
    parameter_groups,
    schedule_steps,
)
from hcml_lightning.ranges import check_at_least, check_one_of, check_share, check_whole
from hcml_lightning.resume import ResumedLoader
from hcml_lightning.seeds import SeedEachBatch
from hcml_lightning.signatures import show_all_arguments
from hcml_lightning.storage import plain
from hcml_lightning.sync_batch_norm import SYNCHRONISED
from hcml_lightning.tasks.description import Description, describe
from hcml_lightning.tasks.finite import FiniteNumbers
from hcml_lightning.tasks.stored import StoredTask
from hcml_lightning.tasks.warm_start import load_warm_start


class MotionTask(StoredTask, ABC):
    """A training stage: the whole hierarchy, and the part of it that the stage's loss trains.

    Args:
        backbone: `r2d50`, `r2plus1d101` or `r2d_tiny`.
        num_classes: K; from the command line it is taken from the data.
        levels: levels (0, 1, 2: after res2, res3, res4) that have a prime motion block; `[]` is the plain baseline.
        init_from: checkpoint of an earlier stage whose weights training starts from, loaded when a Trainer starts; not
            to be confused with resuming, which is `--ckpt_path`.
        max_displacement: d of the cost volumes, in cells; the default of the backbone if null.
        stride: s of the cost volumes, in cells; the default of the backbone if null.
        max_offset: Δ, the largest δ of f_δ, in frames at the frame rate of the level below.
        dropout: dropout probability before the classifier.
        optimizer: `sgd` (the paper's) or `adam`.
        lr: peak learning rate per device; multiplied by the number of devices.
        momentum: momentum of SGD, or β₁ of Adam.
        weight_decay: weight decay of the parameters that decay.
        decay_norm_and_bias: whether parameters of batch norm and biases decay too.
        warmup_epochs: epochs over which the learning rate rises linearly.
        recompute: whether blocks that train keep no activations and run again in the backward pass, which takes less
            memory and more time; cannot be combined with `torch.compile`.

    Raises:
        ValueError: if a number is out of its range.
    """

    MONITOR: ClassVar[tuple[str, str]] = ("val/loss", "min")
    # Whether the task builds on frozen features, which must therefore be trained already.
    ON_FROZEN: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_all_arguments(cls)

    def __init__(
        self,
        backbone: str = "r2d50",
        num_classes: int = 400,
        levels: tuple[int, ...] = (0, 1, 2),
        init_from: str | os.PathLike[str] | None = None,
        max_displacement: int | None = None,
        stride: int | None = None,
        max_offset: int = 4,
        dropout: float = 0.5,
        optimizer: OptimizerName = "sgd",
        lr: float = 0.0025,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        decay_norm_and_bias: bool = True,
        warmup_epochs: float = 10,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_whole(0, num_classes=num_classes)
        check_at_least(0, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs)
        check_share(momentum=momentum, dropout=dropout)
        check_one_of("optimizer", optimizer, get_args(OptimizerName))
        if self.CLASSIFIES and num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2 to tell classes apart, got {num_classes}; on the command line it is "
                "taken from the data (is its folder one too high?). Unlabelled videos are for the flow and contrast "
                "stages: give `hcml progressive` labelled ones with --recognition.data.root, or leave recognition "
                "out with --stages flow,contrast1,contrast2"
            )
        # Without `frame`, Lightning leaves the caller's frames in a reference cycle, which keeps its loaders' workers.
        self.save_hyperparameters(frame=inspect.currentframe())
        # As Python's own: levels may be `range(3)`, or NumPy may have counted the classes.
        self.hparams.update(plain(dict(self.hparams)))
        self.model = MotionHierarchy(
            backbone=backbone,
            num_classes=num_classes,
            levels=plain(levels),
            max_displacement=max_displacement,
            stride=stride,
            max_offset=max_offset,
            dropout=dropout,
            recompute=recompute,
        )
        self.num_classes = int(num_classes)
        self.init_from = init_from
        self.optimizer_name, self.lr, self.momentum = optimizer, lr, momentum
        self.weight_decay, self.decay_norm_and_bias = weight_decay, decay_norm_and_bias
        self.warmup_epochs = warmup_epochs
        self._scheduled: tuple[float, ScheduleSteps] | None = None

    @abstractmethod
    def trained_modules(self) -> list[nn.Module]:
        """Return the modules that this stage's loss trains; everything else is frozen."""

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the callbacks that every run of this stage needs, and load the weights of `init_from`.

        Freezing is part of the method, a run must stop if its numbers are not finite, and every run must be repeatable.
        """
        # Callbacks that copy the weights, such as their averaging, do so in `setup`, after this. A checkpoint may still
        # replace these weights; if none does, errors are raised again when the run starts.
        with suppress(OSError, ValueError):
            self._take_weights()
        own: list[pl.Callback] = [TrainOnly(), FiniteNumbers(), SeedEachBatch(), ResumedLoader()]
        if self.SELF_SUPERVISED:
            own.append(StopOnCollapse())
        # Lightning would replace those that the Trainer has: given ones, with other settings, or those of its last run.
        given: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [c for c in own if not any(isinstance(other, type(c)) for other in given)]

    def lower_level(self) -> int:
        """Return the highest level that the stages before this one train; -1 if there are none."""
        return max(self.model.levels, default=-1)

    def setup(self, stage: str) -> None:
        """Check that the task fits the data.

        Raises:
            ValueError: if the classifier is not for the classes of the data, or a video lacks a label that is needed.
        """
        names = self.classes_of_data()
        self.check_classes(self.class_names)
        self.check_labels(stage)
        if names is not None and len(names) == self.num_classes:
            self.class_names = list(names)

    def on_fit_start(self) -> None:
        """Load the weights of `init_from` if none were loaded yet, and check the settings of the stage.

        Warns:
            UserWarning: if the stage builds on frozen features that are untrained, or if a self-supervised stage on
                several devices trains batch norms that are not synchronised.
        """
        self._start()
        if self.ON_FROZEN and not self.has_weights:
            rank_zero_warn(
                f"{type(self).__name__} builds on frozen features that are untrained and stay so; pass the checkpoint "
                "of the previous stage as init_from (--model.init_from)"
            )
        trained = [part for module in self._trained_here() for part in module.modules()]
        own = [p for p in trained if isinstance(p, _BatchNorm) and not isinstance(p, SYNCHRONISED)]
        if self.SELF_SUPERVISED and own and self.trainer.world_size > 1:
            rank_zero_warn(
                f"{type(self).__name__} trains {len(own)} batch norms whose statistics are computed on each device "
                "separately, but the paper computes them over all devices (B.2); set Trainer(sync_batchnorm=True), as "
                "the configs of the self-supervised stages do"
            )

    def on_validation_start(self) -> None:
        """Load the weights of `init_from` if none were loaded yet."""
        self._start()

    on_test_start = on_predict_start = on_validation_start

    def _start(self) -> None:
        self._take_weights()
        for remark in self.remarks:
            rank_zero_warn(remark)
        self.remarks.clear()

    def _take_weights(self) -> None:
        """Load the weights of `init_from`, unless they or those of a checkpoint were loaded before."""
        if self.init_from is not None and not self.has_weights:
            names = self.classes_of_data()
            source = load_warm_start(self.model, self.init_from, self.lower_level(), names)
            self.started_from = {"path": source.path, "sha256": source.sha256}
            self.remarks = source.remarks
            self.has_weights = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and the schedule of B.2; `lr` is per device, so the peak grows with their number."""
        groups = parameter_groups([self], self.weight_decay, self.decay_norm_and_bias)
        peak, steps = self._scheduled = self._schedule()
        # Lightning does not clip the gradients of fused optimizers.
        fused = self.device.type == "cuda" and not self.trainer.gradient_clip_val
        optimizer = make_optimizer(self.optimizer_name, groups, peak, self.momentum, fused)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": WarmupCosine(optimizer, steps), "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Take over what `BatchSizeFinder` and `LearningRateFinder` found after the schedule was made."""
        schedule = self.lr_schedulers()
        # A subclass may have a schedule of its own, for which the number of steps need not be known.
        if self._scheduled is None or not isinstance(schedule, WarmupCosine):
            return
        if schedule.last_epoch == 0 and (found := self._schedule()) != self._scheduled:
            schedule.restart(*found)
            self._scheduled = found

    def _schedule(self) -> tuple[float, ScheduleSteps]:
        """Return the peak learning rate over all devices, and the length of the schedule."""
        steps = schedule_steps(self.trainer, self.warmup_epochs)
        return self.lr * self.trainer.world_size, steps

    def describe(self) -> Description:
        """Return what the summary at the start of a stage reports: trained and frozen modules, and parameters."""
        return describe(self, self._trained_here())

    def _trained_here(self) -> list[nn.Module]:
        """Return the modules that train, which a `TrainOnly` of the Trainer may have chosen."""
        given: list[pl.Callback] = [] if self._trainer is None else self._trainer.callbacks  # type: ignore[attr-defined]
        only = next((c for c in given if isinstance(c, TrainOnly)), TrainOnly())
        return only.trained(self)

    @property
    def side(self) -> SideBranch:
        """The side branch.

        Raises:
            ValueError: if there are no levels, and so no self-supervision.
        """
        if self.model.side is None:
            raise ValueError(
                f"{type(self).__name__} needs motion blocks; levels (--model.levels) must not be empty"
            )
        return self.model.side

    def flow_terms(self, level: int, motion: Tensor, clip: Tensor) -> FlowTerms:
        """Reconstruct each frame from the next, on the grid and at the frame rate of the motion features (Sec. 3.3).

        Args:
            level: l, whose flow decoder is used.
            motion: P^l, (B, C, T_l, H, W).
            clip: RGB in 0..255, (B, 3, T, ., .).

        Raises:
            ValueError: if only a single frame of the clip is left at this level, which has no next frame.
        """
        if motion.shape[2] < 2:
            raise ValueError(
                f"flow at level {level} needs at least {2**level + 1} frames, got {clip.shape[2]}; "
                "raise clip_length (--data.clip_length)"
            )
        return reconstruct(self.side.flow_decoder(level)(motion), clip, step=2**level)

    def contrast_pairs(
        self, level: int, motion: dict[int, Tensor], num_locations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return predictions of the level below at sampled locations, their targets, and which belong together (A.2).

        Args:
            level: l.
            motion: P^l by level; of this level and the one below at least.
            num_locations: N.

        Returns:
            predicted (P, C), targets (S, C), and positive (P,), the row of `targets` for each prediction.
        """
        below = motion[self.model.level_below(level)]
        height, width = below.shape[3:]
        locations = sample_locations(len(below), height, width, num_locations, below.device)
        predictions, targets = self.side.predictor(level)(motion[level], below, locations)
        return pair_with_future(predictions, targets)

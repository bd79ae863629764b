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
    WarmupCosine,
    make_optimizer,
    parameter_groups,
    schedule_steps,
)
from hcml_lightning.ranges import check_at_least, check_one_of, check_share
from hcml_lightning.resume import ResumedLoader
from hcml_lightning.seeds import SeedEachBatch
from hcml_lightning.signatures import show_all_arguments
from hcml_lightning.sync_batch_norm import SYNCHRONISED
from hcml_lightning.tasks.description import Description, describe
from hcml_lightning.tasks.finite import FiniteNumbers
from hcml_lightning.tasks.stored import StoredTask
from hcml_lightning.tasks.warm_start import load_warm_start


class MotionTask(StoredTask, ABC):
    """A training stage: the whole hierarchy, and which part of it a loss trains.

    Args:
        backbone: `r2d50`, `r2plus1d101` or `r2d_tiny`.
        num_classes: K; from the command line it is taken from the data.
        levels: levels (0, 1, 2: after res2, res3, res4) that have a prime motion block; `[]` is the plain baseline.
        init_from: checkpoint of an earlier stage whose weights training starts from; not to be confused with resuming,
            which is `--ckpt_path`.
        max_displacement: d of the cost volumes, cells; the backbone's where null.
        stride: s of the cost volumes, cells; the backbone's where null.
        max_offset: Δ, the largest δ of f_δ, frames at the rate of the level below.
        dropout: probability before the classifier.
        optimizer: `sgd` (the paper's) or `adam`.
        lr: peak learning rate per device; multiplied by the number of devices.
        momentum: of SGD; Adam's β₁.
        weight_decay: of weights.
        decay_norm_and_bias: whether batch norm's parameters and biases decay too.
        warmup_epochs: epochs over which the learning rate rises linearly.
        recompute: whether blocks that train keep no activations and are run once more in the backward pass: less
            memory for more time; not together with `torch.compile`.

    Raises:
        ValueError: if a number is out of its range.
    """

    MONITOR: ClassVar[tuple[str, str]] = ("val/loss", "min")
    # Whether it stands on features that it leaves as they are, so that these must have learned something.
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
        check_at_least(0, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs)
        check_share(momentum=momentum, dropout=dropout)
        check_one_of("optimizer", optimizer, get_args(OptimizerName))
        if self.CLASSIFIES and num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2 to tell classes apart, but is {num_classes}; from the command line it "
                "is taken from the data (is its folder one too high? Videos without classes are for the stages of flow "
                "and contrast)"
            )
        # Without `frame`, Lightning leaves the frames of the caller in a cycle, and with them its loaders' workers.
        self.save_hyperparameters(frame=inspect.currentframe())
        self.model = MotionHierarchy(
            backbone=backbone,
            num_classes=num_classes,
            levels=levels,
            max_displacement=max_displacement,
            stride=stride,
            max_offset=max_offset,
            dropout=dropout,
            recompute=recompute,
        )
        self.num_classes = num_classes
        self.init_from = init_from
        self.optimizer_name, self.lr, self.momentum = optimizer, lr, momentum
        self.weight_decay, self.decay_norm_and_bias = weight_decay, decay_norm_and_bias
        self.warmup_epochs = warmup_epochs

    @abstractmethod
    def trained_modules(self) -> list[nn.Module]:
        """The modules that this stage's loss trains; everything else is frozen."""

    def configure_callbacks(self) -> list[pl.Callback]:
        """Freezing is part of the method, no run may go on without finite numbers, and each must be repeatable."""
        # Whatever copies the weights, such as their averaging, does so in `setup`, after this. Nobody knows yet whether
        # a checkpoint is about to bring others; if not, what is wrong here is said when the run starts.
        with suppress(OSError, ValueError):
            self._take_weights()
        may_be_given: list[pl.Callback] = [TrainOnly()]
        if self.SELF_SUPERVISED:
            may_be_given.append(StopOnCollapse())
        # One that was given to the Trainer has other settings, and Lightning would replace it.
        given: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        own = [c for c in may_be_given if not any(isinstance(other, type(c)) for other in given)]
        return [*own, FiniteNumbers(), SeedEachBatch(), ResumedLoader()]

    def lower_level(self) -> int:
        """The highest level that the stages before this one train; -1 where there are none."""
        return max(self.model.levels, default=-1)

    def setup(self, stage: str) -> None:
        """Hold the task to the data.

        Raises:
            ValueError: if the classifier is not for the classes of the data, or a video lacks a label that it needs.
        """
        names = self.classes_of_data()
        self.check_classes(self.class_names)
        self.check_labels(stage)
        if names is not None and len(names) == self.num_classes:
            self.class_names = list(names)

    def on_fit_start(self) -> None:
        """Be sure of the weights; say aloud where frozen features have learned nothing."""
        self._start()
        if self.ON_FROZEN and not self.has_weights:
            rank_zero_warn(
                f"{type(self).__name__} stands on frozen features that have learned nothing, and stay so: give the "
                "checkpoint of the stage before as init_from (--model.init_from)"
            )
        trained = [part for module in self.trained_modules() for part in module.modules()]
        own = [p for p in trained if isinstance(p, _BatchNorm) and not isinstance(p, SYNCHRONISED)]
        if self.SELF_SUPERVISED and own and self.trainer.world_size > 1:
            rank_zero_warn(
                f"{type(self).__name__} trains {len(own)} batch norms whose statistics are those of each device alone; "
                "the paper takes them over all devices (B.2): Trainer(sync_batchnorm=True), which is in the configs of "
                "the self-supervised stages"
            )

    def on_validation_start(self) -> None:
        """Be sure of the weights."""
        self._start()

    def on_test_start(self) -> None:
        """Be sure of the weights."""
        self._start()

    def on_predict_start(self) -> None:
        """Be sure of the weights."""
        self._start()

    def _start(self) -> None:
        self._take_weights()
        for remark in self.remarks:
            rank_zero_warn(remark)
        self.remarks.clear()

    def _take_weights(self) -> None:
        """Take those of `init_from`, unless there are others: of a checkpoint, or learned here."""
        if self.init_from is not None and not self.has_weights:
            names = self.classes_of_data()
            source = load_warm_start(self.model, self.init_from, self.lower_level(), names)
            self.started_from = {"path": source.path, "sha256": source.sha256}
            self.remarks = source.remarks
            self.has_weights = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The recipe of B.2; the learning rate is per device."""
        groups = parameter_groups([self], self.weight_decay, self.decay_norm_and_bias)
        peak = self.lr * self.trainer.world_size
        # Lightning does not clip the gradients of fused optimizers.
        fused = self.device.type == "cuda" and not self.trainer.gradient_clip_val
        optimizer = make_optimizer(self.optimizer_name, groups, peak, self.momentum, fused)
        schedule = WarmupCosine(optimizer, schedule_steps(self.trainer, self.warmup_epochs))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def describe(self) -> Description:
        """What a summary at the start of a stage tells: task, what trains, what is frozen, parameters."""
        return describe(self)

    @property
    def side(self) -> SideBranch:
        """The side branch.

        Raises:
            ValueError: if there are no levels, and so no self-supervision.
        """
        if self.model.side is None:
            raise ValueError(f"{type(self).__name__} needs motion blocks: levels must not be empty")
        return self.model.side

    def flow_terms(self, level: int, motion: Tensor, clip: Tensor) -> FlowTerms:
        """Reconstruct each frame from the next, on the grid and at the frame rate of the motion features (Sec. 3.3).

        Args:
            level: l, whose flow decoder is asked.
            motion: P^l, (B, C, T_l, H, W).
            clip: RGB in 0..255, (B, 3, T, ., .).

        Raises:
            ValueError: if the clip leaves a single frame at this level, which has no successor.
        """
        if motion.shape[2] < 2:
            raise ValueError(
                f"flow at level {level} needs at least {2**level + 1} frames, got {clip.shape[2]}: "
                "raise clip_length (--data.clip_length)"
            )
        return reconstruct(self.side.flow_decoder(level)(motion), clip, step=2**level)

    def contrast_pairs(
        self, level: int, motion: dict[int, Tensor], num_locations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of the level below at sampled locations, their targets, and which meets which (A.2).

        Args:
            level: l.
            motion: P^l of all levels.
            num_locations: N.

        Returns:
            predicted (P, C), targets (S, C), positive (P,).
        """
        below = motion[self.model.level_below(level)]
        height, width = below.shape[3:]
        locations = sample_locations(len(below), height, width, num_locations, below.device)
        predictions, targets = self.side.predictor(level)(motion[level], below, locations)
        return pair_with_future(predictions, targets)

"""[loss → **step**]

SGD with Nesterov momentum, linear warm-up, then half a cosine, stepped once per iteration (B.2, [9], [14], [33]).
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

OptimizerName = Literal["sgd", "adam"]


def parameter_groups(
    modules: Iterable[nn.Module], weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Return the trainable parameters, split by whether weight decay applies to them.

    Args:
        modules: modules that contain the parameters.
        weight_decay: weight decay of the parameters that decay.
        decay_norm_and_bias: whether parameters of batch norm and biases decay too.

    Returns:
        One or two groups for an optimizer.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": weight_decay}]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: OptimizerName,
    groups: list[dict[str, Any]],
    lr: float,
    momentum: float,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Build an optimizer.

    Args:
        name: `sgd`, the paper's, or `adam`, which converges in far fewer steps if the flow bootstrap is short.
        groups: parameter groups.
        lr: peak learning rate, already multiplied by the number of devices.
        momentum: momentum of SGD, or β₁ of Adam.
        fused: whether all parameters are updated in one kernel.

    Raises:
        ValueError: if the name is unknown.
    """
    optimizer: torch.optim.Optimizer
    # Unstated in the paper: momentum and weight decay, and what decays. Here 0.9 with Nesterov's correction and 1e-4,
    # as in [9] and [14]; all parameters decay, although [14] excludes those of batch norm (`decay_norm_and_bias`).
    if name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr, momentum=momentum, nesterov=momentum > 0, fused=fused or None
        )
    elif name == "adam":
        optimizer = torch.optim.Adam(groups, lr, betas=(momentum, 0.999), fused=fused or None)
    else:
        raise ValueError(f"optimizer must be sgd or adam, got {name!r}")

    optimizer.register_load_state_dict_pre_hook(_with_own_settings)
    return optimizer


def _with_own_settings(made: torch.optim.Optimizer, stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored state with the settings of this run, which may differ, e.g. in the device or the lr.

    As a hook before the optimizer's `load_state_dict`, it lets only the moments come from a checkpoint.

    Raises:
        ValueError: if the checkpoint was written with another optimizer or other parameter groups.
    """
    ours, theirs = made.param_groups, stored["param_groups"]
    if ("betas" in ours[0]) != ("betas" in theirs[0]):
        raise ValueError(
            "the checkpoint was written with another optimizer, whose state this one cannot use; resume with the same "
            "optimizer (--model.optimizer), or start a new run from its weights with init_from"
        )
    if [len(group["params"]) for group in ours] != [len(group["params"]) for group in theirs]:
        raise ValueError(
            "the checkpoint was written with other parameter groups; resume with the same decay_norm_and_bias "
            "(--model.decay_norm_and_bias), or start a new run from its weights with init_from"
        )
    groups = [{**own, "params": other["params"]} for own, other in zip(ours, theirs, strict=True)]
    return {**stored, "param_groups": groups}


class ScheduleSteps(NamedTuple):
    """Length of a schedule, in steps of the optimizer.

    Attributes:
        warmup: steps over which the learning rate rises.
        total: steps after which the learning rate has fallen to 0; infinite if only a time limit ends the run, in which
            case the learning rate stays at its peak.
        per_epoch: steps of one epoch; infinite if the end of the run is not given in epochs.
    """

    warmup: int
    total: float
    per_epoch: float = math.inf


def schedule_steps(trainer: pl.Trainer, warmup_epochs: float) -> ScheduleSteps:
    """Return over how many steps the learning rate rises, and after how many it has fallen to 0.

    Args:
        trainer: trainer that is about to fit.
        warmup_epochs: epochs over which the learning rate rises.

    Raises:
        ValueError: if the length of these epochs is unknown, or not the same for all.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise ValueError(
            "GradientAccumulationScheduler gives epochs different numbers of steps, so the length of the schedule is "
            "unknown; use accumulate_grad_batches of the Trainer, which is the same for all epochs"
        )
    total = trainer.estimated_stepping_batches
    total = total if total >= 0 else math.inf
    ends_by_epochs = math.isfinite(total) and total != trainer.max_steps
    # A second fit with the same Trainer continues its count of steps, but has its own schedule for the remaining ones,
    # unless it resumes from a checkpoint, which then sets the count.
    if trainer.ckpt_path is None:
        total = max(0, total - trainer.global_step)
    if trainer.limit_train_batches == 0 or (warmup_epochs == 0 and not ends_by_epochs):
        return ScheduleSteps(0, total)
    # The Trainer determines the length of an epoch only if it is given a number of epochs.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):
        raise ValueError(
            f"warmup_epochs={warmup_epochs:g} needs epochs of a known length, but the training loader has no length "
            "(its dataset has no len()); set warmup_epochs=0, or set limit_train_batches to the batches in an epoch"
        )
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    warmup = round(min(warmup_epochs * per_epoch, total))
    return ScheduleSteps(warmup, total, per_epoch if ends_by_epochs else math.inf)


def warmup_cosine(step: int, warmup_steps: int, total_steps: float) -> float:
    """Return the learning rate at an iteration, as a share of its peak.

    Example:
        >>> [round(warmup_cosine(step, 2, 6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    # Unstated in the paper: where warm-up starts and ends. It rises from 0 to the peak, after which the half-cosine
    # begins; in [9] the cosine counts from the first step and warm-up rises to what it has come to by then.
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WarmupCosine(LambdaLR):
    """Linear warm-up and half a cosine, to be stepped once per iteration.

    A run that is resumed from a checkpoint continues at the same point of the same epoch, even if epochs now have
    another number of steps (on fewer devices, or with smaller batches), and uses the peak of its own settings.

    Args:
        optimizer: optimizer whose learning rate is the peak.
        steps: length of the schedule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: ScheduleSteps) -> None:
        self.per_epoch = steps.per_epoch
        super().__init__(
            optimizer, partial(warmup_cosine, warmup_steps=steps.warmup, total_steps=steps.total)
        )

    @property
    def steps(self) -> ScheduleSteps:
        """Length of the schedule, including the steps from before the run was resumed."""
        lengths = cast("partial[float]", self.lr_lambdas[0]).keywords
        return ScheduleSteps(lengths["warmup_steps"], lengths["total_steps"], self.per_epoch)

    def restart(self, peak: float, steps: ScheduleSteps) -> None:
        """Begin again with another peak or length, which were found after the schedule was made.

        Args:
            peak: peak learning rate of all parameter groups.
            steps: length of the schedule.
        """
        self.lr_lambdas = [
            partial(warmup_cosine, warmup_steps=steps.warmup, total_steps=steps.total)
            for _ in self.base_lrs
        ]
        self.base_lrs, self.per_epoch, self.last_epoch = (
            [peak] * len(self.base_lrs),
            steps.per_epoch,
            0,
        )
        self._set_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of the schedule: the same point of the same epoch."""
        peaks, per_epoch = self.base_lrs, self.per_epoch
        super().load_state_dict(state_dict)
        if math.isfinite(per_epoch) and math.isfinite(self.per_epoch):
            self.last_epoch = round(self.last_epoch * per_epoch / self.per_epoch)
        self.base_lrs, self.per_epoch = peaks, per_epoch
        self._set_lr()

    def _set_lr(self) -> None:
        share = self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [peak * share for peak in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

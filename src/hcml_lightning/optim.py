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
    """Trainable parameters, split by whether weight decay pulls on them.

    Args:
        modules: what is trained.
        weight_decay: of weights.
        decay_norm_and_bias: whether batch norm's parameters and biases decay too.

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
        name: `sgd` is the paper's; `adam` converges in far fewer steps where the flow bootstrap is short.
        groups: parameter groups.
        lr: peak learning rate, over all devices.
        momentum: of SGD; Adam's β₁.
        fused: whether all parameters are updated in one kernel.

    Raises:
        ValueError: if the name is unknown.
    """
    optimizer: torch.optim.Optimizer
    # Unstated in the paper: momentum and weight decay, and what decays. 0.9 with Nesterov's correction and 1e-4, as
    # in [9] and [14]; of all parameters, where [14] leaves out those of batch norm (`decay_norm_and_bias`).
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
    """Take moments from a checkpoint and settings from this run, which may be another: on a GPU, with another lr."""
    ours, theirs = made.param_groups, stored["param_groups"]
    if ("betas" in ours[0]) != ("betas" in theirs[0]):
        raise ValueError(
            "the checkpoint was written with another optimizer, whose state this one cannot use: resume with the same "
            "optimizer (--model.optimizer), or start a new run from its weights with init_from"
        )
    if [len(group["params"]) for group in ours] != [len(group["params"]) for group in theirs]:
        raise ValueError(
            "the checkpoint was written with other groups of parameters: resume with the same decay_norm_and_bias "
            "(--model.decay_norm_and_bias), or start a new run from its weights with init_from"
        )
    groups = [{**own, "params": other["params"]} for own, other in zip(ours, theirs, strict=True)]
    return {**stored, "param_groups": groups}


class ScheduleSteps(NamedTuple):
    """Length of a schedule, in steps of the optimizer.

    Attributes:
        warmup: over which the learning rate rises.
        total: after which it has fallen to 0; infinite where only time ends the run, and it stays at its peak.
        per_epoch: of one epoch; infinite where the end is not given in epochs.
    """

    warmup: int
    total: float
    per_epoch: float = math.inf


def schedule_steps(trainer: pl.Trainer, warmup_epochs: float) -> ScheduleSteps:
    """How many steps the learning rate rises, and after how many it has fallen to 0.

    Args:
        trainer: about to fit.
        warmup_epochs: epochs over which the learning rate rises.

    Raises:
        ValueError: if nobody can know how long these epochs are.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise ValueError(
            "GradientAccumulationScheduler gives epochs different numbers of steps, which a schedule over all of them "
            "cannot know; use accumulate_grad_batches of the Trainer, the same for all"
        )
    total = trainer.estimated_stepping_batches
    total = total if total >= 0 else math.inf
    ends_by_epochs = math.isfinite(total) and total != trainer.max_steps
    # A second fit with the same Trainer goes on counting, with a schedule of its own for what is left.
    total = max(0, total - trainer.global_step)
    if trainer.limit_train_batches == 0 or (warmup_epochs == 0 and not ends_by_epochs):
        return ScheduleSteps(0, total)
    # The Trainer asks for the length of an epoch only where it is told a number of epochs.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):
        raise ValueError(
            f"warmup_epochs={warmup_epochs:g} needs epochs of a known length, but the training loader has none (its "
            "dataset has no len()); set warmup_epochs=0, or limit_train_batches to the batches of an epoch"
        )
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    warmup = round(min(warmup_epochs * per_epoch, total))
    return ScheduleSteps(warmup, total, per_epoch if ends_by_epochs else math.inf)


def warmup_cosine(step: int, warmup_steps: int, total_steps: float) -> float:
    """Share of the peak learning rate at an iteration.

    Example:
        >>> [round(warmup_cosine(step, 2, 6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WarmupCosine(LambdaLR):
    """Linear warm-up and half a cosine, to be stepped once per iteration.

    A run that goes on from a checkpoint keeps its place in epochs, which have more steps on fewer devices or in smaller
    batches, and has the peak of its own settings.

    Args:
        optimizer: with the peak as its learning rate.
        steps: length of the schedule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: ScheduleSteps) -> None:
        self.per_epoch = steps.per_epoch
        super().__init__(
            optimizer, partial(warmup_cosine, warmup_steps=steps.warmup, total_steps=steps.total)
        )

    @property
    def steps(self) -> ScheduleSteps:
        """Length of the schedule, over all starts of the run."""
        lengths = cast("partial[float]", self.lr_lambdas[0]).keywords
        return ScheduleSteps(lengths["warmup_steps"], lengths["total_steps"], self.per_epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the same part of the same epoch."""
        peaks, per_epoch = self.base_lrs, self.per_epoch
        super().load_state_dict(state_dict)
        if math.isfinite(per_epoch) and math.isfinite(self.per_epoch):
            self.last_epoch = round(self.last_epoch * per_epoch / self.per_epoch)
        self.base_lrs, self.per_epoch = peaks, per_epoch
        share = self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [peak * share for peak in peaks]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

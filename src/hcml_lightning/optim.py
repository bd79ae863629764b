"""[loss → **step**]

SGD with Nesterov momentum, linear warm-up, then half a cosine, stepped once per iteration (B.2, [9], [14], [33]).
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
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
    if name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr, momentum=momentum, nesterov=momentum > 0, fused=fused or None
        )
    elif name == "adam":
        optimizer = torch.optim.Adam(groups, lr, betas=(momentum, 0.999), fused=fused or None)
    else:
        raise ValueError(f"optimizer must be sgd or adam, got {name!r}")

    def stay_as_made(loaded: torch.optim.Optimizer) -> None:
        # A checkpoint brings the choice of another run, on another device or with clipped gradients.
        for group in loaded.param_groups:
            group["fused"] = fused or None

    optimizer.register_load_state_dict_post_hook(stay_as_made)
    return optimizer


def schedule_steps(trainer: pl.Trainer, warmup_epochs: float) -> tuple[int, float]:
    """How many iterations the learning rate rises, and after how many it has fallen to 0.

    Args:
        trainer: about to fit.
        warmup_epochs: epochs over which the learning rate rises.

    Returns:
        Both; the second is infinite where only time ends the run, and the learning rate stays at its peak.

    Raises:
        ValueError: if nobody can know how long these epochs are.
    """
    total = trainer.estimated_stepping_batches
    total = total if total >= 0 else math.inf
    if warmup_epochs == 0 or trainer.limit_train_batches == 0:
        return 0, total
    # The Trainer asks for the length of an epoch only where it is told a number of epochs.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):
        raise ValueError(
            f"warmup_epochs={warmup_epochs:g} needs epochs of a known length, but the training loader has none (its "
            "dataset has no len()); set warmup_epochs=0, or limit_train_batches to the batches of an epoch"
        )
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    return round(min(warmup_epochs * per_epoch, total)), total


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


def make_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: float
) -> LambdaLR:
    """Linear warm-up and half a cosine, to be stepped once per iteration."""
    return LambdaLR(
        optimizer, partial(warmup_cosine, warmup_steps=warmup_steps, total_steps=total_steps)
    )

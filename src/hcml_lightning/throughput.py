"""[steps of training → **clips per second, norm of the gradient** → loggers]

Measurements of training that are the same for every task.
"""

import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import nn


class Throughput(pl.Callback):
    """Log how many clips per second all devices train on, and for what share of time this process waits for data.

    `train/clips_per_second` and `train/data_wait` cover the training steps since they were last logged, without
    validation and the writing of checkpoints. On a GPU, time is taken on the GPU's own clock, because only the time
    that it idles between two steps matters: a CPU that is far ahead may wait for data without harm. Lightning's
    ThroughputMonitor would wait for the GPU in every step.
    """

    def __init__(self) -> None:
        self._clips = 0
        self._marks: list[_Moment] = []
        self._spans: list[tuple[_Moment, _Moment, _Moment]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock here too, because a run that is resumed inside an epoch has no epoch start."""
        self._marks = [_now(pl_module.device)]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock for the wait for the first batch of an epoch."""
        self._marks = [_now(pl_module.device)]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the time at which a batch has arrived."""
        now = _now(pl_module.device)
        self._marks = [*(self._marks or [now]), now]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the clips of the batch, and log after steps that are logged."""
        end = _now(pl_module.device)
        before, start = self._marks
        self._spans.append((before, start, end))
        self._marks = [end]
        self._clips += len(batch["video"])
        # Lightning logs nothing between optimizer steps.
        steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if steps and _is_logged(trainer, trainer.global_step):
            self._log(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop the clock until the next batch, because no hook tells when the checkpoint is written."""
        if len(self._marks) == 1:
            self._marks = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock, because the epoch may continue after a validation."""
        self._marks = [_now(pl_module.device)]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the remaining steps, so that epochs shorter than the logging interval are logged too."""
        if self._spans:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        last = self._spans[-1][-1]
        if isinstance(last, torch.cuda.Event):
            # The losses of this step are about to be logged, which waits for the GPU in any case.
            last.synchronize()
        waited = sum(_seconds(before, start) for before, start, _ in self._spans)
        total = sum(_seconds(before, end) for before, _, end in self._spans)
        speed = self._clips * trainer.world_size / max(total, 1e-9)
        task.log_dict(
            {"train/clips_per_second": speed, "train/data_wait": waited / max(total, 1e-9)}
        )
        self._clips, self._spans = 0, []


class GradientNorm(pl.Callback):
    """Log `train/grad_norm`, the Euclidean norm of all gradients before they are clipped, at logged steps."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the norm here, because all gradients are complete and averaged over the devices."""
        if not _is_logged(trainer, trainer.global_step + 1):
            return
        norm = nn.utils.get_total_norm(p.grad for p in pl_module.parameters() if p.grad is not None)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # Fused optimizers get scaled gradients in 16-bit training, and divide them by the scale themselves.
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()
        pl_module.log("train/grad_norm", norm)


# A time in seconds on the clock of the CPU, or an event on that of a GPU.
_Moment = float | torch.cuda.Event


def _now(device: torch.device) -> _Moment:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(start: _Moment, end: _Moment) -> float:
    if isinstance(start, float):
        return cast("float", end) - start
    milliseconds: float = start.elapsed_time(cast("torch.cuda.Event", end))
    return milliseconds / 1000


def _is_logged(trainer: pl.Trainer, step: int) -> bool:
    """Return whether the optimizer step of this number, counted from 1, is logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step > 0 and every > 0 and step % every == 0

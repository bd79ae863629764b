"""[numbers of batches → **means over a split** → loggers]

What a task measures on each batch is logged at each step in training, and as means over a split in evaluation.
"""

from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MetricCollection

from hcml_lightning.batch import VideoBatch, check_batch
from hcml_lightning.metrics import BatchMeans
from hcml_lightning.scores import remarks


class MeasuredTask(pl.LightningModule):
    """A task that logs measurements of batches; each evaluation starts afresh, even after an interrupted one."""

    # Keys of a `VideoBatch` that the steps read.
    READS: ClassVar[tuple[str, ...]] = ("video",)

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor | float] = {}
        self.means = BatchMeans()

    def log_mean(self, values: dict[str, Tensor | float], batch: VideoBatch) -> None:
        """Log scalars as means over the epoch in validation and test, and at each step in training.

        Args:
            values: scalars by name.
            batch: batch on which they were measured.
        """
        if self._trainer is not None and self.trainer.evaluating:
            self._add_to_means(values, batch["index"])
        else:
            # In a custom loop, before or after that of a Trainer, the values can be read from `terms`.
            self.terms = values

    def on_after_backward(self) -> None:
        """Log the terms of the step; the step itself does not, so that it can be compiled into one graph."""
        self.log_dict(self.terms)

    # Not compiled, because counters of metrics and of Lightning would become constants of the compiled code.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add_to_means(self, values: dict[str, Tensor | float], index: Tensor) -> None:
        self.means.update(values, index)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def log_accuracy(
        self, accuracy: MetricCollection, probability: Tensor, batch: VideoBatch
    ) -> None:
        """Log the accuracy of a split, each video counted once.

        Args:
            accuracy: metrics by name, each a `VideoAccuracy`.
            probability: probability of each class, (B, K).
            batch: batch that was classified.
        """
        accuracy.update(probability, batch["label"], batch["index"])
        self.log_dict(accuracy)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check that the first batch has what a step reads."""
        if batch_idx == 0:
            check_batch(batch, self.READS)

    def on_train_end(self) -> None:
        """Warn if, by the last validation, the flow or the predictions of the future are no better than none."""
        # A trial run by `fast_dev_run` is too short to learn anything.
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            found = self.trainer.callback_metrics
            for remark in remarks({k: float(v) for k, v in found.items() if v.numel() == 1}):
                rank_zero_warn(remark)

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check that the first batch has what a step reads."""
        if batch_idx == 0:
            check_batch(batch, (*self.READS, "index"))

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check that the first batch has what a step reads."""
        if batch_idx == 0:
            check_batch(batch, (*self.READS, "index"))

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check that the first batch has what a step reads."""
        if batch_idx == 0:
            check_batch(batch, ("video", "video_id"))

    def on_validation_epoch_start(self) -> None:
        """Reset all metrics, because an interrupted evaluation may have left values in them."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Reset all metrics, because an interrupted evaluation may have left values in them."""
        self._forget()

    def _forget(self) -> None:
        for metric in self.children():
            if isinstance(metric, BatchMeans | MetricCollection):
                metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the split."""
        self._log_means()

    def on_test_epoch_end(self) -> None:
        """Log the means over the split."""
        self._log_means()

    def _log_means(self) -> None:
        if self.means.update_called:
            # The means are already the same on all ranks, but Lightning cannot know that.
            self.log_dict(self.means.compute(), sync_dist=True)

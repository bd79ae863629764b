"""[numbers of batches → **means over a split** → loggers]

What a task measures, batch by batch: logged at each step of training, and as means over the videos of a split.
"""

from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from hcml_lightning.batch import VideoBatch, check_batch
from hcml_lightning.metrics import BatchMeans


class MeasuredTask(pl.LightningModule):
    """Logs what it is told of batches; each evaluation begins anew, whatever became of the one before."""

    # What its steps read of a `VideoBatch`.
    READS: ClassVar[tuple[str, ...]] = ("video",)

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor | float] = {}
        self.means = BatchMeans()

    def log_mean(self, values: dict[str, Tensor | float], batch: VideoBatch) -> None:
        """Log scalars as means over the epoch in validation and test, and at each step in training.

        Args:
            values: by name.
            batch: what they were measured on.
        """
        # Without a trainer, in a loop of somebody's own, they are there to be looked at.
        if self._trainer is None or self.trainer.training:
            self.terms = values
        else:
            self._add_to_means(values, batch["index"])

    def on_after_backward(self) -> None:
        """Log the terms of the step. The step itself does not, so that it can be compiled into one graph."""
        self.log_dict(self.terms)

    # Not compiled: what metrics and Lightning count would be constants of the code.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add_to_means(self, values: dict[str, Tensor | float], index: Tensor) -> None:
        self.means.update(values, index)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def log_accuracy(
        self, accuracy: MetricCollection, probability: Tensor, batch: VideoBatch
    ) -> None:
        """Log the accuracy of a split, each video counted once.

        Args:
            accuracy: `VideoAccuracy` by name.
            probability: of each class, (B, K).
            batch: what they were found for.
        """
        accuracy.update(probability, batch["label"], batch["index"])
        self.log_dict(accuracy)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Hold the loader to what a step reads."""
        if batch_idx == 0:
            check_batch(batch, self.READS)

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hold the loader to what a step reads."""
        if batch_idx == 0:
            check_batch(batch, (*self.READS, "index"))

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Hold the loader to what a step reads."""
        if batch_idx == 0:
            check_batch(batch, (*self.READS, "index"))

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Hold the loader to what a step reads."""
        if batch_idx == 0:
            check_batch(batch, ("video", "video_id"))

    def on_validation_epoch_start(self) -> None:
        """Begin anew, whatever an evaluation that was cut off had measured."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Begin anew, whatever an evaluation that was cut off had measured."""
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
            # The same on all ranks already, which Lightning cannot know.
            self.log_dict(self.means.compute(), sync_dist=True)

"""[numbers of batches → **means over a split** → loggers]

What a task measures, batch by batch: logged at each step of training, and as means over the videos of a split.
"""

from typing import Any, ClassVar

import pytorch_lightning as pl
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
        if self._trainer is None:
            # In a loop of somebody's own.
            self.terms = values
        elif self.trainer.training:
            self.terms = values
            self.log_dict(values, batch_size=len(batch["video"]))
        else:
            self.means.update(values, batch["index"])

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

"""[logits of a step → **counts of an epoch, in checkpoints too** → accuracy in training]

What is counted over an epoch of training must not begin anew where a run goes on inside the epoch.
"""

from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
from torchmetrics import Metric


class TrainCounts(pl.Callback):
    """Count an epoch's predictions, over all processes, keep the counts in checkpoints, and count on from there.

    Not the step itself does: a metric counts its updates in a number that compiled code would be made for, anew at each
    step.

    Args:
        metric: of `to_count` of the task, logits and labels; of sums alone, as an accuracy by counts is; it begins
            anew with each epoch.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that goes on inside an epoch does not come here."""
        self.metric.reset()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count what the step has found, before anybody writes a checkpoint."""
        if pl_module.to_count is not None:
            self.metric.update(*pl_module.to_count)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the counts of all processes, each of which is here; only one of them writes."""
        with self.metric.sync_context():
            checkpoint["train_counts"] = deepcopy(self.metric.metric_state)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give all counts to one process, since they will be summed."""
        self.metric.reset()
        if trainer.global_rank == 0:
            for name, value in checkpoint.get("train_counts", {}).items():
                setattr(self.metric, name, value.to(self.metric.device))

"""[clip → logits → **accuracy** → loggers]

What classification tasks have in common: how their accuracy is measured in training, over a split, and over the views
of a video.
"""

from copy import deepcopy
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from hcml_lightning.batch import VideoBatch
from hcml_lightning.metrics import VideoAccuracy
from hcml_lightning.ranges import check_whole
from hcml_lightning.tasks.base import MotionTask
from hcml_lightning.tasks.views import VideoPrediction, mean_probability


class ClassificationTask(MotionTask):
    """A task whose `forward` maps RGB in 0..255, (B, 3, T, H, W), to logits, (B, K).

    Subclasses assign logits and labels to `to_count` in the training step, and call `log_accuracy` in the validation
    step.

    Args:
        views_per_forward: number of views of a multi-view test that pass the network at a time; bounds the memory.
        **shared: arguments of every task.

    Raises:
        ValueError: if there are fewer than two classes, or a number is out of its range.
    """

    MONITOR: ClassVar[tuple[str, str]] = ("val/top1", "max")
    CLASSIFIES: ClassVar[bool] = True
    READS: ClassVar[tuple[str, ...]] = ("video", "label")

    def __init__(self, views_per_forward: int = 8, **shared: Any) -> None:
        super().__init__(**shared)
        check_whole(1, views_per_forward=views_per_forward)
        self.views_per_forward = views_per_forward
        # The metrics of one collection share their state, so that each score is stored only once.
        accuracy = MetricCollection({"top1": VideoAccuracy(), "top5": VideoAccuracy(top_k=5)})
        # Only counts are kept, because the scores of a whole training split would fill the memory of the device.
        self.train_accuracy = MulticlassAccuracy(self.num_classes, average="micro")
        # Logits and labels of the last step, counted after it. Not in it, because a metric keeps the number of its
        # updates as a Python number, for each of which a compiled step would be compiled again.
        self.to_count: tuple[Tensor, Tensor] | None = None
        self.val_accuracy = accuracy.clone(prefix="val/")
        self.test_accuracy = accuracy.clone(prefix="test/")

    def on_train_epoch_start(self) -> None:
        """Reset the counts of training; a run that is resumed inside an epoch skips this hook and keeps them."""
        super().on_train_epoch_start()
        self.train_accuracy.reset()

    def on_after_backward(self) -> None:
        """Count the predictions of the step, before a callback writes a checkpoint."""
        super().on_after_backward()
        if self.to_count is not None:
            self.train_accuracy.update(*self.to_count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sum of the counts of all processes; all of them call this hook, although only one writes."""
        with self.train_accuracy.sync_context():
            checkpoint["train_counts"] = deepcopy(self.train_accuracy.metric_state)
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts in one process only, because the counts of all processes will be summed."""
        super().on_load_checkpoint(checkpoint)
        self.train_accuracy.reset()
        if self.global_rank == 0:
            for name, value in checkpoint.get("train_counts", {}).items():
                setattr(self.train_accuracy, name, value.to(self.train_accuracy.device))

    def on_train_batch_end(self, outputs: Any, batch: VideoBatch, batch_idx: int) -> None:
        """Log the accuracy of the whole epoch after its last step, on augmented clips and while the weights changed.

        In `on_train_epoch_end` it would be too late, because callbacks that report it come before the task.
        """
        trainer = self.trainer
        # Not `should_stop`, after which training goes on if `min_epochs` or `min_steps` is not reached.
        ends = (
            trainer.is_last_batch
            or trainer.global_step == trainer.max_steps
            or trainer.fit_loop.epoch_loop.done
        )
        # Weight averaging adds an epoch without backward passes, in which nothing is counted.
        if ends and self.train_accuracy.update_called:
            # Log the number, not the metric, which would communicate with all processes whenever one reads it. The
            # number is the same in all of them, but Lightning cannot know that.
            top1 = self.train_accuracy.compute()
            self.log("train/top1", top1, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def test_step(self, batch: VideoBatch, batch_idx: int) -> VideoPrediction:
        """Return the mean probability over all views of each video, and log its accuracy (Sec. 4.3)."""
        found = self.predict_step(batch, batch_idx)
        self.log_accuracy(self.test_accuracy, found["probability"], batch)
        return found

    def predict_step(self, batch: VideoBatch, batch_idx: int) -> VideoPrediction:
        """Return the mean probability over all views of each video."""
        probability = mean_probability(self, batch["video"], self.views_per_forward)
        # A user's loader need not name the videos of a test.
        names = batch.get("video_id") or [str(i) for i in batch["index"].tolist()]
        return {"video_id": names, "probability": probability}

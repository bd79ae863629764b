"""[clip → logits → **accuracy** → loggers]

What the tasks that tell classes apart have in common: how they are measured, in training, over a split, and over the
views of a video.
"""

from copy import deepcopy
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from hcml_lightning.batch import VideoBatch
from hcml_lightning.metrics import VideoAccuracy
from hcml_lightning.ranges import check_above_zero
from hcml_lightning.tasks.base import MotionTask
from hcml_lightning.tasks.views import VideoPrediction, mean_probability


class ClassificationTask(MotionTask):
    """A task whose `forward` takes RGB in 0..255, (B, 3, T, H, W), to logits, (B, K).

    Its training step puts logits and labels into `to_count`, its validation step calls `log_accuracy`.

    Args:
        views_per_forward: how many views of a multi-view test go through the network at a time; bounds the memory.
        **shared: arguments of every task.

    Raises:
        ValueError: if there are fewer than two classes, or a number is out of its range.
    """

    MONITOR: ClassVar[tuple[str, str]] = ("val/top1", "max")
    CLASSIFIES: ClassVar[bool] = True
    READS: ClassVar[tuple[str, ...]] = ("video", "label")

    def __init__(self, views_per_forward: int = 8, **shared: Any) -> None:
        super().__init__(**shared)
        check_above_zero(views_per_forward=views_per_forward)
        self.views_per_forward = views_per_forward
        # Clones of one collection share their state, so that each score is kept once.
        accuracy = MetricCollection({"top1": VideoAccuracy(), "top5": VideoAccuracy(top_k=5)})
        # Counts alone: the scores of a whole training split would fill the device.
        self.train_accuracy = MulticlassAccuracy(self.num_classes, average="micro")
        # Logits and labels of the last step, counted after it. Not in it: a metric has the number of its updates as a
        # plain number, and a compiled step would be compiled anew for each.
        self.to_count: tuple[Tensor, Tensor] | None = None
        self.val_accuracy = accuracy.clone(prefix="val/")
        self.test_accuracy = accuracy.clone(prefix="test/")

    def on_train_epoch_start(self) -> None:
        """Count anew; a run that goes on inside an epoch does not come here."""
        super().on_train_epoch_start()
        self.train_accuracy.reset()

    def on_after_backward(self) -> None:
        """Count what the step has found, before anybody writes a checkpoint."""
        super().on_after_backward()
        if self.to_count is not None:
            self.train_accuracy.update(*self.to_count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counts of all processes, each of which is here; only one of them writes."""
        with self.train_accuracy.sync_context():
            checkpoint["train_counts"] = deepcopy(self.train_accuracy.metric_state)
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give all counts to one process, since they will be summed."""
        super().on_load_checkpoint(checkpoint)
        self.train_accuracy.reset()
        if self.global_rank == 0:
            for name, value in checkpoint.get("train_counts", {}).items():
                setattr(self.train_accuracy, name, value.to(self.train_accuracy.device))

    def on_train_batch_end(self, outputs: Any, batch: VideoBatch, batch_idx: int) -> None:
        """Accuracy of the whole epoch, on clips as they were augmented and while it learned, after its last step.

        At the end of the epoch, callbacks that tell of it come before a task.
        """
        trainer = self.trainer
        if trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            # A number that all processes have, though Lightning cannot know it, and not the metric, which would ask
            # them all whenever one looks at it.
            top1 = self.train_accuracy.compute()
            self.log("train/top1", top1, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def test_step(self, batch: VideoBatch, batch_idx: int) -> VideoPrediction:
        """Mean probability over all views of a video (Sec. 4.3)."""
        found = self.predict_step(batch, batch_idx)
        self.log_accuracy(self.test_accuracy, found["probability"], batch)
        return found

    def predict_step(self, batch: VideoBatch, batch_idx: int) -> VideoPrediction:
        """Mean probability over all views of a video."""
        probability = mean_probability(self, batch["video"], self.views_per_forward)
        return {"video_id": batch["video_id"], "probability": probability}

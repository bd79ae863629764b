"""[validation → **pictures, videos, tables** → loggers]

Callbacks that show the progress of training, on the same few validation clips every time. `configs/wandb.yaml` enables
them, and they work in any `pl.Trainer` whose logger takes pictures: W&B's, and for images TensorBoard's.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from einops import rearrange
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from hcml_lightning.batch import VideoBatch
from hcml_lightning.ranges import check_whole
from hcml_lightning.tasks import ClassificationTask, MotionTask, RecognitionTask
from hcml_lightning.tools.pictures.confusion import confusion
from hcml_lightning.tools.pictures.drawing import (
    estimate_flow,
    flow_rows,
    heat_row,
    some_clips,
    write_mp4,
)
from hcml_lightning.tools.pictures.grad_cam import grad_cam
from hcml_lightning.tools.run.video_results import VideoResult


class Picture(NamedTuple):
    """A picture of one clip.

    Attributes:
        image: uint8, (3, rows of pixels, columns of pixels).
        caption: one line.
    """

    image: Tensor
    caption: str


class Watch(pl.Callback):
    """Draw something after validation: after the first one, then every `every_n_epochs` epochs, and after the last one.

    Early stopping decides too late for a drawing after the last one.

    Args:
        num_clips: clips of the validation split, evenly spread over it.
        every_n_epochs: epochs from one drawing to the next.

    Raises:
        ValueError: if an argument is less than 1.
    """

    def __init__(self, num_clips: int = 4, every_n_epochs: int = 5) -> None:
        check_whole(1, num_clips=num_clips, every_n_epochs=every_n_epochs)
        self.num_clips, self.every_n_epochs = num_clips, every_n_epochs
        self._batch: VideoBatch | None = None
        self._next_epoch = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the clips and epochs of an earlier fit."""
        self._batch, self._next_epoch = None, 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw if it is time to; on all ranks, because `show` may have to gather what is drawn."""
        # `max_epochs` and `max_steps` are -1 if something else limits training.
        ends = 0 < (trainer.max_epochs or 0) <= trainer.current_epoch + 1
        ends = ends or 0 < trainer.max_steps <= trainer.global_step or trainer.should_stop
        due = trainer.current_epoch >= self._next_epoch or ends
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        # Only the first of a class draws: a saved config and configs/wandb.yaml after it name each callback twice.
        first = self is next(c for c in trainer.callbacks if type(c) is type(self))  # type: ignore[attr-defined]
        if not (
            first and due and training and trainer.loggers and isinstance(pl_module, MotionTask)
        ):
            return
        self._next_epoch = trainer.current_epoch + self.every_n_epochs
        with trainer.precision_plugin.forward_context():
            self.show(trainer, pl_module)

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        """Draw, and pass the result to the loggers.

        Raises:
            NotImplementedError: always, in the base class.
        """
        raise NotImplementedError

    def clips(self, trainer: pl.Trainer) -> VideoBatch:
        """Return the clips, always the same, on the CPU."""
        if self._batch is None:
            loader: Any = trainer.val_dataloaders
            # Tensors made in inference mode cannot be used in computations that need gradients.
            with torch.inference_mode(False):
                self._batch = some_clips(loader, self.num_clips)
        return self._batch


class FlowPictures(Watch):
    """Draw the flow that is trained: frame, next frame, (true flow,) flow, frame rebuilt from the next.

    Args:
        num_clips: clips of the validation split, evenly spread over it.
        every_n_epochs: epochs from one drawing to the next.
    """

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        """Log the pictures, in stages that train the flow decoder."""
        if trainer.is_global_zero:
            batch = self.clips(trainer)
            estimate = estimate_flow(task, batch["video"].to(task.device))
            if estimate is not None:
                rows = zip(flow_rows(batch, estimate), batch["video_id"], strict=True)
                log_pictures(trainer, "pictures/flow", [Picture(*row) for row in rows])


class GradCamPictures(Watch):
    """Draw the regions that support the predicted class (Grad-CAM++), below the frames.

    Args:
        num_clips: clips of the validation split, evenly spread over it.
        every_n_epochs: epochs from one drawing to the next.
    """

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        """Log the pictures, in recognition."""
        if not trainer.is_global_zero or not isinstance(task, RecognitionTask):
            return
        batch = self.clips(trainer)
        clip = batch["video"].to(task.device)
        probability = _probability(task, clip)
        try:
            heat = grad_cam(task.model.network, clip, probability.argmax(dim=1))
        except ImportError as error:
            rank_zero_warn(f"skipping Grad-CAM++ pictures: {error}")
            self._next_epoch = 2**31
            return
        images = map(heat_row, batch["video"], heat)
        captions = _captions(task, batch, probability)
        pictures = [Picture(*both) for both in zip(images, captions, strict=True)]
        log_pictures(trainer, "pictures/grad_cam", pictures)


class SampleVideos(Watch):
    """Log clips as videos with their true and predicted classes.

    Args:
        num_clips: clips of the validation split, evenly spread over it.
        every_n_epochs: epochs from one drawing to the next.
    """

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        """Log the videos, in recognition and probing."""
        if not trainer.is_global_zero or not isinstance(task, ClassificationTask):
            return
        batch = self.clips(trainer)
        captions = _captions(task, batch, _probability(task, batch["video"].to(task.device)))
        with TemporaryDirectory() as folder:
            paths = [Path(folder, f"{i}.mp4") for i in range(len(captions))]
            for path, clip in zip(paths, batch["video"], strict=True):
                write_mp4(path, clip)
            for logger in trainer.loggers:
                if hasattr(logger, "log_video"):
                    videos = [str(path) for path in paths]
                    logger.log_video(
                        "pictures/samples", videos, trainer.global_step, caption=captions
                    )


class TopConfusions(Watch):
    """Log which classes are most often confused with which others, over the whole validation split.

    Args:
        most: largest number of rows of the table.
        every_n_epochs: epochs from one table to the next.
    """

    def __init__(self, most: int = 20, every_n_epochs: int = 5) -> None:
        super().__init__(every_n_epochs=every_n_epochs)
        check_whole(1, most=most)
        self.most = most

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        """Log the table, in recognition and probing."""
        if not isinstance(task, ClassificationTask):
            return
        top1: Any = task.val_accuracy["top1"]
        # Inside the context, the metric holds the values of all devices.
        with top1.sync_context():
            scores, labels, indices = map(dim_zero_cat, (top1.scores, top1.labels, top1.indices))
        if not trainer.is_global_zero:
            return
        names, best = _names(task), scores.max(dim=1)
        columns = (indices, labels, best.indices, best.values)
        # A distributed sampler may give a video to two devices, so that all have equally many.
        videos = {
            index: VideoResult(str(index), names[label], names[found], score)
            for index, label, found, score in zip(*(c.tolist() for c in columns), strict=True)
        }
        rows = [list(pair) for pair in confusion(list(videos.values())).pairs[: self.most]]
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table(
                    "val/confusions", CONFUSION_COLUMNS, rows, step=trainer.global_step
                )


CONFUSION_COLUMNS = ["true class", "predicted class", "videos", "share of the true class"]


def log_pictures(trainer: pl.Trainer, key: str, pictures: Sequence[Picture]) -> None:
    """Log pictures with all loggers that take images.

    Args:
        trainer: trainer with the loggers.
        key: name of the series.
        pictures: one for each clip.
    """
    loggers: list[Logger] = trainer.loggers
    for logger in loggers:
        if hasattr(logger, "log_image"):
            images = [rearrange(picture.image, "c h w -> h w c").numpy() for picture in pictures]
            captions = [picture.caption for picture in pictures]
            logger.log_image(key, images, trainer.global_step, caption=captions)
        elif isinstance(logger, TensorBoardLogger):
            for number, picture in enumerate(pictures):
                logger.experiment.add_image(f"{key}/{number}", picture.image, trainer.global_step)


def _probability(task: ClassificationTask, clip: Tensor) -> Tensor:
    """Return class probabilities, (B, K), on the CPU."""
    logits: Tensor = task(clip)
    return logits.detach().float().softmax(dim=1).cpu()


def _captions(task: MotionTask, batch: VideoBatch, probability: Tensor) -> list[str]:
    names = _names(task)
    captions = []
    for name, label, row in zip(
        batch["video_id"], batch["label"].tolist(), probability, strict=True
    ):
        found = int(row.argmax())
        true = names[label] if label >= 0 else "unknown"
        verdict = "correct" if found == label else "wrong"
        captions.append(f"{name}: {true}; predicted {names[found]} ({row[found]:.0%}), {verdict}")
    return captions


def _names(task: MotionTask) -> list[str]:
    return task.class_names or [str(i) for i in range(task.num_classes)]

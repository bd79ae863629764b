"""Training accuracy counts the whole epoch, even if the run was cut off and resumed inside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, StochasticWeightAveraging
from tests.tasks.conftest import Drift
from torch import Tensor
from torch.utils.data import DataLoader

from hcml_lightning.tasks import MotionTask, ProbeTask, RecognitionTask

# How many of the two videos in a batch are recognised, for each step of two epochs.
RIGHT = [1, 1, 0, 1, 2, 0, 1, 2]


@pytest.fixture
def loader() -> DataLoader[dict[str, Any]]:
    return DataLoader(Drift(), batch_size=2)


class KeepAll(Checkpoint):
    """Saves the state after every step; the end of an epoch replaces the state after its last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt", weights_only=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_train_batch_end(trainer)


def counting(make: type[MotionTask], tiny: dict[str, Any]) -> MotionTask:
    """A task that is right as often as RIGHT says, and learns nothing."""
    task: Any = make(**tiny | {"levels": (0,)}, lr=0.0)

    def training_step(batch: dict[str, Any], batch_idx: int) -> Tensor:
        wrong = torch.arange(2) >= RIGHT[task.global_step % len(RIGHT)]
        task.to_count = (batch["label"] + wrong) % 4, batch["label"]
        return sum(p.sum() for p in task.parameters() if p.requires_grad) * 0

    task.training_step = training_step
    return task


# Here the step decides how many are right, whichever videos are in the batch.
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize("make", [RecognitionTask, ProbeTask])
def test_training_accuracy_of_a_resumed_run_covers_the_whole_epoch(
    make: type[MotionTask], fit: Callable[..., pl.Trainer], tiny: dict[str, Any], tmp_path: Path
):
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, "limit_val_batches": 1}
    settings["enable_checkpointing"] = True
    fit(counting(make, tiny), callbacks=[KeepAll(tmp_path)], **settings)
    for step in (3, 4, 6):
        path, again = str(tmp_path / f"{step}.ckpt"), KeepAll(tmp_path / "again")
        run = fit(counting(make, tiny), ckpt_path=path, callbacks=[again], **settings)
        assert run.global_step == len(RIGHT)
        assert float(run.callback_metrics["train/top1"]) == 5 / 8


def test_training_accuracy_is_of_whole_epochs_if_a_stop_was_asked_for_before_min_epochs(
    fit: Callable[..., pl.Trainer], tiny: dict[str, Any]
):
    class Hasty(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    trainer = fit(counting(RecognitionTask, tiny), callbacks=[Hasty()], max_epochs=3, min_epochs=2)
    assert trainer.current_epoch == 2
    assert float(trainer.callback_metrics["train/top1"]) == sum(RIGHT[4:]) / 8


# Lightning warns that the added epoch has no optimizer step, and of the settings chosen here.
@pytest.mark.filterwarnings("ignore:.*lr_scheduler", "ignore:.*SWA")
def test_epoch_without_steps_does_not_change_the_training_accuracy(
    fit: Callable[..., pl.Trainer], tiny: dict[str, Any]
):
    """Weight averaging adds such an epoch to renew the statistics of batch norms."""
    task = counting(RecognitionTask, tiny)
    averaging = StochasticWeightAveraging(swa_lrs=1e-12, swa_epoch_start=1)
    trainer = fit(task, callbacks=[averaging], max_epochs=2, num_sanity_val_steps=0)
    assert float(trainer.callback_metrics["train/top1"]) == sum(RIGHT[4:]) / 8

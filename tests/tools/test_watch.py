"""When pictures of validation are drawn, and the table of confusions."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch

from hcml_lightning import RecognitionTask
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.watch import TopConfusions, Watch


class Counted(Watch):
    """Records the epochs in which it draws."""

    def show(self, trainer: pl.Trainer, task: MotionTask) -> None:
        self.epochs = [*getattr(self, "epochs", []), trainer.current_epoch]


@pytest.mark.parametrize(("max_epochs", "drawn"), [(6, [0, 3, 5]), (-1, [0, 3])])
def test_pictures_are_drawn_every_n_epochs_and_in_the_last_one_if_known(
    max_epochs: int, drawn: list[int]
):
    watch = Counted(every_n_epochs=3)
    task = RecognitionTask(backbone="r2d_tiny", num_classes=3)
    trainer: Any = SimpleNamespace(max_epochs=max_epochs, sanity_checking=False, loggers=[object()])
    trainer.state, trainer.callbacks = SimpleNamespace(fn="fit"), [watch]
    trainer.precision_plugin = SimpleNamespace(forward_context=nullcontext)
    for trainer.current_epoch in range(6):
        watch.on_validation_epoch_end(trainer, task)
    assert watch.epochs == drawn


def test_confusions_count_a_repeated_video_once():
    tables: list[list[list[Any]]] = []
    logger = SimpleNamespace(log_table=lambda key, columns, rows, step: tables.append(rows))
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=1)
    task = RecognitionTask(backbone="r2d_tiny", num_classes=3)
    top1 = cast(Any, task.val_accuracy["top1"])
    scores = torch.eye(3)
    # Videos 4, 5, 6, and 5 once more: true classes 1, 2, 2, found 0, 1, 2.
    top1.update(scores, torch.tensor([1, 2, 2]), torch.tensor([4, 5, 6]))
    top1.update(scores[1:2], torch.tensor([2]), torch.tensor([5]))
    TopConfusions().show(trainer, task)
    assert tables == [[["1", "0", 1, 1.0], ["2", "1", 1, 0.5]]]
    # The metric itself has not changed.
    assert float(top1.compute()) == float(torch.tensor(1 / 3))

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


@pytest.mark.parametrize(
    ("limits", "drawn"),
    [
        ({"max_epochs": 6}, [0, 3, 5]),
        ({"max_steps": 12}, [0, 3, 5]),
        ({"should_stop": True}, [0, 1, 2, 3, 4, 5]),
        ({}, [0, 3]),
    ],
)
def test_pictures_are_drawn_every_n_epochs_and_in_the_last_one_if_known(
    limits: dict[str, Any], drawn: list[int]
):
    watch = Counted(every_n_epochs=3)
    task = RecognitionTask(backbone="r2d_tiny", num_classes=3)
    unlimited = {"max_epochs": -1, "max_steps": -1, "should_stop": False}
    trainer: Any = SimpleNamespace(**unlimited | limits, sanity_checking=False, loggers=[object()])
    trainer.state, trainer.callbacks = SimpleNamespace(fn="fit"), [watch]
    trainer.precision_plugin = SimpleNamespace(forward_context=nullcontext)
    # Another fit begins anew.
    for _ in range(2):
        watch.epochs = []
        watch.on_fit_start(trainer, task)
        for trainer.current_epoch in range(6):
            trainer.global_step = 2 * (trainer.current_epoch + 1)
            watch.on_validation_epoch_end(trainer, task)
        assert watch.epochs == drawn


def test_pictures_of_no_clips_are_refused():
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        Watch(num_clips=0)
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        TopConfusions(most=0)


def test_clips_are_those_of_the_own_fit():
    watch = Watch()
    trainer: Any = None
    watch._batch = cast("Any", {})
    watch.on_fit_start(trainer, cast("Any", None))
    assert watch._batch is None


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

"""What is logged about validation, beside the pictures."""

from types import SimpleNamespace
from typing import Any, cast

import torch

from hcml_lightning import RecognitionTask
from hcml_lightning.tools.watch import TopConfusions


def test_confusions_count_a_video_that_came_twice_once():
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
    # The metric goes on as it was.
    assert float(top1.compute()) == float(torch.tensor(1 / 3))

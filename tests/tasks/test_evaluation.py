"""What evaluations measure, whatever came before them."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning.tasks import FlowTask, ProbeTask, RecognitionTask
from hcml_lightning.tasks.base import MotionTask


class CutOff(pl.Callback):
    """Ends an evaluation before its second batch, as a full memory would."""

    def on_validation_batch_start(self, *arguments: Any) -> None:
        if arguments[3] == 1:
            raise MemoryError

    on_test_batch_start = on_validation_batch_start


@pytest.mark.parametrize("make", [FlowTask, RecognitionTask, ProbeTask])
@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_evaluation_that_was_cut_off_leaves_nothing_to_the_next(
    make: type[MotionTask],
    command: str,
    tiny: dict[str, Any],
    loader: DataLoader[dict[str, Any]],
    evaluate: Callable[..., dict[str, float]],
) -> None:
    task = make(**tiny)
    with pytest.raises(MemoryError):
        evaluate(task, command, callbacks=[CutOff()])
    other = make(**tiny)
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
    task.load_state_dict(other.state_dict())
    assert evaluate(task, command) == evaluate(other, command)


@pytest.fixture
def evaluate(loader: DataLoader[dict[str, Any]], tmp_path: Any) -> Callable[..., dict[str, float]]:
    """Validate or test on the drifting noise."""

    def run(task: MotionTask, command: str, **options: Any) -> dict[str, float]:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
            **options,
        )
        (numbers,) = getattr(trainer, command)(task, loader, verbose=False)
        return dict(numbers)

    return run

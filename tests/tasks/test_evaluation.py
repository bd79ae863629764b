"""Evaluations measure the same, whatever came before them."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests.tasks.conftest import QUIET, Drift
from torch.utils.data import DataLoader

from hcml_lightning.tasks import FlowTask, ProbeTask, RecognitionTask
from hcml_lightning.tasks.base import MotionTask
from hcml_lightning.tools.run.video_result_writer import VideoResultWriter


class CutOff(pl.Callback):
    """Ends an evaluation before its second batch, as running out of memory would."""

    def on_validation_batch_start(self, *arguments: Any) -> None:
        if arguments[3] == 1:
            raise MemoryError

    on_test_batch_start = on_validation_batch_start


@pytest.mark.parametrize("make", [FlowTask, RecognitionTask, ProbeTask])
@pytest.mark.parametrize("command", ["validate", "test"])
def test_interrupted_evaluation_does_not_affect_the_next_one(
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


class Nameless(Drift):
    """Samples with only what a test needs: without names."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {key: sample[key] for key in ("video", "label", "index")}


@pytest.mark.parametrize("make", [RecognitionTask, ProbeTask])
def test_videos_without_names_are_tested_under_their_index(
    make: type[MotionTask], tiny: dict[str, Any]
) -> None:
    found: list[list[str]] = []

    class Seen(pl.Callback):
        def on_test_batch_end(self, *arguments: Any) -> None:
            found.append(arguments[2]["video_id"])

    trainer = pl.Trainer(**QUIET, callbacks=[Seen(), VideoResultWriter()])
    trainer.test(make(**tiny), DataLoader(Nameless(), batch_size=4), verbose=False)
    assert found == [list("0123"), list("4567")]
    assert "test/top1" in trainer.callback_metrics


def test_validation_after_fit_keeps_the_callbacks_of_the_trainer(
    fit: Callable[..., pl.Trainer], tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = fit(FlowTask(**tiny))
    before = list(trainer.callbacks)  # type: ignore[attr-defined]
    trainer.validate(trainer.lightning_module, trainer.val_dataloaders, verbose=False)
    assert trainer.callbacks == before  # type: ignore[attr-defined]
    assert "will override" not in caplog.text

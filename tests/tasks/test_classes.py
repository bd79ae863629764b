"""The classes of the weights must be those of the data; a difference is reported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests.tasks.conftest import QUIET, Drift
from torch.utils.data import DataLoader

from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.listed import Split
from hcml_lightning.tasks import ContrastTask, ProbeTask, RecognitionTask
from hcml_lightning.tasks.base import MotionTask


class Named(pl.LightningDataModule):
    """The drifting noise, with class names."""

    def __init__(self, class_names: list[str]) -> None:
        super().__init__()
        self.class_names = class_names

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(Drift(), batch_size=4)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.fixture
def trainer(tmp_path: Path) -> pl.Trainer:
    return pl.Trainer(
        max_steps=1,
        **QUIET,
        default_root_dir=tmp_path,
    )


@pytest.fixture
def trained(trainer: pl.Trainer, tiny: dict[str, Any], tmp_path: Path) -> Path:
    task = RecognitionTask(**tiny)
    trainer.fit(task, Named(list("abcd")))
    assert task.class_names == list("abcd")
    trainer.save_checkpoint(tmp_path / "abcd.ckpt")
    return tmp_path / "abcd.ckpt"


@pytest.mark.parametrize("make", [RecognitionTask, ProbeTask])
def test_num_classes_other_than_that_of_the_data_is_refused(
    make: type[MotionTask], trainer: pl.Trainer, tiny: dict[str, Any]
) -> None:
    task = make(**tiny | {"num_classes": 400})
    with pytest.raises(ValueError, match="num_classes is 400, but the data has 4 classes"):
        trainer.fit(task, Named(list("abcd")))


def test_num_classes_does_not_matter_to_a_stage_without_labels(
    trainer: pl.Trainer, tiny: dict[str, Any]
) -> None:
    task = ContrastTask(**tiny | {"num_classes": 400})
    trainer.fit(task, Named(list("abcd")))
    assert task.class_names is None


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_checkpoint_of_other_classes_is_refused(
    command: str, trained: Path, trainer: pl.Trainer, tiny: dict[str, Any]
) -> None:
    data = Named(list("abdc"))
    wrong = "number 2 was 'c' and is 'd' here"
    with pytest.raises(ValueError, match=wrong):
        getattr(trainer, command)(RecognitionTask(**tiny), datamodule=data, ckpt_path=trained)
    with pytest.raises(ValueError, match=wrong):
        getattr(trainer, command)(RecognitionTask.load_from_checkpoint(trained), datamodule=data)


def test_prediction_uses_the_class_names_of_the_weights(trained: Path, trainer: pl.Trainer) -> None:
    task = RecognitionTask.load_from_checkpoint(trained)
    trainer.predict(task, Named([]))
    assert task.class_names == list("abcd")


def test_init_from_does_not_take_a_classifier_of_other_classes(
    trained: Path, trainer: pl.Trainer, tiny: dict[str, Any]
) -> None:
    stored = torch.load(trained, weights_only=True)["state_dict"]
    task = RecognitionTask(**tiny, init_from=trained, lr=0.0)
    own = task.model.network.fc.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"for other classes \(number 2 was 'c'"):
        trainer.fit(task, Named(list("abdc")))
    assert torch.equal(task.model.network.fc.weight, own)
    conv = "model.network.layer4.0.conv1.weight"
    torch.testing.assert_close(task.state_dict()[conv], stored[conv])


class HalfLabelled(UCF101DataModule):
    """A dataset of which some videos have no label."""

    def records(self, split: Split) -> list[VideoRecord]:
        first, *others = super().records(split)
        return [replace(first, label=-1), *others]


@pytest.mark.parametrize("run", ["fit", "validate"])
@pytest.mark.parametrize("make", [RecognitionTask, ProbeTask])
def test_unlabelled_videos_are_refused_where_the_loss_needs_labels(
    make: type[MotionTask],
    run: str,
    trainer: pl.Trainer,
    tiny: dict[str, Any],
    synthetic_root: Callable[[str], Path],
) -> None:
    data = HalfLabelled(synthetic_root("ucf101"), num_workers=0, flip="none")
    task = make(**tiny | {"num_classes": data.num_classes})
    with pytest.raises(
        ValueError, match=rf"have no label \([12], first: .*\.avi\), but {make.__name__} needs"
    ):
        getattr(trainer, run)(task, datamodule=data)


def test_contrast_training_and_recognition_test_accept_unlabelled_videos(
    trainer: pl.Trainer, tiny: dict[str, Any], synthetic_root: Callable[[str], Path]
) -> None:
    sizes = {"clip_length": 4, "short_side": (32, 32), "crop_size": 32, "test_clips": 1}
    data = HalfLabelled(synthetic_root("ucf101"), num_workers=0, batch_size=4, flip="none", **sizes)
    trainer.fit(ContrastTask(**tiny), datamodule=data)
    labels = [record.label for record in data.records("test") if record.label >= 0]
    task = RecognitionTask(**tiny | {"num_classes": data.num_classes})
    with torch.no_grad():
        task.model.network.fc.bias[labels[0]] = 1000
    trainer.test(task, datamodule=data)
    # One of the eight test videos has no label and does not count.
    assert len(labels) == 7
    expected = labels.count(labels[0]) / 7
    assert float(trainer.callback_metrics["test/top1"]) == pytest.approx(expected)

"""Freezing and the check for collapse, apart from any stage."""

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests.tasks.conftest import QUIET
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hcml_lightning.callbacks import (
    CollapseError,
    NotFiniteError,
    StopOnCollapse,
    TrainOnly,
)


class TwoLayers(pl.LightningModule):
    """A frozen half, a trained half, and batch norm in both."""

    def __init__(self) -> None:
        super().__init__()
        # A batch norm cancels a bias before it, whose gradient would be nothing but rounding.
        self.low = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
        self.high = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return (self.high(self.low(batch[0])) - batch[0]).square().mean()

    def validation_step(self, batch: Any, _: int) -> None:
        assert not any(m.training for m in self.high.modules())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def fit(task: pl.LightningModule, callback: TrainOnly, tmp_path: Any) -> None:
    trainer = pl.Trainer(
        max_epochs=2,
        **QUIET,
        callbacks=[callback],
        default_root_dir=tmp_path,
    )
    data = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    trainer.fit(task, data, data)


def test_parameters_and_buffers_outside_train_only_stay_bit_equal(tmp_path: Any) -> None:
    task = TwoLayers()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    fit(task, TrainOnly([task.high]), tmp_path)
    for key, value in task.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("low")
    assert not any(m.training for m in task.low.modules())
    assert all(m.training for m in task.high.modules())
    assert not any(p.requires_grad for p in task.low.parameters())


def test_task_that_names_no_trained_modules_is_refused(tmp_path: Any) -> None:
    with pytest.raises(
        TypeError, match=r"TwoLayers does not say what it trains.*TrainOnly\(\[\.\.\.\]\)"
    ):
        fit(TwoLayers(), TrainOnly(), tmp_path)


class Fading(TwoLayers):
    """Logs a spread that falls to almost zero, or becomes NaN."""

    last = 0.01

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/spread_l1", torch.tensor(0.8 if self.current_epoch == 0 else self.last))


def test_a_collapse_stops_training_and_names_level_and_remedy(tmp_path: Any) -> None:
    task = Fading()
    task.configure_callbacks = lambda: [StopOnCollapse()]
    with pytest.raises(CollapseError, match=r"epoch 2: .* level 1 have collapsed: .*Lower lr"):
        fit(task, TrainOnly([task.high]), tmp_path)
    assert task.trainer.current_epoch == 1


def test_nan_spread_is_reported_as_not_finite_and_not_as_a_collapse(tmp_path: Any) -> None:
    task = Fading()
    task.last = float("nan")
    task.configure_callbacks = lambda: [StopOnCollapse()]
    with pytest.raises(NotFiniteError, match=r"epoch 2: .* level 1 are not finite") as stopped:
        fit(task, TrainOnly([task.high]), tmp_path)
    assert "collapse" not in str(stopped.value)


def test_sanity_check_of_untrained_features_reports_no_collapse(tmp_path: Any) -> None:
    class Late(Fading):
        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val/spread_l1", torch.tensor(0.0 if self.trainer.sanity_checking else 0.8))

    task = Late()
    task.configure_callbacks = lambda: [StopOnCollapse()]
    fit(task, TrainOnly([task.high]), tmp_path)
    assert task.trainer.current_epoch == 2


def test_calling_train_does_not_change_frozen_modules(tmp_path: Any) -> None:
    class Waking(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.train()

    task = TwoLayers()
    before = {k: v.clone() for k, v in task.low.state_dict().items()}
    task.configure_callbacks = lambda: [Waking()]
    fit(task, TrainOnly([task.high]), tmp_path)
    for key, value in task.low.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_validation_alone_reports_no_collapse() -> None:
    trainer: Any = SimpleNamespace(
        sanity_checking=False,
        state=SimpleNamespace(fn="validate"),
        callback_metrics={"val/spread_l1": torch.tensor(0.0)},
        current_epoch=0,
    )
    StopOnCollapse().on_validation_end(trainer, TwoLayers())

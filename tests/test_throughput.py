"""Clips per second, the share of waiting, and the norm of the gradient."""

import csv
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hcml_lightning import throughput
from hcml_lightning.throughput import GradientNorm, Throughput


class Clips(DataLoader):
    """Gives dicts, as our loaders do."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield {"video": batch[0]}


class OnClips(pl.LightningModule):
    """Two layers on clips."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(4, 4), nn.Linear(4, 4)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return 3 * self.high(self.low(batch["video"])).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Windows(Throughput):
    """Counts its windows."""

    begun = 0

    def _log(self, *arguments: Any) -> None:
        super()._log(*arguments)
        self.begun += 1


@pytest.mark.parametrize(
    ("every", "accumulate", "logged", "speeds_logged"),
    [(2, 1, 4, 4), (2, 2, 2, 2), (3, 1, 2, 4)],
)
def test_speed_and_gradient_are_logged(
    every: int, accumulate: int, logged: int, speeds_logged: int, tmp_path: Any
) -> None:
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version=""),
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1e-3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[windows := Windows(), GradientNorm()],
    )
    trainer.fit(OnClips(), Clips(TensorDataset(torch.randn(8, 4)), batch_size=2))
    with (tmp_path / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    norms = [float(row["train/grad_norm"]) for row in rows if row.get("train/grad_norm")]
    assert len(norms) == logged
    # The norms are those before clipping.
    assert all(norm > 1e-2 for norm in norms)
    # The last window of an epoch is logged, too, however few steps it has.
    speeds = [float(row["train/clips_per_second"]) for row in rows if row.get("train/data_wait")]
    assert len(speeds) == speeds_logged == windows.begun


def test_data_wait_is_the_share_of_time_before_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 3.0, 4.0, 7.0, 8.0])
    monkeypatch.setattr(throughput, "_now", lambda device: next(clock))
    logged: dict[str, float] = {}
    task: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=logged.update)
    settings = {"accumulate_grad_batches": 1, "is_last_batch": False, "log_every_n_steps": 2}
    trainer: Any = SimpleNamespace(**settings, world_size=1)
    speed = Throughput()
    speed.on_train_epoch_start(trainer, task)
    for index in range(2):
        trainer.global_step = index + 1
        speed.on_train_batch_start(trainer, task, None, index)
        speed.on_train_batch_end(trainer, task, None, {"video": torch.zeros(5)}, index)
    assert logged == {"train/clips_per_second": 10 / 8, "train/data_wait": 6 / 8}


class SlowDisk(TorchCheckpointIO):
    """Takes 100 seconds on a clock for each checkpoint."""

    now = 0.0

    def save_checkpoint(self, *words: Any, **options: Any) -> None:
        super().save_checkpoint(*words, **options)
        self.now += 100


def test_writing_checkpoints_between_steps_is_not_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    disk = SlowDisk()

    def tick(_: torch.device) -> float:
        disk.now += 1
        return disk.now

    monkeypatch.setattr(throughput, "_now", tick)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        log_every_n_steps=4,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        plugins=[disk],
        callbacks=[Throughput(), ModelCheckpoint(every_n_train_steps=2)],
    )
    trainer.fit(OnClips(), Clips(TensorDataset(torch.randn(8, 4)), batch_size=2))
    assert disk.now > 200
    # A step is two ticks, of which one is the wait for its batch, except after a checkpoint.
    assert trainer.callback_metrics["train/data_wait"] == pytest.approx(3 / 7)
    assert trainer.callback_metrics["train/clips_per_second"] == pytest.approx(8 / 7)


def test_gradient_norm_covers_all_gradients_and_removes_the_scale() -> None:
    task = OnClips()
    task.low.weight.grad = torch.full((4, 4), 3.0)
    task.high.bias.grad = torch.full((4,), 4.0)
    logged: dict[str, float] = {}
    task.log = lambda name, value: logged.update({name: float(value)})  # type: ignore[assignment]
    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=1, precision_plugin=SimpleNamespace(scaler=None)
    )
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    GradientNorm().on_before_optimizer_step(trainer, task, optimizer)  # type: ignore[arg-type]
    expected = (16 * 9 + 4 * 16) ** 0.5
    assert logged["train/grad_norm"] == pytest.approx(expected)
    # A fused optimizer divides by the scale itself, and only later.
    trainer.precision_plugin.scaler = SimpleNamespace(get_scale=lambda: 8.0)
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    GradientNorm().on_before_optimizer_step(trainer, task, optimizer)  # type: ignore[arg-type]
    assert logged["train/grad_norm"] == pytest.approx(expected / 8)


def test_speed_counts_all_devices_and_no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows of two steps; each step waits for a while and trains for a second; a validation between them."""
    times = iter([0.0, 3.0, 4.0, 7.0, 8.0, 18.0, 19.0, 20.0, 21.0, 22.0])
    monkeypatch.setattr(throughput, "_now", lambda _: next(times))
    logged: list[dict[str, float]] = []
    task: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=logged.append)
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=1, is_last_batch=False, log_every_n_steps=2, world_size=3
    )
    callback: Any = throughput.Throughput()
    callback.on_train_epoch_start(trainer, task)
    for number in range(4):
        trainer.global_step = number + 1
        callback.on_train_batch_start(trainer, task, None, number)
        batch = {"video": torch.zeros(5)}
        callback.on_train_batch_end(trainer, task, None, batch, number)
        if number == 1:
            callback.on_validation_end(trainer, task)
    assert logged == [
        {"train/clips_per_second": 3 * 10 / 8, "train/data_wait": 6 / 8},
        {"train/clips_per_second": 3 * 10 / 4, "train/data_wait": 2 / 4},
    ]

"""Random numbers of a run depend on its seed alone, wherever it was cut off and whatever ran before it."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hcml_lightning.seeds import SeedEachBatch


def test_ranks_draw_different_numbers_in_training():
    def drawn(rank: int) -> float:
        trainer: Any = SimpleNamespace(current_epoch=0, global_rank=rank, world_size=2)
        SeedEachBatch().on_train_batch_start(trainer, None, None, 0)
        return float(torch.rand(()))

    assert drawn(0) == drawn(0) != drawn(1)


class Draws(pl.LightningModule):
    """Records the random number that it draws in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.drawn: list[float] = []

    def configure_callbacks(self) -> list[pl.Callback]:
        return [SeedEachBatch()]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(epochs: int, path: Path, resume: bool = False) -> list[float]:
    """Numbers drawn up to some epoch, whose end is stored, or from such an end on."""
    trainer = quiet_trainer(epochs)
    task, loader = Draws(), DataLoader(torch.zeros(3, 1))  # type: ignore[arg-type]
    trainer.fit(task, loader, ckpt_path=path if resume else None)
    trainer.save_checkpoint(path, weights_only=False)
    return task.drawn


@pytest.fixture(autouse=True)
def _no_seed_of_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def test_second_run_in_one_process_uses_the_seed_of_the_user(tmp_path: Path):
    torch.manual_seed(5)
    first = fit(1, tmp_path / "x.ckpt")
    assert len(set(first)) == 3
    assert fit(1, tmp_path / "x.ckpt") == first
    torch.manual_seed(6)
    assert fit(1, tmp_path / "x.ckpt") != first
    torch.manual_seed(5)
    assert fit(1, tmp_path / "x.ckpt") == first


class Breaks(Draws):
    """Fails in its second batch."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 1:
            raise RuntimeError("broken")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("task", [Draws, Breaks])
def test_random_state_of_torch_is_restored_after_a_run(task: type[Draws]):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer = quiet_trainer(1)
    with nullcontext() if task is Draws else pytest.raises(RuntimeError, match="broken"):
        trainer.fit(task(), DataLoader(torch.zeros(3, 1)))  # type: ignore[arg-type]
    assert torch.equal(torch.rand(3), expected)


def test_resumed_run_keeps_its_seed(tmp_path: Path):
    torch.manual_seed(5)
    whole = fit(2, tmp_path / "whole.ckpt")
    start = fit(1, tmp_path / "cut.ckpt")
    torch.manual_seed(6)
    assert start + fit(2, tmp_path / "cut.ckpt", resume=True) == whole
    # The seed of the checkpoint does not replace that of the user.
    assert fit(1, tmp_path / "next.ckpt") != start


class Order(Draws):
    """Records the order of the samples, and validates."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.drawn += batch.flatten().tolist()
        return self.weight * 0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        torch.rand(())


def test_a_plain_loader_shuffles_each_epoch_anew():
    samples, task = torch.arange(8.0).view(8, 1), Order()
    quiet_trainer(4).fit(task, DataLoader(samples, shuffle=True), DataLoader(samples))  # type: ignore[arg-type]
    epochs = [tuple(task.drawn[i : i + 8]) for i in range(0, 32, 8)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_epochs_batches_and_ranks_draw_different_numbers() -> None:
    def drawn(epoch: int, rank: int, batch: int | None) -> float:
        trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=2)
        callback: Any = SeedEachBatch()
        if batch is None:
            callback.on_train_epoch_start(trainer, None)
        else:
            callback.on_train_batch_start(trainer, None, None, batch)
        return float(torch.rand(()))

    assert drawn(0, 0, 0) == drawn(0, 0, 0)
    assert len({drawn(*place) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4
    assert len({drawn(*place, None) for place in ((0, 0), (1, 0), (0, 1))}) == 3

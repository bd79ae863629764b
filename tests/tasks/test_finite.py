"""A run whose numbers are not finite stops, says where it began, and spoils no checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hcml_lightning import FlowTask
from hcml_lightning.resume import LastCheckpoint
from hcml_lightning.tasks import finite
from hcml_lightning.tasks.finite import FiniteNumbers, NotFiniteError

BATCHES = 6


class Toy(pl.LightningModule):
    """The smallest thing that has terms of a loss, a gradient and weights."""

    def __init__(self, spoiled: int | None = None, always: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.spoiled, self.always = spoiled, always
        self.terms: dict[str, Tensor | float] = {}
        self.batch = -1
        self.linear.weight.register_hook(self.spoil)

    def spoil(self, gradient: Tensor) -> Tensor:
        """Make the gradient infinite where the loss is good."""
        return gradient * torch.inf if self.always or self.batch == self.spoiled else gradient

    def configure_callbacks(self) -> list[pl.Callback]:
        return [FiniteNumbers()]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.batch = batch_idx
        part = self.linear(batch["video"]).square().mean()
        other = part.detach().clamp(max=1).nan_to_num()
        self.terms = {"train/part": part.detach(), "train/other": other}
        return part

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def batches(bad: int | None = None) -> DataLoader[dict[str, Any]]:
    """Batches of two videos; in one of them a NaN."""
    generator = torch.Generator().manual_seed(0)
    videos = torch.randn(2 * BATCHES, 2, generator=generator)
    if bad is not None:
        videos[2 * bad] = torch.nan
    samples = [{"video": video, "video_id": f"video{i}"} for i, video in enumerate(videos)]
    return DataLoader(samples, batch_size=2)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 4,
        "callbacks": [LastCheckpoint(folder), *callbacks],
    }
    return pl.Trainer(**(settings | options))


def weights(path: Path) -> Tensor:
    return torch.load(path, weights_only=True)["state_dict"]["linear.weight"]


def test_a_good_run_is_left_alone(tmp_path: Path):
    trainer(tmp_path).fit(Toy(), batches())
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}])
def test_a_loss_that_is_nan_stops_before_the_weights_take_it(
    tmp_path: Path, options: dict[str, Any]
):
    task = Toy()
    with pytest.raises(NotFiniteError) as stopped:
        trainer(tmp_path, **options).fit(task, batches(bad=3))
    said = str(stopped.value)
    assert "Toy: train/part is nan at step 3 (epoch 0, batch 3) (train/other 0)" in said
    assert "'video6', 'video7'" in said
    assert task.linear.weight.isfinite().all()
    assert not list(tmp_path.iterdir())


def test_a_gradient_alone_is_named(tmp_path: Path):
    task = Toy(spoiled=2)
    with pytest.raises(NotFiniteError, match=r"gradient is (inf|nan) at step 2 .*'video4'"):
        trainer(tmp_path).fit(task, batches())
    assert task.linear.weight.isfinite().all()


def test_with_accumulated_gradients_the_first_bad_batch_is_named(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"step 1 \(epoch 0, batch 2\).*'video4'"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(Toy(), batches(bad=2))


def test_on_a_gpu_the_first_bad_batch_is_named_some_steps_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finite, "_is_quick_to_ask", lambda task: False)
    task = Toy()
    with pytest.raises(NotFiniteError, match=r"train/part is nan at step 1 .*'video2'"):
        trainer(tmp_path).fit(task, batches(bad=1))
    # It stopped at the fourth batch, and the weights are lost; the file of the epoch before is not.
    assert task.batch == 3
    assert not task.linear.weight.isfinite().all()


class Validated(Toy):
    """Whose validation must not be come to."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert self.trainer.sanity_checking, "validated"


def test_on_a_gpu_nothing_is_measured_of_bad_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finite, "_is_quick_to_ask", lambda task: False)
    late = trainer(tmp_path, log_every_n_steps=100, num_sanity_val_steps=1)
    with pytest.raises(NotFiniteError, match=r"gradient is inf at step 5 .*'video10'"):
        late.fit(Validated(spoiled=5), batches(), batches())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_no_checkpoint_of_bad_weights_replaces_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finite, "_is_quick_to_ask", lambda task: False)
    trainer(tmp_path).fit(Toy(), batches())
    good = (tmp_path / "last.ckpt").read_bytes()
    # Only a checkpoint is written before the next look.
    late = trainer(tmp_path, log_every_n_steps=100, max_epochs=2)
    with pytest.raises(NotFiniteError, match=r"step 7 \(epoch 1, batch 1\)"):
        late.fit(Toy(spoiled=1), batches(), ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == good
    assert weights(tmp_path / "last.ckpt").isfinite().all()


class _Overflow(pl.Callback):
    """What a step that is too large does to weights."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any):
        if trainer.global_step == BATCHES:
            pl_module.linear.weight.data[0, 1] = torch.inf


def test_weights_alone_are_named(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"1 of 2 weights are not finite, linear\.weight"):
        trainer(tmp_path, _Overflow()).fit(Toy(), batches())
    assert not list(tmp_path.iterdir())


def half(folder: Path, **options: Any) -> pl.Trainer:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return trainer(folder, plugins=MixedPrecision("16-mixed", "cpu", scaler), **options)


def test_infinite_gradients_under_a_scaler_are_part_of_the_method(tmp_path: Path):
    run = half(tmp_path)
    run.fit(Toy(spoiled=2), batches())
    assert run.precision_plugin.scaler.get_scale() == 2.0**9
    assert weights(tmp_path / "last.ckpt").isfinite().all()


def test_gradients_that_no_scale_makes_finite_stop(tmp_path: Path):
    with pytest.raises(NotFiniteError, match="has not been finite for many steps"):
        half(tmp_path, max_epochs=10).fit(Toy(always=True), batches())


def test_a_nan_loss_under_a_scaler_stops(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"train/part is nan at step 3 .*'video6'"):
        half(tmp_path).fit(Toy(), batches(bad=3))


class _Poison(pl.Callback):
    """A video with a pixel that is no number."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int):
        if batch_idx == 1:
            batch["video"] = batch["video"].float()
            batch["video"][2, 0, 0, 0, 0] = torch.nan


def test_every_stage_stops_and_names_its_terms(fit: Callable[..., Any], tiny: dict[str, Any]):
    with pytest.raises(NotFiniteError) as stopped:
        fit(FlowTask(**tiny), callbacks=[_Poison()])
    said = str(stopped.value)
    assert said.startswith("FlowTask level 0: train/flow is nan, train/photometric_zero is nan")
    assert "train/loss is nan at step 1 (epoch 0, batch 1)" in said
    assert "'drift4', 'drift5', 'drift6', 'drift7'" in said


class _Spoil(pl.Callback):
    """A step that is too large, the last one before a validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any):
        if trainer.is_last_batch:
            pl_module.model.network.conv1.weight.data[0] = torch.nan


def test_weights_that_are_nan_are_named_before_anybody_speaks_of_a_collapse(
    fit: Callable[..., Any], tiny: dict[str, Any]
):
    with pytest.raises(NotFiniteError, match=r"FlowTask level 0: .* weights are not finite"):
        fit(FlowTask(**tiny), callbacks=[_Spoil()], log_every_n_steps=100)


def test_features_that_overflow_in_validation_alone_are_named(
    fit: Callable[..., Any], tiny: dict[str, Any]
):
    class Overflow(FlowTask):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            # Finite, but not what comes of them.
            self.model.network.layer1[0].bn1.weight.data.fill_(3e38)
            super().validation_step(batch, batch_idx)

    with pytest.raises(NotFiniteError, match=r"level 0 are not finite in validation"):
        fit(Overflow(**tiny), num_sanity_val_steps=0)

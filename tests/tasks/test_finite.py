"""A run whose numbers are not finite stops, says where that began, and spoils no checkpoint."""

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
    """The smallest task with loss terms, a gradient and weights."""

    def __init__(self, spoiled: int | None = None, always: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.spoiled, self.always = spoiled, always
        self.terms: dict[str, Tensor | float] = {}
        self.batch = -1
        self.linear.weight.register_hook(self.spoil)

    def spoil(self, gradient: Tensor) -> Tensor:
        """Make the gradient infinite although the loss is finite."""
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
    """Batches of two videos, with a NaN in the batch `bad`."""
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


def test_run_with_finite_numbers_completes(tmp_path: Path):
    trainer(tmp_path).fit(Toy(), batches())
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}])
def test_nan_loss_stops_the_run_before_it_reaches_the_weights(
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


def test_non_finite_gradient_of_a_finite_loss_is_named(tmp_path: Path):
    task = Toy(spoiled=2)
    with pytest.raises(NotFiniteError, match=r"gradient is (inf|nan) at step 2 .*'video4'"):
        trainer(tmp_path).fit(task, batches())
    assert task.linear.weight.isfinite().all()


def test_first_bad_batch_is_named_when_gradients_accumulate(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"step 1 \(epoch 0, batch 2\).*'video4'"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(Toy(), batches(bad=2))


def test_first_bad_batch_is_named_some_steps_later_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finite, "_is_quick_to_ask", lambda task: False)
    task = Toy()
    with pytest.raises(NotFiniteError, match=r"train/part is nan at step 1 .*'video2'"):
        trainer(tmp_path).fit(task, batches(bad=1))
    # The run stops only at the fourth batch, when the weights are already lost.
    assert task.batch == 3
    assert not task.linear.weight.isfinite().all()


class Validated(Toy):
    """A task whose validation must not be reached."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert self.trainer.sanity_checking, "validated"


def test_bad_weights_are_not_validated_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
    # The only thing before the next check of the numbers is a checkpoint.
    late = trainer(tmp_path, log_every_n_steps=100, max_epochs=2)
    with pytest.raises(NotFiniteError, match=r"step 7 \(epoch 1, batch 1\)"):
        late.fit(Toy(spoiled=1), batches(), ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == good
    assert weights(tmp_path / "last.ckpt").isfinite().all()


class _Overflow(pl.Callback):
    """Makes a weight infinite, as too large a step would."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any):
        if trainer.global_step == BATCHES:
            pl_module.linear.weight.data[0, 1] = torch.inf


def test_non_finite_weights_after_the_last_step_are_named(tmp_path: Path):
    with pytest.raises(
        NotFiniteError, match=r"1 of 2 weights are not finite \(first: linear\.weight"
    ):
        trainer(tmp_path, _Overflow()).fit(Toy(), batches())
    assert not list(tmp_path.iterdir())


def half(folder: Path, **options: Any) -> pl.Trainer:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return trainer(folder, plugins=MixedPrecision("16-mixed", "cpu", scaler), **options)


def test_infinite_gradient_under_a_scaler_lowers_the_scale_and_goes_on(tmp_path: Path):
    run = half(tmp_path)
    run.fit(Toy(spoiled=2), batches())
    assert run.precision_plugin.scaler.get_scale() == 2.0**9
    assert weights(tmp_path / "last.ckpt").isfinite().all()


def test_gradients_that_no_scale_makes_finite_stop_the_run(tmp_path: Path):
    with pytest.raises(NotFiniteError, match="has not been finite for many steps"):
        half(tmp_path, max_epochs=10).fit(Toy(always=True), batches())


def test_nan_loss_under_a_scaler_stops_the_run(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"train/part is nan at step 3 .*'video6'"):
        half(tmp_path).fit(Toy(), batches(bad=3))


class _Poison(pl.Callback):
    """Sets a pixel of a video to NaN."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int):
        if batch_idx == 1:
            batch["video"] = batch["video"].float()
            batch["video"][2, 0, 0, 0, 0] = torch.nan


def test_flow_stage_stops_and_names_its_non_finite_terms(
    fit: Callable[..., Any], tiny: dict[str, Any]
):
    with pytest.raises(NotFiniteError) as stopped:
        fit(FlowTask(**tiny), callbacks=[_Poison()])
    said = str(stopped.value)
    assert said.startswith("FlowTask level 0: train/flow is nan, train/photometric_zero is nan")
    assert "train/loss is nan at step 1 (epoch 0, batch 1)" in said
    assert "'drift4', 'drift5', 'drift6', 'drift7'" in said


class _Spoil(pl.Callback):
    """Sets weights to NaN in the last step before a validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any):
        if trainer.is_last_batch:
            pl_module.model.network.conv1.weight.data[0] = torch.nan


def test_nan_weights_are_reported_rather_than_a_collapse(
    fit: Callable[..., Any], tiny: dict[str, Any]
):
    with pytest.raises(NotFiniteError, match=r"FlowTask level 0: .* weights are not finite"):
        fit(FlowTask(**tiny), callbacks=[_Spoil()], log_every_n_steps=100)


def test_features_that_overflow_only_in_validation_are_named(
    fit: Callable[..., Any], tiny: dict[str, Any]
):
    class Overflow(FlowTask):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            # The weights are finite, but the features overflow.
            self.model.network.layer1[0].bn1.weight.data.fill_(3e38)
            super().validation_step(batch, batch_idx)

    with pytest.raises(NotFiniteError, match=r"level 0 are not finite in validation"):
        fit(Overflow(**tiny), num_sanity_val_steps=0)

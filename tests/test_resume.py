"""When the newest state is saved, apart from any stage."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning.resume import LastCheckpoint


def quiet(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        **settings,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Still(pl.LightningModule):
    """Trains one number, and records after which batches it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.validated: list[int] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.weight * 0

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated.append(self.trainer.fit_loop.total_batch_idx + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Noting(LastCheckpoint):
    """Records after how many batches it saves, instead of saving."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.batches: list[int] = []
        trainer.save_checkpoint = lambda *_, **__: self.batches.append(  # type: ignore[method-assign]
            trainer.fit_loop.total_batch_idx + 1
        )
        super().setup(trainer, pl_module, stage)


@pytest.mark.parametrize(
    ("every", "settings", "validated", "saved"),
    [
        # Two epochs of ten batches; the end of each is saved too.
        (5, {"val_check_interval": 5}, [5, 10, 15, 20], [6, 10, 16, 20]),
        (5, {"val_check_interval": 1}, [*range(1, 21)], [10, 20]),
        (
            5,
            {"val_check_interval": 3, "check_val_every_n_epoch": None},
            [3, 6, 9, 12, 15, 18],
            [5, 10, 16, 20],
        ),
        # Every second step, of two batches each.
        (
            2,
            {"val_check_interval": 4, "accumulate_grad_batches": 2},
            [4, 8, 14, 18],
            [6, 10, 12, 16, 20],
        ),
    ],
)
def test_save_due_right_before_a_validation_comes_after_it(
    every: int,
    settings: dict[str, Any],
    validated: list[int],
    saved: list[int],
    tmp_path: Path,
):
    task, last = Still(), Noting(tmp_path, every_n_steps=every)
    trainer = quiet(**settings, max_epochs=2, num_sanity_val_steps=0, callbacks=[last])
    trainer.fit(task, DataLoader(range(10)), DataLoader(range(1)))
    assert task.validated == validated
    assert last.batches == saved


class Interrupted(Still):
    """Gets a signal while it trains on one batch, counted from 1."""

    def __init__(self, batch: int, signum: int = signal.SIGUSR1) -> None:
        super().__init__()
        self.batch, self.signum = batch, signum

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), self.signum)
        return super().training_step(batch, index)


@pytest.mark.parametrize(
    ("settings", "batch", "ends_early"),
    [
        ({"max_epochs": 2}, 20, False),
        ({"max_steps": 20}, 20, False),
        ({"max_steps": 15}, 15, False),
        ({"max_steps": 15, "max_epochs": 2}, 15, False),
        ({"max_steps": 15}, 14, True),
        ({"max_steps": 15}, 10, True),
    ],
)
def test_signal_in_the_last_step_does_not_end_the_run_early(
    settings: dict[str, Any], batch: int, ends_early: bool, tmp_path: Path
):
    last = Noting(tmp_path)
    trainer = quiet(**settings, limit_val_batches=0, callbacks=[last])
    with pytest.raises(SystemExit) if ends_early else nullcontext() as told:
        trainer.fit(Interrupted(batch), DataLoader(range(10)), DataLoader(range(1)))
    assert last.batches[-1] == batch
    if told is not None:
        assert told.value.code == 128 + signal.SIGUSR1


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 128 + signal.SIGUSR1)]
)
def test_run_stopped_by_a_sweep_agent_exits_with_status_0(
    signum: int, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The agent sends SIGTERM, and gives up a sweep of which too many runs exit with another status."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    trainer = quiet(max_epochs=1, limit_val_batches=0, callbacks=[LastCheckpoint(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        trainer.fit(Interrupted(3, signum), DataLoader(range(10)), DataLoader(range(1)))
    assert stopped.value.code == status
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("world_size", "device", "asked"),
    [(1, "meta", 10), (2, "cpu", 10), (2, "meta", 2)],
    ids=["one GPU", "CPUs", "GPUs"],
)
def test_several_gpus_look_for_signals_in_logged_steps_only(
    world_size: int, device: str, asked: int
):
    task, last = SimpleNamespace(device=torch.device(device)), LastCheckpoint()
    steps = [
        SimpleNamespace(world_size=world_size, global_step=step, log_every_n_steps=5)
        for step in range(1, 11)
    ]
    assert sum(last._asks(step, task) for step in steps) == asked


def test_a_validation_after_every_logged_step_hides_no_signal(monkeypatch: pytest.MonkeyPatch):
    """Several GPUs then look for signals after the next step that no validation follows."""
    task, last = SimpleNamespace(device=torch.device("meta")), LastCheckpoint()
    monkeypatch.setattr(last, "_told", lambda *_: True)
    monkeypatch.setattr(last, "_save", lambda trainer: None)
    for step in range(1, 20):
        trainer = SimpleNamespace(
            **{"world_size": 2, "global_step": step, "log_every_n_steps": 5, "val_check_batch": 5},
            **{"accumulate_grad_batches": 1, "is_last_batch": False, "max_steps": -1},
            **{"check_val_every_n_epoch": 1, "is_global_zero": True, "should_stop": False},
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(done=False)),
        )
        if step == 6:
            with pytest.raises(SystemExit):
                last.on_train_batch_end(trainer, task, None, None, step - 1)
            return
        last.on_train_batch_end(trainer, task, None, None, step - 1)


class EndsIn(pl.Callback):
    """Ends training after some epochs, as a callback for early stopping does."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize(("epochs", "saved"), [(7, [30, 60, 70]), (6, [30, 60]), (5, [30, 50])])
def test_every_n_epochs_always_saves_the_last_epoch(epochs: int, saved: list[int], tmp_path: Path):
    last = Noting(tmp_path, every_n_epochs=3)
    trainer = quiet(max_epochs=7, limit_val_batches=0, callbacks=[last, EndsIn(epochs)])
    trainer.fit(Still(), DataLoader(range(10)), DataLoader(range(1)))
    # Once the epochs are over, Noting counts one batch too many.
    assert [batch - (batch % 10 == 1) for batch in last.batches] == saved


@pytest.mark.parametrize("first", [True, False])
def test_last_checkpoint_leaves_the_best_to_model_checkpoint(first: bool, tmp_path: Path):
    best = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / "best")
    last = LastCheckpoint()
    callbacks = [last, best] if first else [best, last]
    trainer = quiet(
        max_steps=1, limit_val_batches=0, default_root_dir=tmp_path, callbacks=callbacks
    )
    trainer.fit(Interrupted(-1), DataLoader(range(2)), DataLoader(range(1)))
    assert (tmp_path / "best/last.ckpt").is_file()
    # Lightning's best path is that of ModelCheckpoint, whichever callback comes first.
    assert (last.best_model_path, callbacks[0].best_model_path) == (best.best_model_path,) * 2


def test_last_checkpoint_alone_offers_no_best(tmp_path: Path):
    trainer = quiet(max_steps=1, limit_val_batches=0, callbacks=[LastCheckpoint(tmp_path)])
    trainer.fit(Still(), DataLoader(range(2)), DataLoader(range(1)))
    with pytest.raises(ValueError, match="not configured to save the best model"):
        trainer.validate(Still(), DataLoader(range(1)), ckpt_path="best")


class StopsAt(pl.Callback):
    """Records the batches of training, and ends it after some of them, as a Timer does."""

    def __init__(self, batches: int = -1) -> None:
        self.batches = batches
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append((trainer.current_epoch, trainer.fit_loop.batch_idx))
        if len(self.seen) == self.batches:
            trainer.should_stop = True


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize("by_steps", [False, True])
def test_run_that_ends_inside_an_epoch_resumes_inside_it(by_steps: bool, tmp_path: Path):
    """It ends by its time, or by a number of steps that is raised afterwards."""
    first, second = StopsAt(-1 if by_steps else 4), StopsAt()
    limit = {"max_steps": 4} if by_steps else {}
    quiet(
        max_epochs=2, limit_val_batches=0, callbacks=[first, LastCheckpoint(tmp_path)], **limit
    ).fit(Still(), DataLoader(range(10)), DataLoader(range(1)))
    quiet(max_epochs=2, limit_val_batches=0, callbacks=[second], enable_checkpointing=False).fit(
        Still(), DataLoader(range(10)), DataLoader(range(1)), ckpt_path=tmp_path / "last.ckpt"
    )
    assert first.seen == [(0, i) for i in range(4)]
    assert second.seen == [(0, i) for i in range(4, 10)] + [(1, i) for i in range(10)]


class Scored(Still):
    """Logs the step at which it was validated."""

    def validation_step(self, batch: Any, index: int) -> None:
        super().validation_step(batch, index)
        self.log("val/step", float(self.global_step))


def test_the_last_step_is_saved_with_the_validation_after_it(tmp_path: Path):
    trainer = quiet(
        max_steps=4,
        val_check_interval=2,
        num_sanity_val_steps=0,
        callbacks=[LastCheckpoint(tmp_path)],
    )
    trainer.fit(Scored(), DataLoader(range(10)), DataLoader(range(1)))
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["metrics"]["val/step"] == 4


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize(
    ("asked", "ends", "settings"),
    [
        (4, 6, {"accumulate_grad_batches": 3}),
        (10, 10, {"accumulate_grad_batches": 3}),
        (4, 4, {"val_check_interval": 4}),
    ],
    ids=["between accumulated batches", "at the epoch's end", "before a validation"],
)
def test_a_stop_by_time_loses_no_batch(
    asked: int, ends: int, settings: dict[str, Any], tmp_path: Path
):
    first, second = StopsAt(asked), StopsAt()
    for callbacks, path in (
        ([first, LastCheckpoint(tmp_path)], None),
        ([second, LastCheckpoint(tmp_path)], tmp_path / "last.ckpt"),
    ):
        quiet(max_epochs=2, callbacks=callbacks, **settings).fit(
            Still(), DataLoader(range(10)), DataLoader(range(1)), ckpt_path=path
        )
    everything = [(epoch, i) for epoch in range(2) for i in range(10)]
    assert (first.seen, second.seen) == (everything[:ends], everything[ends:])


class StopsWhereValidated(StopsAt):
    """Ends training after a validation, as EarlyStopping does, if `batches` is negative."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or len(self.seen) == -self.batches


@pytest.mark.filterwarnings(
    "ignore:.*your dataloader is not resumable", "ignore:Checkpoint directory .* is not empty"
)
@pytest.mark.parametrize(
    "first", [StopsWhereValidated(-4), StopsAt(3), StopsAt(4)], ids=["metric", "time", "both"]
)
def test_stop_inside_an_epoch_keeps_its_validation_and_the_rest(first: StopsAt, tmp_path: Path):
    """By a metric that no longer improves, or by time, after which Lightning validates, too."""
    second, tasks = StopsAt(), (Scored(), Scored())
    for steps, task, path in zip(
        (first, second), tasks, (None, tmp_path / "last.ckpt"), strict=True
    ):
        best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/step", mode="max")
        quiet(
            max_epochs=2,
            val_check_interval=4,
            num_sanity_val_steps=0,
            callbacks=[steps, best, LastCheckpoint(tmp_path)],
        ).fit(task, DataLoader(range(10)), DataLoader(range(1)), ckpt_path=path)
        if steps is first:
            stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
            assert stored["metrics"]["val/step"] == best.best_model_score == len(first.seen)
            (known,) = (
                v for k, v in stored["callbacks"].items() if k.startswith("ModelCheckpoint")
            )
            assert known["best_model_score"] == best.best_model_score
    assert first.seen + second.seen == [(epoch, i) for epoch in range(2) for i in range(10)]
    ends = len(first.seen)
    assert tasks[1].validated == [batch for batch in (4, 8, 14, 18) if batch > ends]


def test_loggers_are_saved_before_the_checkpoint(tmp_path: Path) -> None:
    calls: list[str] = []
    trainer: Any = SimpleNamespace(
        fast_dev_run=False,
        loggers=[SimpleNamespace(save=lambda: calls.append("logger"))],
        save_checkpoint=lambda *_, **__: calls.append("checkpoint"),
    )
    last = LastCheckpoint(tmp_path)
    last.path = tmp_path / "last.ckpt"
    last._save(trainer)
    assert calls == ["logger", "checkpoint"]

"""The optimiser and the schedule of B.2."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from tests.tasks.conftest import QUIET
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from hcml_lightning.optim import (
    ScheduleSteps,
    WarmupCosine,
    make_optimizer,
    parameter_groups,
    schedule_steps,
    warmup_cosine,
)
from hcml_lightning.tasks import FlowTask


def test_schedule_is_linear_then_half_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = WarmupCosine(optimizer, ScheduleSteps(warmup=4, total=12))
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_schedule_continues_after_a_resume() -> None:
    rates: list[float] = []
    state: tuple[dict[str, Any], dict[str, Any]] | None = None
    for start, stop in ((0, 5), (5, 10)):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = WarmupCosine(optimizer, ScheduleSteps(3, 10))
        if state is not None:
            optimizer.load_state_dict(state[0])
            schedule.load_state_dict(state[1])
        for _ in range(start, stop):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        state = optimizer.state_dict(), schedule.state_dict()
    assert rates == pytest.approx([warmup_cosine(k, 3, 10) for k in range(10)])


def test_norms_and_biases_may_be_left_out_of_weight_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module[0].weight.requires_grad_(True)
    both = parameter_groups([module], 0.1, decay_norm_and_bias=True)
    assert [len(g["params"]) for g in both] == [4]
    split = parameter_groups([module], 0.1, decay_norm_and_bias=False)
    assert [(len(g["params"]), g["weight_decay"]) for g in split] == [(1, 0.1), (3, 0.0)]


def test_sgd_has_the_settings_of_the_paper() -> None:
    groups = parameter_groups([nn.Linear(2, 2)], 1e-4, decay_norm_and_bias=True)
    defaults = make_optimizer("sgd", groups, 0.1, 0.9).param_groups[0]
    assert (defaults["momentum"], defaults["nesterov"], defaults["weight_decay"]) == (
        0.9,
        True,
        1e-4,
    )
    # Nesterov's correction needs a momentum.
    still = parameter_groups([nn.Linear(2, 2)], 1e-4, decay_norm_and_bias=True)
    assert make_optimizer("sgd", still, 0.1, 0.0).param_groups[0]["nesterov"] is False
    with pytest.raises(ValueError, match="sgd or adam, got 'lamb'"):
        make_optimizer("lamb", groups, 0.1, 0.9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "warmup", "total", "per_epoch"),
    [
        ({"max_epochs": 4}, 3, 8, 2),
        # A run that ends by steps has its schedule in steps.
        ({"max_epochs": -1, "max_steps": 8}, 3, 8, math.inf),
        ({"max_epochs": 100, "max_steps": 8}, 3, 8, math.inf),
        ({"max_epochs": 8, "accumulate_grad_batches": 2}, 2, 8, 1),
        ({"max_epochs": -1, "max_time": "00:01:00:00"}, 3, math.inf, math.inf),
    ],
)
def test_task_steps_the_schedule_every_iteration(
    options: dict[str, Any], warmup: int, total: float, per_epoch: float, tmp_path: Any
) -> None:
    from tests.tasks.conftest import QUIET, TINY, Drift

    rates: list[float] = []

    lengths: list[ScheduleSteps] = []

    class Record(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            lengths.append(schedule_steps(trainer, 1.5))

        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            trainer.should_stop = len(rates) == 8

    trainer = pl.Trainer(
        **options,
        **QUIET,
        callbacks=[Record()],
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    task = FlowTask(**TINY | {"warmup_epochs": 1.5}, lr=0.01)
    data = DataLoader(Drift(), batch_size=4)
    trainer.fit(task, data, data)
    assert rates == pytest.approx([0.01 * warmup_cosine(k, warmup, total) for k in range(8)])
    assert lengths == [ScheduleSteps(warmup, total, per_epoch)]


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_second_fit_of_a_trainer_schedules_the_remaining_epochs(tmp_path: Any) -> None:
    from tests.tasks.conftest import QUIET, TINY, Drift

    rates: list[float] = []

    class Record(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = pl.Trainer(
        max_epochs=2, **QUIET, callbacks=[Record()], limit_val_batches=0, default_root_dir=tmp_path
    )
    task = FlowTask(**TINY | {"warmup_epochs": 0}, lr=0.01)
    data = DataLoader(Drift(), batch_size=4)
    trainer.fit(task, data, data)
    trainer.save_checkpoint(tmp_path / "two_epochs.ckpt")
    trainer.fit_loop.max_epochs = 5
    trainer.fit(task, data, data)
    trainer.fit(task, data, data, ckpt_path=tmp_path / "two_epochs.ckpt")
    expected = [warmup_cosine(k, 0, total) for total in (4, 6) for k in range(total)]
    # The checkpoint stands after 4 of the 10 steps.
    expected += [warmup_cosine(k, 0, 10) for k in range(4, 10)]
    assert rates == pytest.approx([0.01 * share for share in expected])


def test_epochs_of_different_numbers_of_steps_are_refused(tmp_path: Any) -> None:
    from tests.tasks.conftest import QUIET, TINY, Drift

    changing = GradientAccumulationScheduler({0: 1, 2: 2})
    trainer = pl.Trainer(max_epochs=4, **QUIET, callbacks=[changing], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"GradientAccumulationScheduler.*accumulate_grad_batches"):
        trainer.fit(FlowTask(**TINY), DataLoader(Drift()), DataLoader(Drift()))


class Endless(IterableDataset[dict[str, Any]]):
    """Videos of unknown number."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(())


def test_a_warm_up_over_epochs_of_unknown_length_is_refused(tmp_path: Any) -> None:
    from tests.tasks.conftest import TINY

    trainer = pl.Trainer(max_steps=8, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    data = DataLoader(Endless())
    with pytest.raises(ValueError, match=r"warmup_epochs=2 needs epochs of a known length"):
        trainer.fit(FlowTask(**TINY | {"warmup_epochs": 2}), data, data)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fused_step_equals_the_plain_step(name: str) -> None:
    weights = []
    for fused in (False, True):
        weight = nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = make_optimizer(name, [{"params": [weight]}], 0.1, 0.9, fused)
        for _ in range(3):
            optimizer.zero_grad()
            weight.pow(3).sum().backward()
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_loading_a_state_does_not_change_whether_it_is_fused(name: str) -> None:
    made = [
        make_optimizer(name, [{"params": [nn.Parameter(torch.ones(2))]}], 0.1, 0.9, fused)
        for fused in (True, False)
    ]
    states = [optimizer.state_dict() for optimizer in made]
    for optimizer, state in zip(made, reversed(states), strict=True):
        optimizer.load_state_dict(state)
    assert [optimizer.param_groups[0]["fused"] for optimizer in made] == [True, None]


def test_moments_come_from_a_checkpoint_and_settings_from_the_run() -> None:
    stored, made = (
        make_optimizer("sgd", [{"params": [nn.Parameter(torch.ones(2))], "weight_decay": d}], lr, m)
        for d, lr, m in ((0.1, 0.2, 0.9), (0.3, 0.4, 0.5))
    )
    stored.param_groups[0]["params"][0].grad = torch.ones(2)
    stored.step()
    made.load_state_dict(stored.state_dict())
    group = made.param_groups[0]
    assert (group["weight_decay"], group["lr"], group["momentum"]) == (0.3, 0.4, 0.5)
    (before,), (after,) = stored.state.values(), made.state.values()
    torch.testing.assert_close(after["momentum_buffer"], before["momentum_buffer"])


def test_loaded_step_count_moves_to_the_device_of_a_fused_optimizer() -> None:
    made = make_optimizer(
        "adam", [{"params": [nn.Parameter(torch.ones(2, device="meta"))]}], 0.1, 0.9, fused=True
    )
    stored = make_optimizer("adam", [{"params": [nn.Parameter(torch.ones(2))]}], 0.1, 0.9)
    stored.param_groups[0]["params"][0].grad = torch.ones(2)
    stored.step()
    made.load_state_dict(stored.state_dict())
    assert made.state_dict()["state"][0]["step"].device.type == "meta"


@pytest.mark.parametrize(
    ("name", "decay_norm_and_bias", "option"),
    [("adam", True, "--model.optimizer"), ("sgd", False, "--model.decay_norm_and_bias")],
)
def test_unusable_optimizer_state_is_refused_naming_the_option(
    name: Any, decay_norm_and_bias: bool, option: str
) -> None:
    layer = nn.Linear(2, 2)
    stored = make_optimizer("sgd", parameter_groups([layer], 0.1, True), 0.1, 0.9)
    made = make_optimizer(name, parameter_groups([layer], 0.1, decay_norm_and_bias), 0.1, 0.9)
    with pytest.raises(ValueError, match=option):
        made.load_state_dict(stored.state_dict())


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_schedule_continues_with_another_number_of_steps_per_epoch(
    batch_size: int, tmp_path: Any
) -> None:
    """As when a run resumes on other devices: two epochs, and the remaining two with another peak."""
    from tests.tasks.conftest import QUIET, TINY, Drift

    rates: list[float] = []

    lengths: list[ScheduleSteps] = []

    class Record(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            lengths.append(schedule_steps(trainer, 1.5))

        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    def fit(batch_size: int, lr: float, path: Any = None) -> list[float]:
        rates.clear()
        trainer = pl.Trainer(
            max_epochs=4,
            **QUIET,
            callbacks=[Record()],
            limit_val_batches=0,
            default_root_dir=tmp_path,
        )
        data = DataLoader(Drift(), batch_size=batch_size)
        trainer.fit(FlowTask(**TINY, lr=lr), data, data, ckpt_path=path)
        return list(rates)

    fit(2, 0.02)
    per_epoch = 8 // batch_size
    expected = [0.01 * warmup_cosine(k, 0, 4 * per_epoch) for k in range(4 * per_epoch)]
    assert fit(batch_size, 0.01, tmp_path / "half.ckpt") == pytest.approx(expected[2 * per_epoch :])


def test_adam_has_its_usual_second_moment() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(2))]}]
    optimizer = make_optimizer("adam", groups, 0.1, 0.9)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_frozen_parameters_are_in_no_group() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    layers[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups([layers], 0.1, True)] == [2]


@pytest.mark.parametrize(
    ("warmup_epochs", "accumulated", "epochs", "expected"),
    [(1, 2, 3, ScheduleSteps(2, 6, 2)), (5, 1, 2, ScheduleSteps(6, 6, 3))],
)
def test_incomplete_accumulation_counts_as_a_step_and_warm_up_is_capped(
    warmup_epochs: float, accumulated: int, epochs: int, expected: ScheduleSteps
) -> None:
    """Of three batches, the last step adds up fewer; and no warm-up is longer than the run."""
    found: list[ScheduleSteps] = []

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.weight * 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            found.append(schedule_steps(self.trainer, warmup_epochs))
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = pl.Trainer(max_epochs=epochs, accumulate_grad_batches=accumulated, **QUIET)
    trainer.fit(Task(), DataLoader(torch.zeros(3, 1)))
    assert found == [expected]

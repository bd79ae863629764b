"""Every stage learns, trains exactly the parts that it names, and passes its weights on."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.tuner import Tuner
from tests.tasks.conftest import QUIET, Drift
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from hcml_lightning.callbacks import CollapseError, StopOnCollapse, TrainOnly
from hcml_lightning.optim import warmup_cosine
from hcml_lightning.sync_batch_norm import SyncEverywhere
from hcml_lightning.tasks import ContrastTask, FlowTask, MotionTask, ProbeTask, RecognitionTask
from hcml_lightning.tasks.flow import at_grid
from hcml_lightning.tasks.warm_start import load_warm_start

Fit = Callable[..., pl.Trainer]
STAGES: dict[str, Callable[..., MotionTask]] = {
    "flow": FlowTask,
    "flow at level 1": lambda **k: FlowTask(level=1, **k),
    "contrast 1": lambda **k: ContrastTask(level=1, **k),
    "contrast 2": lambda **k: ContrastTask(level=2, **k),
    "contrast over a gap": lambda **k: ContrastTask(level=2, **{**k, "levels": (0, 2)}),
    "recognition": RecognitionTask,
    "motion blocks only": lambda **k: RecognitionTask(flow_weight=0, contrast_weights=(0, 0), **k),
    "baseline": lambda **k: RecognitionTask(**{**k, "levels": ()}),
    "probe": lambda **k: ProbeTask(level=1, **k),
}


def snapshot(task: MotionTask) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in task.state_dict().items()}


def trained_names(task: MotionTask) -> set[str]:
    keys: set[str] = set()
    prefixes = {id(m): n for n, m in task.named_modules()}
    for module in task.trained_modules():
        name = prefixes[id(module)]
        keys |= {f"{name}.{k}" for k in module.state_dict()}
    return keys


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_changes_all_that_it_trains_and_nothing_else(
    stage: str, fit: Fit, tiny: dict[str, Any]
) -> None:
    task = STAGES[stage](**tiny, lr=0.01, weight_decay=0.0)
    with torch.no_grad():
        for parameter in task.parameters():
            if not parameter.any():  # a zero weight passes no gradient to the layers before it
                torch.nn.init.uniform_(parameter, 0.001, 0.002)
    before, trained = snapshot(task), trained_names(task)
    fit(task, max_epochs=2)
    after = task.state_dict()
    for key, value in after.items():
        if key.endswith("project.bn.bias"):
            continue  # the 1×1 convolution and the batch norm that follow cancel any constant
        same = torch.equal(value, before[key])
        assert same != (key in trained), f"{key} {'did not change' if same else 'changed'}"


def test_pruning_works_on_weights_in_contiguous_memory(fit: Fit, tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny).to(memory_format=torch.contiguous_format)
    fit(task, callbacks=[ModelPruning("l1_unstructured", amount=0.5)])
    layers = [m for m in task.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert 0.4 < (weights == 0).double().mean() < 0.6


def test_flow_at_a_higher_level_trains_the_blocks_below_and_their_fusion(
    tiny: dict[str, Any],
) -> None:
    trained = {name.rpartition(".")[0] for name in trained_names(FlowTask(level=1, **tiny))}
    for part in ("motion.0.extract", "motion.0.project", "motion.1.extract", "layer2"):
        assert any(name.startswith(f"model.network.{part}") for name in trained), part
    for part in ("motion.1.project", "motion.2", "layer3", "fc"):
        assert not any(name.startswith(f"model.network.{part}") for name in trained), part


def test_true_flow_of_oblong_frames_is_converted_to_cells() -> None:
    flow = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 32, 64)
    assert torch.equal(at_grid(flow, torch.zeros(1, 2, 2, 8, 8)), torch.ones(2, 2, 8, 8))


@pytest.mark.parametrize(("error", "warns"), [(0.75, False), (0.8, True)])
def test_flow_is_compared_with_zero_flow_over_valid_cells_only(
    error: float, warns: bool, tiny: dict[str, Any]
) -> None:
    """With 80% valid cells, zero flow has an error of 0.8; the flow has to be below 0.98 of that."""
    values = {"photometric": error, "photometric_zero": 1.0, "valid": 0.8}
    trainer: Any = pl.Trainer(**QUIET)
    trainer._logger_connector._callback_metrics.update(
        {f"val/{name}": torch.tensor(value) for name, value in values.items()}
    )
    task = FlowTask(**tiny)
    task.trainer = trainer
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task.on_train_end()
    assert any("no better" in str(warning.message) for warning in said) == warns


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lowers_its_loss(stage: str, fit: Fit, tiny: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = STAGES[stage](**tiny, optimizer="adam", lr=2e-3, dropout=0.0)
    losses: list[float] = []

    class Record(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    fit(task, max_epochs=8, callbacks=[Record()], limit_val_batches=0)
    assert losses[-1] < 0.95 * losses[0]


def test_flow_of_a_known_translation_is_found(fit: Fit, tiny: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = FlowTask(**tiny, optimizer="adam", lr=1e-2)
    metrics = fit(task, max_epochs=80, check_val_every_n_epoch=80).callback_metrics
    assert float(metrics["val/epe_zero"]) == pytest.approx(1, rel=1e-3)
    assert float(metrics["val/epe"]) < 0.5
    assert float(metrics["val/photometric"]) < 0.7 * float(metrics["val/photometric_zero"])


def test_features_of_frozen_levels_do_not_depend_on_the_batch(
    fit: Fit, tiny: dict[str, Any]
) -> None:
    task = ContrastTask(level=1, **tiny)
    fit(task)
    modes = {n: m.training for n, m in task.named_modules() if not list(m.children())}
    assert modes["model.network.bn1"] is False
    assert modes["model.network.layer1.0.bn1"] is False
    assert modes["model.network.motion.0.extract.mix_bn"] is False
    assert modes["model.network.motion.0.project.bn"] is True
    assert modes["model.network.layer2.0.bn1"] is True
    clips = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
    network = task.model.network
    together, alone = (
        network.motion_features(clips, 0)[0][:1],
        network.motion_features(clips[:1], 0)[0],
    )
    torch.testing.assert_close(together, alone)


def test_freezing_holds_through_validation_and_resume(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    first = ContrastTask(level=1, **tiny)
    trainer = fit(first, max_epochs=1, val_check_interval=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = ContrastTask(level=1, **tiny)
    before = snapshot(first)
    trainer = fit(
        resumed, ckpt_path=str(tmp_path / "last.ckpt"), max_epochs=2, val_check_interval=1
    )
    assert trainer.current_epoch == 2
    trained = trained_names(resumed)
    for key, value in resumed.state_dict().items():
        if key not in trained:
            assert torch.equal(value, before[key]), key
    assert not resumed.model.network.layer1.training
    assert resumed.model.network.layer2.training


def test_each_stage_starts_from_the_weights_of_the_one_before(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    before: MotionTask | None = None
    path: str | None = None
    for make in (STAGES["flow"], STAGES["contrast 1"], STAGES["contrast 2"], RecognitionTask):
        task = make(**tiny, init_from=path, lr=0.0)
        trainer = fit(task)
        if before is not None:
            stored = before.model.state_dict()
            for key, value in task.model.named_parameters():
                assert torch.equal(value, stored[key]), key
        path, before = str(tmp_path / f"{len(str(path))}.ckpt"), task
        trainer.save_checkpoint(path)


@pytest.mark.parametrize(
    "make", [STAGES["contrast 2"], RecognitionTask, partial(ProbeTask, level=1)]
)
def test_skipped_stage_is_reported(
    make: Callable[..., MotionTask], fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = str(tmp_path / "flow.ckpt")
    fit(FlowTask(**tiny)).save_checkpoint(path)
    with pytest.warns(UserWarning, match=r"flow\.ckpt is from FlowTask at level 0.*Run the stages"):
        fit(make(**tiny, init_from=path))


@pytest.mark.parametrize("name", ["contrast 1", "probe"])
def test_frozen_features_that_have_learned_nothing_are_reported(
    name: str, fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    task = STAGES[name](**tiny)
    with pytest.warns(UserWarning, match=r"are untrained and stay so; pass the checkpoint"):
        trainer = fit(task)
    # After this training they are not reported again.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are untrained")
        path = tmp_path / "end.ckpt"
        trainer.save_checkpoint(path)
        fit(STAGES[name](**tiny, init_from=path))


def test_clips_too_short_to_show_motion_at_a_level_are_reported(
    tiny: dict[str, Any], tmp_path: Path
):
    class Short(Drift):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            return item | {"video": item["video"][:, :4]}

    def step(task: MotionTask) -> None:
        loader = DataLoader(Short(), batch_size=4)
        trainer = pl.Trainer(**QUIET, default_root_dir=tmp_path, max_steps=1, log_every_n_steps=1)
        trainer.fit(task, loader, loader)

    with pytest.warns(UserWarning, match=r"level 2 sees a single frame .* of 4, .* to 8 or more"):
        step(ContrastTask(level=2, **tiny))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="level . sees")
        step(ContrastTask(level=1, **tiny))


def test_batch_norm_that_is_not_synchronised_is_reported(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    task = FlowTask(**tiny)
    task.trainer = pl.Trainer(**QUIET)
    with pytest.warns(UserWarning, match=r"FlowTask trains \d+ batch norms whose .*sync_batchnorm"):
        task.on_fit_start()
    SyncEverywhere().apply(task)
    task.on_fit_start()
    # In joint training, each device is meant to normalise its own clips.
    task = RecognitionTask(**tiny)
    task.trainer = pl.Trainer(**QUIET)
    task.on_fit_start()


def test_evaluation_uses_the_weights_of_init_from(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    first = RecognitionTask(**tiny)
    fit(first).save_checkpoint(tmp_path / "end.ckpt")
    second = RecognitionTask(**tiny, init_from=tmp_path / "end.ckpt")
    data = DataLoader(Drift(), batch_size=4)
    pl.Trainer(**QUIET, default_root_dir=tmp_path).test(second, data, verbose=False)
    assert torch.equal(second.model.network.fc.weight, first.model.network.fc.weight)


def test_loading_a_checkpoint_does_not_need_the_file_of_init_from(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fit(FlowTask(**tiny)).save_checkpoint(tmp_path / "flow.ckpt")
    started = {**tiny, "level": 1, "init_from": tmp_path / "flow.ckpt"}
    task = ContrastTask(**started)
    fit(task).save_checkpoint(tmp_path / "contrast.ckpt")
    (tmp_path / "flow.ckpt").unlink()
    loader = DataLoader(Drift(), batch_size=4)

    def run(command: str, path: Path | None) -> ContrastTask:
        again = ContrastTask(**started)
        trainer = pl.Trainer(**QUIET, max_epochs=2, default_root_dir=tmp_path)
        loaders = (loader, loader) if command == "fit" else (loader,)
        getattr(trainer, command)(again, *loaders, ckpt_path=path)
        return again

    for command in ("validate", "test", "fit"):
        again = run(command, tmp_path / "contrast.ckpt")
        assert again.started_from == task.started_from
        with pytest.raises(FileNotFoundError, match="run the previous stage first"):
            run(command, None)


def test_recognition_takes_a_checkpoint_with_another_class_count(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = str(tmp_path / "recognition.ckpt")
    first = RecognitionTask(**tiny | {"num_classes": 7})
    fit(first).save_checkpoint(path)
    second = RecognitionTask(**tiny, init_from=path, lr=0.0)
    with pytest.warns(UserWarning, match="a different number of classes"):
        fit(second)
    assert second.model.network.fc.out_features == 4
    torch.testing.assert_close(
        second.model.network.layer4[0].conv1.weight, first.model.network.layer4[0].conv1.weight
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": (0, 1)}, "unexpected"),
        ({"backbone": "r2d50"}, "different shapes"),
        ({"stride": 3}, "different shapes"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    changed: dict[str, Any], message: str, fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = str(tmp_path / "flow.ckpt")
    fit(FlowTask(**tiny)).save_checkpoint(path)
    with pytest.raises(ValueError, match=message) as caught:
        fit(RecognitionTask(**tiny | changed, init_from=path))
    assert path in str(caught.value)


def test_missing_and_foreign_files_are_refused(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"init_from: there is no checkpoint .*none\.ckpt"):
        fit(FlowTask(**tiny, init_from=str(tmp_path / "none.ckpt")))
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        fit(FlowTask(**tiny, init_from=str(text)))
    torch.save({"state_dict": {"layer.weight": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="has no weights of a task"):
        fit(FlowTask(**tiny, init_from=str(tmp_path / "foreign.ckpt")))


def test_resuming_another_stage_is_refused(fit: Fit, tiny: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "flow.ckpt")
    fit(FlowTask(**tiny)).save_checkpoint(path)
    with pytest.raises(ValueError, match=r"made by FlowTask, not by ContrastTask.*init_from"):
        fit(ContrastTask(**tiny), ckpt_path=path)
    with pytest.raises(ValueError, match=r"made by FlowTask, not by RecognitionTask.*init_from"):
        RecognitionTask.load_from_checkpoint(path)
    with pytest.raises(IsADirectoryError, match=r"is a folder; pass the \.ckpt"):
        RecognitionTask.load_from_checkpoint(tmp_path)


def test_loaded_weights_are_not_replaced_by_init_from(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    start, end = str(tmp_path / "start.ckpt"), str(tmp_path / "end.ckpt")
    fit(FlowTask(**tiny)).save_checkpoint(start)
    fit(FlowTask(**tiny, init_from=start, lr=0.1)).save_checkpoint(end)
    Path(start).unlink()  # the older file is not needed in a notebook
    task = FlowTask.load_from_checkpoint(end, lr=0.0)
    expected = snapshot(task)["model.network.conv1.weight"]
    fit(task)
    assert torch.equal(task.model.network.conv1.weight, expected)


def test_weights_trained_in_forks_are_not_replaced_by_init_from(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Lightning's `ddp_notebook` trains in forks, and loads the final weights into the task of the notebook."""
    start = str(tmp_path / "start.ckpt")
    fit(RecognitionTask(**tiny)).save_checkpoint(start)
    task, forked = RecognitionTask(**tiny, init_from=start, lr=0.0), RecognitionTask(**tiny)
    task.load_state_dict(forked.state_dict())
    fit(task)
    assert torch.equal(task.model.network.conv1.weight, forked.model.network.conv1.weight)


def test_train_only_given_to_the_trainer_takes_precedence(fit: Fit, tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny, flow_weight=0.0, contrast_weights=(0.0, 0.0), lr=0.1)
    before = snapshot(task)
    fit(task, callbacks=[TrainOnly([task.model.network.fc])])
    changed = {k for k, v in snapshot(task).items() if not torch.equal(v, before[k])}
    assert changed == {"model.network.fc.weight", "model.network.fc.bias"}


def test_subclass_of_train_only_given_to_the_trainer_takes_precedence(
    fit: Fit, tiny: dict[str, Any]
) -> None:
    class Mine(TrainOnly):
        pass

    task = RecognitionTask(**tiny)
    fit(task, callbacks=[Mine([task.model.network.fc])])
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {"model.network.fc.weight", "model.network.fc.bias"}


def test_freezing_by_hand_has_no_effect_and_is_reported(fit: Fit, tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny)
    task.model.network.conv1.requires_grad_(False)
    with pytest.warns(
        UserWarning,
        match=r"frozen parameters are trained .*\(1, first: model\.network\.conv1\.weight\).*TrainOnly\(\[",
    ):
        fit(task)


class WithExtra(RecognitionTask):
    """Has a part that its loss does not name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.extra = torch.nn.Linear(2, 2)


def test_parts_that_no_loss_names_are_reported(fit: Fit, tiny: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=r"2, first: extra\.(bias|weight)"):
        fit(WithExtra(**tiny))


def test_subclass_loads_a_checkpoint_of_its_base_class(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    class Sub(RecognitionTask):
        pass

    path = tmp_path / "base.ckpt"
    fit(RecognitionTask(**tiny)).save_checkpoint(path)
    assert isinstance(Sub.load_from_checkpoint(path), Sub)
    with pytest.raises(ValueError, match="made by RecognitionTask, not by FlowTask"):
        FlowTask.load_from_checkpoint(path)


@pytest.mark.parametrize("task", [RecognitionTask, FlowTask, ContrastTask, ProbeTask])
def test_training_step_without_a_trainer_returns_its_loss(
    task: type[MotionTask], tiny: dict[str, Any], loader: Any
) -> None:
    model = task(**tiny)
    loss = model.training_step(next(iter(loader)), 0)
    loss.backward()
    assert loss.isfinite()
    assert float(model.terms["train/loss"]) == pytest.approx(float(loss.detach()))


def test_missing_entry_of_a_batch_is_named_before_the_step(tiny: dict[str, Any]) -> None:
    data = torch.utils.data.DataLoader([{"video": torch.zeros(3, 8, 32, 32)}], batch_size=1)
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    with pytest.raises(ValueError, match=r"has no 'label' \(only 'video'\); expected a dict with"):
        trainer.fit(RecognitionTask(**tiny), data, data)


def test_stop_on_collapse_given_to_the_trainer_takes_precedence(
    fit: Fit, tiny: dict[str, Any]
) -> None:
    with pytest.raises(CollapseError):
        fit(FlowTask(**tiny), callbacks=[StopOnCollapse(least_spread=9.0)])


def test_averaging_that_resets_frozen_norms_is_refused(fit: Fit, tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="EMAWeightAveraging"):
        fit(ContrastTask(**tiny), callbacks=[StochasticWeightAveraging(0.01)])


def test_impossible_levels_are_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one below it, got level 0"):
        ContrastTask(level=0, **tiny)
    with pytest.raises(ValueError, match=r"one of the levels \(\)"):
        FlowTask(**tiny | {"levels": ()})
    with pytest.raises(ValueError, match=r"one of the levels \(0, 1\)"):
        ProbeTask(level=2, **tiny | {"levels": (0, 1)})
    with pytest.raises(ValueError, match="a weight for each contrastive level"):
        RecognitionTask(contrast_weights=(0.25,), **tiny)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (
            ContrastTask,
            {"stride": 0},
            "`stride` must be a whole number of cells, 1 or more, got 0",
        ),
        (
            ContrastTask,
            {"max_displacement": -1},
            "`max_displacement` must be .*, 0 or more, got -1",
        ),
        (ContrastTask, {"max_offset": 0}, "max_offset must be at least 1, got 0"),
        (ContrastTask, {"max_offset": -1}, "max_offset must be at least 1, got -1"),
        (ContrastTask, {"temperature": -1.0}, "temperature must be greater than 0, got -1.0"),
        (ContrastTask, {"num_locations": 0}, "num_locations must be at least 1, got 0"),
        (ContrastTask, {"num_locations": 2.5}, "num_locations must be a whole number, got 2.5"),
        (RecognitionTask, {"num_locations": 2.5}, "num_locations must be a whole number"),
        (ContrastTask, {"max_offset": 2.5}, "max_offset must be a whole number, got 2.5"),
        (FlowTask, {"num_classes": 2.5}, "num_classes must be a whole number, got 2.5"),
        (RecognitionTask, {"views_per_forward": 2.5}, "views_per_forward must be a whole number"),
        (RecognitionTask, {"temperature": 0.0}, "temperature must be greater than 0"),
        (
            RecognitionTask,
            {"views_per_forward": 0},
            "views_per_forward must be at least 1, got 0",
        ),
        (RecognitionTask, {"dropout": 2.0}, "dropout must be at least 0 and less than 1, got 2.0"),
        (FlowTask, {"momentum": 1.5}, "momentum must be at least 0 and less than 1, got 1.5"),
        (FlowTask, {"momentum": -0.1}, "momentum must be at least 0 and less than 1"),
        (ProbeTask, {"hidden": 0}, "hidden must be at least 1, got 0"),
        (ProbeTask, {"hidden": "64"}, "hidden must be a whole number, got '64'"),
        (FlowTask, {"lr": "0.1"}, "lr must be a number, got '0.1'"),
        (FlowTask, {"warmup_epochs": None}, "warmup_epochs must be a number, got None"),
        (
            RecognitionTask,
            {"flow_weight": [15.0]},
            r"flow_weight must be a number, got \[15.0\]",
        ),
        (FlowTask, {"level": "0"}, r"levels \(0, 1, 2\), got '0'"),
        (ProbeTask, {"level": "0"}, r"levels \(0, 1, 2\), got '0'"),
        (RecognitionTask, {"num_classes": 1}, "num_classes must be at least 2"),
        (ProbeTask, {"num_classes": 1}, "num_classes must be at least 2"),
        (FlowTask, {"flow_weight": -1.0}, "flow_weight must be greater than 0, got -1.0"),
        (FlowTask, {"flow_weight": 0.0}, "flow_weight must be greater than 0, got 0.0"),
        (FlowTask, {"smoothness_weight": -1.0}, "smoothness_weight must be at least 0"),
        (FlowTask, {"lr": float("nan")}, "lr must be at least 0, got nan"),
        (RecognitionTask, {"flow_weight": -1.0}, "flow_weight must be at least 0, got -1.0"),
        (RecognitionTask, {"flow_weight": float("nan")}, "flow_weight must be at least 0"),
        (RecognitionTask, {"smoothness_weight": -0.1}, "smoothness_weight must be at least 0"),
        (
            RecognitionTask,
            {"contrast_weights": (-0.25, 0.25)},
            r"contrast_weights\[0\] must be at least 0, got -0.25",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(
    task: type[MotionTask], arguments: dict[str, Any], message: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        task(**tiny | arguments)


def test_description_names_trained_and_frozen_parts(tiny: dict[str, Any]) -> None:
    description = ContrastTask(level=1, **tiny).describe()
    assert description["trains"] == [
        "model.network.layer2",
        "model.network.motion.0.project",
        "model.network.motion.1.extract",
        "model.side.predictors.1",
    ]
    assert description["frozen"] == [
        "model.network.conv1",
        "model.network.bn1",
        "model.network.layer1",
        "model.network.layer3",
        "model.network.layer4",
        "model.network.motion.0.extract",
        "model.network.motion.1.project",
        "model.network.motion.2.extract",
        "model.network.motion.2.project",
        "model.network.fc",
        "model.side.flow_decoders.0",
        "model.side.flow_decoders.1",
        "model.side.flow_decoders.2",
        "model.side.predictors.2",
    ]
    joint = RecognitionTask(contrast_weights=(0.25, 0.0), **tiny).describe()
    assert joint["trains"] == [
        "model.network",
        "model.side.flow_decoders.0",
        "model.side.predictors.1",
    ]
    assert joint["frozen"] == [
        "model.side.flow_decoders.1",
        "model.side.flow_decoders.2",
        "model.side.predictors.2",
    ]
    assert RecognitionTask(**tiny | {"levels": ()}, contrast_weights=()).describe()["frozen"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_description_covers_every_parameter_once(stage: str, tiny: dict[str, Any]) -> None:
    task = STAGES[stage](**tiny)
    description = task.describe()
    named = [*description["trains"], *description["frozen"]]
    parameters = [p for name in named for p in task.get_submodule(name).parameters()]
    assert sorted(map(id, parameters)) == sorted(map(id, task.parameters()))


def test_description_in_a_run_is_of_the_modules_that_its_train_only_names(
    fit: Fit, tiny: dict[str, Any]
) -> None:
    task = RecognitionTask(**tiny)
    classifier = task.model.network.fc
    fit(task, callbacks=[TrainOnly([classifier])])
    description = task.describe()
    assert description["trains"] == ["model.network.fc"]
    assert description["trained_parameters"] == sum(p.numel() for p in classifier.parameters())
    assert "model.network.conv1" in description["frozen"]


def test_trainer_of_a_self_supervised_stage_trains_with_labels_next(
    fit: Fit, tiny: dict[str, Any], loader: Any
) -> None:
    """The callback that stops a collapsed stage remains with the Trainer."""
    trainer = fit(FlowTask(**tiny))
    assert any(isinstance(callback, StopOnCollapse) for callback in trainer.callbacks)
    task = RecognitionTask(**tiny)
    for parameter in task.model.network.block(2).extract.parameters():
        torch.nn.init.zeros_(parameter)
    task.lr = 0.0
    trainer.fit_loop.max_epochs = 2
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["val/spread_l2"] < 0.05
    assert trainer.current_epoch == 2


def test_joint_training_logs_the_share_of_pixels_whose_flow_stays_in_the_frame(
    fit: Fit, tiny: dict[str, Any]
) -> None:
    task = RecognitionTask(**tiny, lr=0.0)
    torch.nn.init.constant_(task.side.flow_decoder(0).flow.bias, 100.0)
    logged = fit(task).callback_metrics
    assert logged["train/valid"] == 0.0
    assert logged["train/photometric"] == 0.0
    assert logged["train/smoothness"] > 0


def test_flow_stage_that_learned_nothing_warns(fit: Fit, tiny: dict[str, Any]) -> None:
    with pytest.warns(
        UserWarning, match=r"reconstructs frames no better .*Lower smoothness_weight"
    ):
        fit(FlowTask(**tiny, lr=0.0))


def test_flow_stage_whose_flow_leaves_the_frame_warns(fit: Fit, tiny: dict[str, Any]) -> None:
    task = FlowTask(**tiny, lr=0.0)
    # Eq. 3 counts no error outside the frame: it is 0.
    torch.nn.init.constant_(task.side.flow_decoder(0).flow.bias, 100.0)
    with pytest.warns(
        UserWarning, match="the flow points outside the frame for 100% of the pixels"
    ):
        fit(task)


def test_contrastive_stage_that_learned_nothing_warns(fit: Fit, tiny: dict[str, Any]) -> None:
    task = ContrastTask(**tiny, lr=0.0)
    with pytest.warns(UserWarning, match="level 1 predict the future no better than chance"):
        metrics = fit(task).callback_metrics
    assert metrics["val/contrast_l1"] > metrics["val/contrast_l1_chance"]


@pytest.mark.parametrize("late", [False, True])
def test_averaged_weights_start_from_the_stage_before(
    late: bool, fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fit(FlowTask(**tiny)).save_checkpoint(tmp_path / "flow.ckpt")
    stored = torch.load(tmp_path / "flow.ckpt", weights_only=True)["state_dict"]
    task = ContrastTask(**tiny, init_from=tmp_path / "flow.ckpt")
    averaging = EMAWeightAveraging(update_starting_at_step=100 if late else None)
    trainer = pl.Trainer(**QUIET, max_steps=2, callbacks=[averaging], default_root_dir=tmp_path)
    loader = DataLoader(Drift(), batch_size=4)
    trainer.fit(task, loader, loader)
    name = "model.network.layer2.0.conv1.weight"
    distance = (task.state_dict()[name] - stored[name]).abs().max()
    assert distance == 0 if late else 0 < distance < 0.1
    frozen = "model.network.conv1.weight"
    torch.testing.assert_close(task.state_dict()[frozen], stored[frozen])


def test_recommended_averaging_leaves_frozen_weights_bitwise_unchanged(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    task = ContrastTask(**tiny)
    before = snapshot(task)
    averaging = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9))
    trainer = pl.Trainer(**QUIET, max_steps=6, callbacks=[averaging], default_root_dir=tmp_path)
    loader = DataLoader(Drift(), batch_size=4)
    trainer.fit(task, loader, loader)
    after = task.state_dict()
    trained = trained_names(task)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name for name in changed if name.startswith("model.")} <= trained


def test_learning_rate_search_starts_from_the_weights_of_the_stage_before(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fit(FlowTask(**tiny)).save_checkpoint(tmp_path / "flow.ckpt")
    stored = torch.load(tmp_path / "flow.ckpt", weights_only=True)["state_dict"]
    task = ContrastTask(**tiny, init_from=tmp_path / "flow.ckpt")
    trainer = pl.Trainer(**QUIET, max_epochs=1, default_root_dir=tmp_path)
    loader = DataLoader(Drift(), batch_size=4)
    Tuner(trainer).lr_find(task, loader, loader, num_training=3, update_attr=False)
    trainer.fit(task, loader, loader)
    frozen = "model.network.conv1.weight"
    assert torch.equal(task.state_dict()[frozen], stored[frozen])


def test_a_loop_of_ones_own_may_follow_that_of_a_trainer(
    fit: Fit, tiny: dict[str, Any], loader: DataLoader[dict[str, Any]]
) -> None:
    task = FlowTask(**tiny)
    fit(task)
    (batch, *_) = loader
    loss = task.training_step(batch, 0)
    loss.backward()
    assert float(task.terms["train/loss"]) == loss.item()


class DriftData(pl.LightningDataModule):
    """A data module whose batch size a callback may change."""

    batch_size = 4

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Drift(), batch_size=self.batch_size)

    val_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore:Field `model.lr` and `model.hparams.lr`")
@pytest.mark.parametrize(
    "finder",
    [
        BatchSizeFinder(init_val=2, max_trials=1, steps_per_trial=1),
        LearningRateFinder(num_training_steps=16, early_stop_threshold=None),
    ],
    ids=["batch size", "learning rate"],
)
def test_the_schedule_follows_what_a_callback_finds_when_fitting_has_begun(
    finder: pl.Callback, tiny: dict[str, Any], tmp_path: Path
) -> None:
    task, lrs, data = FlowTask(**{**tiny, "warmup_epochs": 1}), LearningRates(), DriftData()
    trainer = pl.Trainer(**QUIET, max_epochs=8, callbacks=[finder, lrs], default_root_dir=tmp_path)
    trainer.fit(task, data)
    steps = len(Drift()) // data.batch_size
    total = trainer.global_step
    assert total == 8 * steps
    expected = [task.lr * warmup_cosine(step, steps, total) for step in range(total)]
    assert lrs.seen == pytest.approx(expected)
    assert (task.lr, data.batch_size) != (FlowTask(**tiny).lr, DriftData.batch_size)


class Endless(IterableDataset[Any]):
    """A dataset without a length, so that a schedule over epochs is impossible."""

    def __iter__(self) -> Iterator[Any]:
        return iter([Drift()[index] for index in range(8)])


class OwnSchedule(FlowTask):
    """A task that replaces the optimizer and the schedule by one of its own."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_task_with_its_own_schedule_need_not_know_the_length_of_an_epoch(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    trainer = pl.Trainer(**QUIET, max_epochs=1, default_root_dir=tmp_path)
    loader = DataLoader(Endless(), batch_size=4)
    trainer.fit(OwnSchedule(**{**tiny, "warmup_epochs": 1}), loader, loader)
    assert trainer.global_step == 2


class LearningRates(pl.Callback):
    """Record the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_init_from_given_when_loading_a_checkpoint_is_refused(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fit(FlowTask(**tiny)).save_checkpoint(tmp_path / "flow.ckpt")
    with pytest.raises(ValueError, match="would change nothing"):
        FlowTask.load_from_checkpoint(tmp_path / "flow.ckpt", init_from="other.ckpt")


@pytest.mark.parametrize("strict", [True, False])
def test_loading_with_other_num_classes_is_refused_and_suggests_init_from(
    strict: bool, fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    fit(FlowTask(**tiny)).save_checkpoint(tmp_path / "flow.ckpt")
    with pytest.raises(
        ValueError, match=r"do not fit .* num_classes=7; .*use FlowTask\(init_from='/.*'"
    ):
        FlowTask.load_from_checkpoint(tmp_path / "flow.ckpt", strict=strict, num_classes=7)


def test_probe_predicts_class_probabilities(tiny: dict[str, Any], tmp_path: Path) -> None:
    trainer = pl.Trainer(**QUIET, default_root_dir=tmp_path)
    found = trainer.predict(ProbeTask(**tiny), DataLoader(Drift(), batch_size=4))
    assert [part["probability"].shape for part in found or []] == [(4, 4), (4, 4)]


def test_contrast_over_a_gap_trains_the_stages_between_its_levels(tiny: dict[str, Any]) -> None:
    task = ContrastTask(**tiny | {"levels": (0, 2)}, level=2)
    stages = task.model.network.stages
    assert [m for m in task.trained_modules() if any(m is s for s in stages)] == stages[1:3]
    assert task.lower_level() == 0
    assert RecognitionTask(**tiny | {"levels": (0, 2)}).lower_level() == 2


def test_joint_training_decodes_flow_at_the_lowest_chosen_level(tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny | {"levels": (1, 2)})
    assert any(module is task.side.flow_decoder(1) for module in task.trained_modules())
    video = torch.randint(256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    batch: Any = {"video": video, "label": torch.tensor([0, 1])}
    assert task.training_step(batch, 0).isfinite()


@pytest.mark.parametrize("make", [FlowTask, ContrastTask])
def test_a_self_supervised_stage_is_tested_on_the_middle_view(
    make: Any, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clips of three crops, that is the second clip's centre."""
    task, seen = make(**tiny), []
    monkeypatch.setattr(task, "_step", lambda batch, stage: seen.append((batch["video"], stage)))
    task.test_step({"video": torch.arange(6).view(1, 6, 1, 1, 1, 1).expand(1, 6, 3, 1, 1, 1)}, 0)
    ((video, stage),) = seen
    assert (video.unique().tolist(), stage) == ([4], "test")


def test_untrained_classifier_of_another_size_is_left_out_silently(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    source = FlowTask(**tiny | {"num_classes": 7})
    settings = {"task": "FlowTask", "hyper_parameters": {"level": 0}}
    torch.save({"state_dict": source.state_dict(), **settings}, tmp_path / "flow.ckpt")
    model = RecognitionTask(**tiny).model
    assert load_warm_start(model, tmp_path / "flow.ckpt").remarks == []


class OwnFlow(FlowTask):
    """A user's own self-supervised stage."""


def test_warm_start_treats_a_subclass_like_its_base_stage(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = {"num_classes": 7, "levels": (0, 1, 2)}
    fit(OwnFlow(**tiny | given)).save_checkpoint(tmp_path / "own.ckpt")
    model = RecognitionTask(**tiny | {"levels": (0, 1, 2)}).model
    (remark,) = load_warm_start(model, tmp_path / "own.ckpt", lower_level=2).remarks
    assert "is from OwnFlow at level 0" in remark


def test_loading_other_weights_clears_the_remarks(tiny: dict[str, Any]) -> None:
    task = FlowTask(**tiny)
    task.remarks = ["said of other weights"]
    task.load_state_dict(task.state_dict())
    assert task.remarks == []


def test_failed_load_does_not_count_as_having_weights(tiny: dict[str, Any]) -> None:
    task = FlowTask(**tiny)
    with pytest.raises(RuntimeError, match="Missing key"):
        task.load_state_dict({})
    assert not task.has_weights


def test_a_trainer_fits_one_task_after_another(fit: Fit, tiny: dict[str, Any]) -> None:
    trainer = fit(ProbeTask(**tiny, level=0))
    trainer.fit_loop.max_epochs = trainer.current_epoch + 1
    task = FlowTask(**tiny)
    trainer.fit(task, trainer.train_dataloader, trainer.val_dataloaders)
    assert "train/photometric" in trainer.callback_metrics

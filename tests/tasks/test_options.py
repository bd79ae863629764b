"""Every number of a recipe takes effect; tests with defaults alone would not notice one that is ignored."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hcml_lightning.losses import contrastive_loss, reconstruct
from hcml_lightning.tasks import ContrastTask, FlowTask, ProbeTask, RecognitionTask


def silent(task: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(task, "log_mean", lambda *_: None)
    return task.eval()


def test_flow_stage_weights_its_loss_terms(
    tiny: dict[str, Any], loader: DataLoader[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = silent(FlowTask(**tiny, flow_weight=3.0, smoothness_weight=0.5), monkeypatch)
    torch.nn.init.normal_(task.side.flow_decoder(0).flow.weight)
    batch: Any = next(iter(loader))
    (motion,) = task.model.network.motion_features(batch["video"], up_to=0)
    terms = reconstruct(task.side.flow_decoder(0)(motion), batch["video"])
    expected = 3.0 * (terms.photometric + 0.5 * terms.smoothness)
    torch.testing.assert_close(task.training_step(batch, 0), expected)


@pytest.mark.parametrize("make", [ContrastTask, RecognitionTask])
def test_temperature_and_num_locations_reach_the_contrastive_loss(
    make: Any,
    tiny: dict[str, Any],
    loader: DataLoader[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"temperature": 0.3, "num_locations": 5}
    if make is RecognitionTask:
        options |= {"flow_weight": 0.0, "contrast_weights": (1.0, 0.0), "dropout": 0.0}
    task = silent(make(**tiny, **options), monkeypatch)
    batch: Any = next(iter(loader))
    torch.manual_seed(5)
    actual = task.training_step(batch, 0)
    torch.manual_seed(5)
    features, motion = task.model.network.features(batch["video"])
    expected = contrastive_loss(*task.contrast_pairs(1, motion, 5), temperature=0.3)
    if make is RecognitionTask:
        logits = task.model.network.classify(features)
        expected = expected + torch.nn.functional.cross_entropy(logits, batch["label"])
    torch.testing.assert_close(actual, expected)


def test_smoothness_weight_reaches_the_joint_loss(
    tiny: dict[str, Any], loader: DataLoader[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"flow_weight": 1.0, "contrast_weights": (0.0, 0.0), "dropout": 0.0}
    batch: Any = next(iter(loader))
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        task = silent(RecognitionTask(**tiny, **options, smoothness_weight=weight), monkeypatch)
        losses.append(float(task.training_step(batch, 0).detach()))
    # The flow starts at zero, where Eq. 4 is four times the penalty of zero.
    assert losses[1] - losses[0] == pytest.approx(0.5 * 4 * 1e-6**0.45, rel=1e-2)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizer_settings_reach_the_optimizer(
    name: str, fit: Callable[..., Any], tiny: dict[str, Any]
) -> None:
    options = {"momentum": 0.7, "weight_decay": 0.03, "decay_norm_and_bias": False}
    task = FlowTask(**tiny, **options, optimizer=name, lr=0.01)
    (optimizer,) = fit(task, fast_dev_run=True).optimizers
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03, 0.0]
    for group in optimizer.param_groups:
        assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.7


def test_dropout_and_recompute_reach_the_network(tiny: dict[str, Any]) -> None:
    network = RecognitionTask(**tiny, dropout=0.75, recompute=True).model.network
    assert network.recompute
    assert all(stage.recompute for stage in network.stages)
    features = torch.ones(1, network.fc.in_features, 1, 1, 1)
    torch.manual_seed(0)
    kept: list[torch.Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    network.train().classify(features)
    network.eval().classify(features)
    assert set(kept[0].flatten().tolist()) == {0.0, 4.0}
    assert set(kept[1].flatten().tolist()) == {1.0}


def test_chance_loss_is_that_of_a_guess_among_all_targets(
    fit: Callable[..., Any], tiny: dict[str, Any]
) -> None:
    """There are B·N·T targets: four clips, five locations, eight frames of level 0."""
    task = ContrastTask(**tiny, num_locations=5, lr=0.0)
    metrics = fit(task, limit_train_batches=1).callback_metrics
    chance = torch.tensor(4.0 * 5 * 8).log()
    torch.testing.assert_close(metrics["val/contrast_l1_chance"], chance)


def test_probe_averages_the_probabilities_of_its_views(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ProbeTask(level=0, **tiny).eval()
    monkeypatch.setattr(task, "log_dict", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (2, 5, 3, 4, 32, 32), generator=generator, dtype=torch.uint8)
    batch: Any = {"video": video, "label": torch.tensor([0, 1]), "index": torch.arange(2)}
    batch["video_id"] = ["a", "b"]
    with torch.no_grad():
        found = task.test_step(batch, 0)
        expected = torch.stack([task(views).softmax(1).mean(0) for views in video])
    torch.testing.assert_close(task.test_accuracy["top1"].scores[0], expected)
    torch.testing.assert_close(found["probability"], expected)
    assert found["video_id"] == ["a", "b"]


def test_contrast_weights_are_assigned_from_the_lowest_level_up(tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny | {"levels": (0, 2)}, contrast_weights=(0.5, 0.2))
    assert task.contrast_weights == {2: 0.5}
    assert RecognitionTask(**tiny, contrast_weights=(0.5, 0.2)).contrast_weights == {1: 0.5, 2: 0.2}


@pytest.mark.parametrize("weights", [{1: 0.25, 2: 0.5}, 0.25])
def test_contrast_weights_must_be_a_list(tiny: dict[str, Any], weights: Any) -> None:
    with pytest.raises(ValueError, match="contrast_weights must be a list of weights"):
        RecognitionTask(**tiny, contrast_weights=weights)


def test_probe_averages_a_3d_convolution_over_place_and_time(
    tiny: dict[str, Any],
) -> None:
    task = ProbeTask(level=0, **tiny).eval()
    norm, convolution, second, relu, _, _, linear = task.probe
    assert convolution.kernel_size == (3, 3, 3)
    motion = torch.rand(2, norm.num_features, 4, 8, 8)
    with torch.no_grad():
        found = relu(second(convolution(norm(motion)))).mean((2, 3, 4))
        torch.testing.assert_close(task.probe(motion), linear(found))

"""Eq. 5, testing on several views, and what a recognition checkpoint contains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from hcml_lightning.losses import contrastive_loss
from hcml_lightning.tasks import ProbeTask, RecognitionTask

Fit = Callable[..., pl.Trainer]


def batch_of(loader: DataLoader[dict[str, Any]]) -> Any:
    return next(iter(loader))


def test_loss_is_the_weighted_sum_of_eq_5(
    tiny: dict[str, Any], loader: DataLoader[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = RecognitionTask(**tiny, dropout=0.0, flow_weight=3.0, contrast_weights=(0.5, 0.2)).eval()
    torch.nn.init.normal_(task.side.flow_decoder(0).flow.weight)
    monkeypatch.setattr(task, "log_mean", lambda *_: None)
    batch = batch_of(loader)
    torch.manual_seed(5)
    actual = task.training_step(batch, 0)

    torch.manual_seed(5)
    features, motion = task.model.network.features(batch["video"])
    flow = task.flow_terms(0, motion[0], batch["video"])
    expected = F.cross_entropy(task.model.network.classify(features), batch["label"])
    expected = expected + 3.0 * (flow.photometric + task.smoothness_weight * flow.smoothness)
    for level, weight in ((1, 0.5), (2, 0.2)):
        expected = expected + weight * contrastive_loss(*task.contrast_pairs(level, motion, 32))
    torch.testing.assert_close(actual, expected)


def test_flow_terms_count_every_frame_but_the_last(
    tiny: dict[str, Any], loader: DataLoader[dict[str, Any]]
) -> None:
    """At level 1 frames come at half the rate: warping frame t + 2 by the flow rebuilds frame t."""
    task = RecognitionTask(**tiny).eval()
    clip = batch_of(loader)["video"]
    motion = task.model.network.motion_features(clip, 1)
    terms = task.flow_terms(1, motion[1], clip)
    assert terms.flow.shape == (4, 2, 3, 4, 4)
    frames = torch.stack(
        [F.interpolate(clip[:, :, t].float() / 255, size=(4, 4), mode="area") for t in (0, 2, 4, 6)]
    )
    difference = frames[:-1] - frames[1:]
    expected = (difference.square() + 1e-6).pow(0.45).mean()
    torch.testing.assert_close(terms.photometric_zero, expected)
    torch.testing.assert_close(terms.photometric, expected)  # flow starts at zero


def test_clip_with_a_single_frame_at_the_level_is_refused(tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny)
    clip = torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8)
    motion = task.model.network.motion_features(clip, 2)
    with pytest.raises(ValueError, match=r"level 2 needs at least 5 frames, got 3.*clip_length"):
        task.flow_terms(2, motion[2], clip)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("num_frames", range(5, 18))
def test_flow_terms_compare_consecutive_frames_of_the_level(
    level: int, num_frames: int, tiny: dict[str, Any]
) -> None:
    """Each grey frame is 10 brighter than the one before: the error of zero flow tells which are compared."""
    task = RecognitionTask(**tiny).eval()
    clip = torch.arange(num_frames).mul(10).to(torch.uint8).view(1, 1, -1, 1, 1)
    clip = clip.expand(1, 3, num_frames, 32, 32)
    terms = task.flow_terms(level, task.model.network.motion_features(clip, level)[level], clip)
    expected = ((10 * 2**level / 255) ** 2 + 1e-6) ** 0.45
    assert float(terms.photometric_zero) == pytest.approx(expected, rel=1e-4)


class Views(Dataset[dict[str, Any]]):
    """Videos of five views of noise."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        video = torch.randint(0, 256, (5, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)
        return {"video": video, "label": index, "index": index, "video_id": f"video{index}"}


@pytest.mark.parametrize("views_per_forward", [1, 4, 100])
def test_views_are_averaged_as_probabilities(tiny: dict[str, Any], views_per_forward: int) -> None:
    task = RecognitionTask(**tiny, views_per_forward=views_per_forward).eval()
    batch: Any = default_collate([Views()[i] for i in range(3)])
    sizes: list[int] = []
    task.model.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with torch.no_grad():
        prediction = task.predict_step(batch, 0)
    assert max(sizes) <= views_per_forward
    assert prediction["video_id"] == ["video0", "video1", "video2"]
    with torch.no_grad():
        expected = torch.stack(
            [task.model.network(video).softmax(1).mean(0) for video in batch["video"]]
        )
    torch.testing.assert_close(prediction["probability"], expected)


class Repeated(Views):
    """The first video twice, as on a rank that fills up its last batch."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index % 3)


def test_test_counts_each_video_once(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = RecognitionTask(**tiny)

    def predict(batch: Any, _: int) -> dict[str, Any]:
        # Right on videos 1 and 2, wrong on video 0.
        return {
            "video_id": batch["video_id"],
            "probability": torch.eye(4)[batch["label"].clamp(min=1)],
        }

    monkeypatch.setattr(task, "predict_step", predict)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    result = trainer.test(task, DataLoader(Repeated(), batch_size=2), verbose=False)[0]
    assert result == {"test/top1": pytest.approx(2 / 3), "test/top5": 1.0}


def test_class_names_travel_with_the_weights(
    fit: Fit, tiny: dict[str, Any], tmp_path: Path
) -> None:
    task = RecognitionTask(**tiny)
    task.class_names = ["left", "right", "down", "up"]
    fit(task).save_checkpoint(tmp_path / "x.ckpt")
    loaded = RecognitionTask.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert loaded.class_names == ["left", "right", "down", "up"]


def test_probe_reports_the_efficacy_score(
    fit: Fit, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ProbeTask(level=0, **tiny, lr=0.0)
    right = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])

    def logits(clip: torch.Tensor) -> torch.Tensor:
        """Right on six of eight videos in training, on two in validation."""
        guess = right.clone()
        guess[: 2 if task.probe.training else 6] += 1
        start = 4 if calls["n"] % 2 else 0
        calls["n"] += 1
        return torch.eye(4)[guess[start : start + len(clip)] % 4].requires_grad_()

    calls = {"n": 0}
    monkeypatch.setattr(task, "forward", logits)
    metrics = fit(task, max_epochs=2, num_sanity_val_steps=0).callback_metrics
    assert float(metrics["train/top1"]) == 0.75
    assert float(metrics["val/top1"]) == 0.25
    assert float(metrics["val/efficacy"]) == pytest.approx(0.75 / 0.5)


@pytest.mark.parametrize("stop", ["max_steps", "should_stop"])
def test_epoch_that_is_cut_short_still_has_a_training_accuracy(
    stop: str, fit: Fit, tiny: dict[str, Any]
) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    ends: dict[str, Any] = {"max_steps": 1} if stop == "max_steps" else {"callbacks": [Stop()]}
    metrics = fit(RecognitionTask(**tiny), **ends).callback_metrics
    assert float(metrics["train/top1"]) in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_top5_counts_no_more_than_the_five_best_classes(tiny: dict[str, Any]) -> None:
    task = RecognitionTask(**tiny | {"num_classes": 6})
    scores = torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.06, 0.04]] * 2)
    task.val_accuracy.update(scores, torch.tensor([4, 5]), torch.arange(2))
    assert float(task.val_accuracy.compute()["val/top5"]) == 0.5

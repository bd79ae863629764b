from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hcml_lightning import FlowTask, RecognitionTask
from hcml_lightning.cli import main
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.tools.datasets import bench
from hcml_lightning.tools.datasets.bench import cores_needed
from hcml_lightning.tools.datasets.step_time import random_batch, step_seconds

SMALL = ["--data.clip_length=4", "--data.short_side=[40, 48]", "--data.crop_size=32"]
SMALL += ["--data.batch_size=2", "--data.flip=mirror", "--workers=[0]", "--seconds=0.3"]


def words(root, *more: str) -> list[str]:
    return ["data", "bench", "--data=UCF101DataModule", f"--data.root={root}", *SMALL, *more]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_bench_reports_rates_shares_and_cores(synthetic_root, capsys):
    given = words(synthetic_root("ucf101"), "--workers=[0, 1]", "--step_ms=100")
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "workers  clips/s" in said
    for name in ("decode", "crop, resize, flip", "transfer to the GPU"):
        assert f"  {name}" in said
    assert "a GPU whose step takes 100 ms needs 1 core of this kind" in said


def test_bench_without_a_gpu_asks_for_the_step_time(synthetic_root, capsys, no_gpu):
    assert main(words(synthetic_root("ucf101"), "-c", "stages/1_flow.yaml")) == 0
    said = capsys.readouterr().out
    assert "There is no GPU here to measure" in said
    assert "--step_ms" in said


def test_bench_measures_the_step_of_the_given_stage(synthetic_root, capsys, monkeypatch):
    asked = []

    def measured(task, data, precision):
        asked.append((type(task), task.hparams["backbone"], task.hparams["num_classes"], precision))
        return [50.0]

    monkeypatch.setattr(bench, "measured_step", measured)
    stage = ["-c", "stages/4_recognition.yaml", "--model.backbone=r2d_tiny"]
    assert main(words(synthetic_root("ucf101"), *stage, "--precision=bf16-mixed")) == 0
    assert asked == [(RecognitionTask, "r2d_tiny", 8, "bf16-mixed")]
    assert "a GPU whose step takes 50 ms needs" in capsys.readouterr().out


def test_bench_on_a_gpu_without_a_stage_asks_for_one(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H")
    monkeypatch.setattr(bench, "step_seconds", lambda task, data, precision: 0.05)
    assert bench.measured_step(None, None, "32-true") == []
    assert "Pass the stage to measure" in capsys.readouterr().out
    task = FlowTask(backbone="r2d_tiny", level=0)
    assert bench.measured_step(task, None, "32-true") == [50.0]
    assert "a step of FlowTask takes 50.0 ms on H" in capsys.readouterr().out


def test_measured_step_trains_the_task_on_random_batches(synthetic_root, no_gpu):
    data = UCF101DataModule(
        str(synthetic_root("ucf101")),
        clip_length=4,
        crop_size=32,
        short_side=(32, 32),
        batch_size=2,
    )
    batch = random_batch(data, 0)
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert batch["video"].dtype == torch.uint8
    assert not torch.equal(batch["video"], random_batch(data, 1)["video"])
    task = FlowTask(backbone="r2d_tiny", level=0, warmup_epochs=0)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    slow = step_seconds(task, data, steps=2)
    moved = [n for n, value in task.state_dict().items() if not torch.equal(value, before[n])]
    assert any("flow" in name for name in moved)
    assert 1e-4 < slow < 60


def test_cores_are_rounded_up():
    assert cores_needed(step_ms=100, batch_size=8, clips_per_core=25) == 4
    assert cores_needed(step_ms=99, batch_size=8, clips_per_core=25) == 4
    assert cores_needed(step_ms=50, batch_size=8, clips_per_core=25) == 7


def test_bench_runs_although_a_video_is_skipped(layout_copy, capsys):
    root = layout_copy("ucf101")
    video = next(root.rglob("*.avi"))
    video.write_bytes(video.read_bytes()[:2000])
    given = words(root, "--data.on_error=skip", "--workers=0", "--step_ms=100")
    with pytest.warns(UserWarning, match="skipped in training"):
        assert main(given) == 0
    assert "a GPU whose step takes 100 ms needs" in capsys.readouterr().out


def test_bench_with_a_cache_uses_no_workers(synthetic_root, capsys):
    given = words(synthetic_root("ucf101"), "--data.cache=true", "--data.num_workers=0")
    assert main([*given, "--workers=[0, 1]", "--step_ms=100"]) == 0
    said = capsys.readouterr().out
    assert "\n0 " in said
    assert "\n1 " not in said


def test_the_first_batch_of_every_worker_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    class Loader:
        """Four batches of ten clips, one a second."""

        sampler = SimpleNamespace(set_epoch=lambda _: None)

        def __iter__(self) -> Any:
            nonlocal now
            for _ in range(4):
                now += 1
                yield {"label": [0] * 10}

    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now))
    data: Any = SimpleNamespace(train_dataloader=Loader)
    assert bench.clips_per_second(data, num_workers=2, seconds=2) == 10


def test_bench_accepts_a_config_that_names_no_stage(synthetic_root, capsys, no_gpu):
    assert main(words(synthetic_root("ucf101"), "-c", "configs/tiny.yaml")) == 0
    assert "clips/s" in capsys.readouterr().out

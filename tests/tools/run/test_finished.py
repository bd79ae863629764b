import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from hcml_lightning import FlowTask, RecognitionTask, UCF101DataModule, load_run
from hcml_lightning.cli import main
from hcml_lightning.data import VideoDataModule
from hcml_lightning.tools.run import summary


@pytest.fixture(scope="module")
def run_dir(
    fitted: Path, synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two stages and a test of the second, moved away from where they were made."""
    path = tmp_path_factory.mktemp("before") / "run"
    shutil.copytree(fitted, path)
    words = ["test", "-c", str(path / "recognition" / "config.yaml")]
    words += [f"--ckpt_path={path / 'recognition' / 'checkpoints' / 'last.ckpt'}"]
    words += [f"--trainer.logger.init_args.save_dir={path}", "--trainer.logger.init_args.name=test"]
    assert main([*words, f"--checkpoint.dirpath={path / 'test' / 'checkpoints'}"]) == 0
    moved = tmp_path_factory.mktemp("after") / "run"
    path.rename(moved)
    return moved


def test_load_run_gives_config_weights_and_curves_of_one_stage(run_dir: Path):
    run = load_run(run_dir / "flow")
    assert run.config["model"]["class_path"].endswith("FlowTask")
    assert run.config["trainer"]["max_epochs"] == 2
    assert run.stages == {}
    assert isinstance(run.model, FlowTask)
    assert not run.model.training
    stored = torch.load(run_dir / "flow" / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(stored["model.network.conv1.weight"], run.model.model.network.conv1.weight)
    curve = run.curves["val/photometric"]
    assert curve.epoch == [1, 2]
    assert curve.value[-1] == pytest.approx(run.metrics["val/photometric"])
    assert "step" not in run.curves


def test_each_stage_has_one_config(run_dir: Path):
    """Any folder with a config counts as a stage."""
    stages = [file.parent.name for file in run_dir.rglob("config.yaml")]
    assert sorted(stages) == ["flow", "recognition", "test"]


def test_load_run_accepts_a_task_of_the_user(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_task.py").write_text(
        "from hcml_lightning import FlowTask\n\n\nclass OwnTask(FlowTask):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stage = shutil.copytree(run_dir / "flow", tmp_path / "run")
    checkpoint = torch.load(stage / "checkpoints" / "last.ckpt")
    checkpoint["hyper_parameters"]["_class_path"] = "own_task.OwnTask"
    torch.save({**checkpoint, "task": "OwnTask"}, stage / "checkpoints" / "last.ckpt")
    config = yaml.safe_load((stage / "config.yaml").read_text())
    config["model"]["class_path"] = "own_task.OwnTask"
    (stage / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((stage / "fit.json").read_text())
    result["checkpoint"] = str(stage / "checkpoints" / "last.ckpt")
    (stage / "fit.json").write_text(json.dumps(result))
    assert type(load_run(stage).model).__name__ == "OwnTask"


def test_load_run_restores_the_data_module(run_dir: Path):
    data = load_run(run_dir / "recognition").datamodule
    assert isinstance(data, UCF101DataModule)
    data.setup("test")
    sample = data.dataset("test")[0]
    assert sample is not None
    assert sample.video.shape == (6, 3, 4, 32, 32)


def test_load_run_gives_all_stages_in_their_order(run_dir: Path):
    run = load_run(run_dir)
    assert list(run.stages) == ["flow", "recognition", "test"]
    assert run.metrics == run.stages["test"].metrics
    assert 0 <= run.metrics["test/top1"] <= 1
    assert isinstance(run.model, RecognitionTask)
    # The tested checkpoint is the final one of the stage before, though both were moved.
    assert run.checkpoint == run_dir / "recognition" / "checkpoints" / "last.ckpt"
    assert run.stages["flow"].metrics == load_run(run_dir / "flow").metrics
    # As in a copy whose files arrived in another order.
    for number, name in enumerate(reversed(list(run.stages))):
        for file in (run_dir / name).glob("*.json"):
            os.utime(file, (number, number))
    assert list(load_run(run_dir).stages) == ["flow", "recognition", "test"]


def test_load_run_names_missing_parts_of_a_run(run_dir: Path, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no finished run here; expected test\.json"
    ):
        load_run(tmp_path)
    kept = tmp_path / "flow"
    shutil.copytree(run_dir / "flow", kept)
    shutil.rmtree(kept / "checkpoints")
    noted = kept / "fit.json"
    noted.write_text(noted.read_text().replace("last.ckpt", "gone.ckpt"))
    run = load_run(kept)
    assert run.metrics["val/photometric"] > 0
    with pytest.raises(FileNotFoundError, match="the checkpoint of this run is gone"):
        _ = run.model
    for config in kept.rglob("config.yaml"):
        config.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"config\.yaml, which every run writes, is missing"
    ):
        load_run(kept)


def test_a_test_that_is_cut_short_counts_the_videos_of_all_devices():
    data = object.__new__(VideoDataModule)
    data.__dict__.update(batch_size=3, _datasets={"test": range(20)})
    trainer: Any = SimpleNamespace(datamodule=data, num_test_batches=[2], world_size=2)
    assert summary._videos(trainer, "test") == {"seen": 12, "in_split": 20}


def test_resumed_run_keeps_its_validated_epoch_and_its_seconds():
    told: Any = summary.StageSummary()
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    told.on_load_checkpoint(trainer, None, {"validated_epoch": 2, "seconds": 1000.0})
    checkpoint: dict[str, Any] = {}
    told.on_save_checkpoint(trainer, None, checkpoint)
    assert checkpoint["validated_epoch"] == 2
    assert 1000 <= checkpoint["seconds"] < 2000

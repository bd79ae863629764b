import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hcml_lightning.cli import main
from hcml_lightning.data.synthetic import CLASSES
from hcml_lightning.tools.predict import Prediction, write_csv


@pytest.fixture(scope="module")
def checkpoints(
    synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A checkpoint of a recognition stage, and one that knows no classes."""
    found = {}
    for stage in ("baseline", "1_flow"):
        folder = tmp_path_factory.mktemp(stage)
        words = ["fit", "-c", f"stages/{stage}.yaml", "-c", "data/ucf101.yaml"]
        words += [f"--data.root={synthetic_root('ucf101')}", "--model.backbone=r2d_tiny"]
        words += ["--data.clip_length=4", "--data.short_side=[32,32]", "--data.crop_size=32"]
        words += ["--data.test_crop_size=32", "--data.test_clips=2", "--data.num_workers=0"]
        words += ["--data.flip=none", "--trainer.accelerator=cpu", "--trainer.logger=false"]
        words += ["--trainer.max_epochs=1", f"--checkpoint.dirpath={folder}"]
        assert main(words) == 0
        found[stage] = folder / "last.ckpt"
    return found


def test_good_and_broken_files(
    checkpoints: dict[str, Path],
    synthetic_root: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    left = synthetic_root("ucf101") / "videos" / "left"
    videos = sorted(left.glob("*.avi"))
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(videos[0], mine / "good.avi")
    (mine / "cut.avi").write_bytes(videos[0].read_bytes()[:1500])
    output = tmp_path / "out" / "found.csv"
    words = ["predict", "--ckpt_path", str(checkpoints["baseline"]), str(mine), str(videos[1])]
    assert main([*words, "--output", str(output), "--num_workers", "0", "--device", "cpu"]) == 0
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if "good.avi" in row["video"]]
    assert [row["rank"] for row in good] == ["1", "2", "3", "4", "5"]
    assert {row["class"] for row in good} < set(CLASSES)
    probabilities = [float(row["probability"]) for row in good]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1
    [broken] = [row for row in rows if row["error"]]
    assert "cut.avi" in broken["video"]
    assert len([row for row in rows if videos[1].name in row["video"]]) == 5
    said = capsys.readouterr().out
    assert "2 of 3 videos" in said
    assert "cut.avi" in said
    assert [path.name for path in output.parent.iterdir()] == ["found.csv"]


@pytest.mark.parametrize(
    ("stage", "message"), [("1_flow", "was written by FlowTask"), ("none", "there is no file")]
)
def test_a_checkpoint_that_cannot_be_used(
    stage: str, message: str, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    path = checkpoints.get(stage, Path("nowhere.ckpt"))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "x.avi", "--ckpt_path", str(path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_csv_has_no_more_ranks_than_classes(tmp_path: Path):
    predictions = [Prediction("a,b.avi", torch.tensor([0.25, 0.75]), "")]
    write_csv(tmp_path / "p.csv", predictions, ["up", "down"], top_k=5)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("a,b.avi", "1", "down", "0.750000", ""),
        ("a,b.avi", "2", "up", "0.250000", ""),
    ]

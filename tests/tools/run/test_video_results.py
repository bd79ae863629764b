"""What a test writes about each video, on one process and on two."""

import subprocess
import sys
from pathlib import Path

import pytest

from hcml_lightning.tools.run.video_result_writer import _class_name
from hcml_lightning.tools.run.video_results import VideoResult, read_predictions, write_predictions

# Seven videos on two processes, which are given eight: the first one twice.
TWO_RANKS = """
import sys, warnings
warnings.simplefilter("ignore")
import pytorch_lightning as pl, torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from hcml_lightning.tools.run.video_result_writer import VideoResultWriter

class Task(pl.LightningModule):
    class_names = ["a", "b"]
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
    def test_step(self, batch, batch_idx):
        sure = 0.5 + batch["index"] / 20
        return {"probability": torch.stack([sure, 1 - sure], dim=1)}

def batches():
    return DataLoader(
        [{"index": i, "label": i % 2, "video_id": f"v{i}"} for i in range(7)], batch_size=3
    )

trainer = pl.Trainer(
    devices=2, strategy="ddp_notebook", accelerator="cpu", logger=False, enable_progress_bar=False,
    callbacks=[ModelCheckpoint(sys.argv[1] + "/checkpoints"), VideoResultWriter()],
)
trainer.test(Task(), batches(), verbose=False)
"""


def test_two_processes_write_each_video_once(tmp_path: Path):
    script = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    subprocess.run(script, check=True, timeout=300, capture_output=True)
    assert read_predictions(tmp_path / "predictions.csv") == [
        VideoResult(f"v{i}", "ab"[i % 2], "a", round(0.5 + i / 20, 6)) for i in range(7)
    ]


def test_predictions_survive_writing_and_reading(tmp_path: Path):
    videos = [VideoResult('a,"b"\n', "péter, 1", "<b>", 0.25), VideoResult("c", "", "x", 1.0)]
    write_predictions(tmp_path / "found.csv", videos)
    assert read_predictions(tmp_path / "found.csv") == videos


def test_malformed_predictions_are_refused(tmp_path: Path):
    file = tmp_path / "predictions.csv"
    file.write_text("video,rank,class\n")
    with pytest.raises(ValueError, match=r"expected the columns video_id, .* got \['video'"):
        read_predictions(file)
    for row in ("a,b\n", "a,b,c,much\n"):
        file.write_text("video_id,label,predicted,probability\n" + row)
        with pytest.raises(
            ValueError, match=r"predictions\.csv: a row is not a video with its three"
        ):
            read_predictions(file)


def test_video_without_a_label_has_no_class_name():
    assert [_class_name(["a", "b"], -1), _class_name(None, -1)] == ["", ""]
    assert _class_name(["a", "b"], 1) == "b"

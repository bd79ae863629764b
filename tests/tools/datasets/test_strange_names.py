"""Names with quotes, line ends, tags or bytes that are not UTF-8 come out of every file as they went in."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hcml_lightning.cli import main
from hcml_lightning.data import VideoFolderDataModule
from hcml_lightning.data.manifest import MANIFEST_NAME, read_manifest, write_csv
from hcml_lightning.data.usable import usable_records
from hcml_lightning.tools.console.output import printable, write_json
from hcml_lightning.tools.datasets.check import list_videos
from hcml_lightning.tools.datasets.journal import Journal
from hcml_lightning.tools.datasets.prepare_jobs import list_jobs
from hcml_lightning.tools.datasets.transcode import Encoding
from hcml_lightning.tools.prediction.prediction_files import Prediction, open_results
from hcml_lightning.tools.prediction.recognizer import Recognition
from hcml_lightning.tools.run.video_results import VideoResult, read_predictions, write_predictions

NAMES = [
    "new\nline",
    "return\rhere",
    'quo"te, comma',
    "<script>alert(1)</script>".replace("/", "∕"),
    os.fsdecode(b"caf\xe9"),
    "\x1b[2J",
    "=1+1",
    "…",
]


@pytest.fixture
def folders(synthetic_root: Callable[[str], Path], tmp_path: Path) -> Path:
    """Class folders, one video of a strange name in each of them."""
    video = next(synthetic_root("ucf101").rglob("*.avi"))
    for name in NAMES:
        (tmp_path / "data" / f"class {name}").mkdir(parents=True)
        shutil.copy(video, tmp_path / "data" / f"class {name}" / f"{name}.avi")
    return tmp_path / "data"


def test_check_and_manifest_keep_strange_names(folders: Path, capsys: pytest.CaptureFixture[str]):
    (folders / f"class {NAMES[4]}" / f"{NAMES[4]}.avi").write_bytes(b"")
    words = ["data", "check", "--data=VideoFolderDataModule", f"--data.root={folders}"]
    assert main([*words, "--num_workers=1"]) == 1
    said = capsys.readouterr().out
    assert r"class caf\udce9/caf\udce9.avi: the file is empty" in said
    assert "\x1b" not in said
    rows = read_manifest(folders / MANIFEST_NAME)
    assert set(rows) == {f"class {name}/{name}.avi" for name in NAMES}
    assert {row.label for row in rows.values()} == {f"class {name}" for name in NAMES}
    assert sum(bool(row.error) for row in rows.values()) == 1
    records = VideoFolderDataModule(str(folders)).records("train")
    with pytest.warns(UserWarning, match="They are skipped"):
        usable = usable_records(str(folders), {"train": records}, "skip", "")
    assert len(usable["train"]) == len(NAMES) - 1


def test_prepare_stays_in_its_folder(folders: Path, tmp_path: Path):
    videos = list_videos(VideoFolderDataModule(str(folders)))
    jobs = list_jobs(videos, tmp_path / "copy", tmp_path / "scratch", Encoding(), False)
    assert len(jobs) == len(NAMES)
    for job in jobs:
        assert (job.output / job.copy).resolve().is_relative_to(tmp_path / "copy")


def test_all_output_files_keep_strange_names(tmp_path: Path):
    write_csv(tmp_path / "a.csv", ["name", "other"], iter([[name, ""] for name in NAMES]))
    found = [Recognition(0.0, 1.0, torch.tensor([1.0]), ("class",))]
    with open_results(tmp_path / "b.csv", ["class"], 1) as write:
        for name in NAMES:
            write(Prediction(name, found, ""))
    for file in ("a.csv", "b.csv"):
        with (tmp_path / file).open(newline="", encoding="utf-8", errors="surrogateescape") as f:
            assert [row[0] for row in list(csv.reader(f))[1:]] == NAMES
    write_predictions(tmp_path / "d.csv", [VideoResult(name, "", "up", 1.0) for name in NAMES])
    assert [video.video_id for video in read_predictions(tmp_path / "d.csv")] == NAMES
    write_json(tmp_path / "c.json", {"names": NAMES})
    assert json.loads((tmp_path / "c.json").read_bytes())["names"] == NAMES
    with Journal(tmp_path / "journal", 1) as journal:
        for name in NAMES:
            journal.add([name])
    with Journal(tmp_path / "journal", 1) as journal:
        assert journal.rows == [[name] for name in NAMES]


def test_nothing_is_written_through_a_link(tmp_path: Path):
    """A dataset may bring links under the names that the tools write to."""
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    data = tmp_path / "data"
    data.mkdir()
    (data / "journal").symlink_to(mine)
    with pytest.raises(ValueError, match=r"is a link to .*mine\.txt, which would be written to"):
        Journal(data / "journal", 1).__enter__()
    (data / "table.csv").symlink_to(mine)
    (data / f".table.csv.{os.getpid()}.part").symlink_to(mine)
    write_csv(data / "table.csv", ["a"], iter([["1"]]))
    assert mine.read_text() == "precious"
    assert (data / "table.csv").read_text() == "a\n1\n"
    assert not (data / "table.csv").is_symlink()


def test_control_characters_are_escaped_for_terminals():
    assert printable("a\x1b[31m\n\x07é…") == r"a\x1b[31m\n\x07é…"

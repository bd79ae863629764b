"""Genuine files of every dataset, read by its data module; skipped where they are missing."""

import importlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hcml_lightning.data import (
    KineticsDataModule,
    SomethingDataModule,
    UCF101DataModule,
    VideoDataModule,
    VideoFolderDataModule,
)
from hcml_lightning.data.decode import VideoError, check_video, probe, read_frames
from hcml_lightning.data.mirror import mirror_classes

SMALL = {
    "clip_length": 4,
    "short_side": (64, 80),
    "crop_size": 56,
    "test_crop_size": 56,
    "test_clips": 2,
    "batch_size": 1,
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def clips(shared_data: Path) -> Path:
    return shared_data / "clips"


def load(data: VideoDataModule, *splits: str) -> list[dict]:
    stages = {"train": "fit", "val": "validate"}
    found = []
    for split in splits:
        data.setup(stages.get(split, split))
        found += list(getattr(data, f"{split}_dataloader")())
    for batch in found:
        views = (2 * 3,) if batch["video"].ndim == 6 else ()
        assert batch["video"].shape == (1, *views, 3, 4, 56, 56)
        assert batch["video"].float().std() > 5
    return found


def genuine_videos(clips: Path) -> list[Path]:
    suffixes = {".avi", ".mp4", ".mkv", ".webm"}
    return sorted(p for p in clips.rglob("*") if p.suffix in suffixes and p.parent.name != "bad")


def test_frames_equal_those_of_a_full_decode(clips):
    videos = genuine_videos(clips)
    assert len(videos) >= 24
    rng = np.random.default_rng(0)
    for path in videos:
        with av.open(str(path), metadata_errors="ignore") as container:
            slow = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert probe(path).num_frames == len(slow)
        numbers = rng.integers(len(slow), size=4).tolist()
        frames = read_frames(path, numbers)
        for frame, number in zip(frames, numbers, strict=True):
            # FFmpeg rounds differently in another order of threads, by one grey level at most.
            assert np.abs(frame.numpy().astype(int) - slow[number]).max() <= 1, path.name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("zero_bytes.avi", "empty"),
        ("header_only.avi", "damaged or cut short"),
        ("truncated_half.avi", "cut short .*promises 131 frames"),
        ("truncated_no_moov.mp4", "damaged or cut short"),
        ("corrupted.mp4", "damaged"),
        ("garbage_middle.avi", "damaged"),
        ("git_lfs_pointer.mp4", "git-LFS pointer"),
        ("text_as_video.mp4", "text, not a video"),
    ],
)
def test_bad_file_is_named_with_its_fault(clips, name, what):
    path = clips / "bad" / name
    with pytest.raises(VideoError, match=rf"{name}: .*{what}"):
        check_video(path)
    with pytest.raises(VideoError, match=rf"{name}: .*{what}"):
        read_frames(path, range(probe(path).num_frames))


def test_good_and_bad_files_are_told_apart_in_one_dataset(clips, tmp_path, monkeypatch, repository):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    found = Counter(importlib.import_module("genuine").as_one(clips, tmp_path, most=2))
    good = found["check, good file", "good"]
    assert good == 11
    assert found == Counter(
        {
            ("check, bad file", "named"): 8,
            ("check, good file", "good"): good,
            ("check, exit status", "1"): 1,
            ("training's reader, good file", "the right pictures"): good,
            ("prepare, exit status", "1"): 1,
            ("prepare, videos converted", str(good)): 1,
            ("prepare, good file", "as many frames"): good,
            ("training on the files, exit status", "0"): 1,
            ("training on the copy, exit status", "0"): 1,
            ("training, on_error=raise", "named"): 1,
            ("training without manifest", "named"): 1,
        }
    )


def test_ucf101_loads_genuine_files_with_their_labels(clips, tmp_path):
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "videos").symlink_to(clips / "ucf101")
    here = {p.name for p in clips.glob("ucf101/*/*.avi")}
    for path in (clips / "annotations" / "ucfTrainTestlist").iterdir():
        text = path.read_bytes().decode()
        assert "\r\n" in text
        if path.name != "classInd.txt":
            lines = text.split("\r\n")
            text = "\r\n".join(li for li in lines if Path(li.split(" ")[0]).name in here)
        (tmp_path / "ucfTrainTestlist" / path.name).write_bytes(text.encode())
    seen = set()
    for fold in (1, 2, 3):
        data = UCF101DataModule(str(tmp_path), fold=fold, **SMALL)
        assert data.num_classes == 101
        assert data.class_names[0] == "ApplyEyeMakeup"
        assert not data.mirror_classes
        for batch in load(data, "train", "val", "test") if fold == 1 else []:
            name = data.class_names[batch["label"].item()]
            assert batch["video_id"][0].startswith(f"v_{name}_")
        train, val = ({record.path for record in data.records(s)} for s in ("train", "val"))
        assert not train & val
        seen |= {Path(path).name for path in train | val}
    assert seen == here


def test_all_official_ucf101_lists_are_read(clips, tmp_path):
    shutil.copytree(clips / "annotations" / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    for fold, (train, test) in enumerate([(9537, 3783), (9586, 3734), (9624, 3696)], start=1):
        data = UCF101DataModule(str(tmp_path), fold=fold)
        assert (len(data.records("train")), len(data.records("val"))) == (train, test)
        assert {record.label for record in data.records("train")} == set(range(101))


def test_kinetics_loads_genuine_files_and_reports_missing_ones(clips, tmp_path):
    lists = clips / "annotations" / "kinetics400"
    (tmp_path / "val").mkdir()
    here = ("R6llTwEh07w", "SOX5yA1l24A")
    for name in here:
        (tmp_path / "val" / f"{name}.mp4").symlink_to(clips / "kinetics" / f"{name}.mp4")
    shutil.copy(lists / "kinetics-400_val.csv", tmp_path)
    data = KineticsDataModule(str(tmp_path), **SMALL)
    assert data.class_names == (lists / "label_map_k400.txt").read_text().splitlines()
    assert not data.mirror_classes
    with pytest.raises(FileNotFoundError, match="19904 of 19906 videos of the val split"):
        data.setup("validate")
    data = KineticsDataModule(str(tmp_path), on_error="skip", **SMALL)
    with pytest.warns(UserWarning, match="19904 of 19906 videos of the (val|test) split"):
        found = load(data, "val", "test")
    assert [batch["video_id"][0] for batch in found] == [*here, *here]
    assert {data.class_names[batch["label"].item()] for batch in found} == {"using segway"}


def test_the_kinetics_test_list_has_no_labels(clips, tmp_path):
    for name in ("val", "test"):
        shutil.copy(clips / "annotations" / "kinetics400" / f"kinetics-400_{name}.csv", tmp_path)
    data = KineticsDataModule(str(tmp_path))
    records = data.records("predict")
    assert len(records) == 38685
    assert {record.label for record in records} == {-1}
    assert records[0].path == str(tmp_path / "--6bJUbfpnQ_000017_000027.mp4")


def test_something_v2_loads_genuine_files_and_lists(clips, tmp_path):
    lists = clips / "annotations" / "something-something-v2"
    shutil.copy(lists / "something-something-v2-labels.json", tmp_path)
    shutil.copy(
        lists / "finetune_10shot_train.json", tmp_path / "something-something-v2-train.json"
    )
    template = "Poking [something] so that [it] falls over"
    entry = [{"id": "166766", "label": "poking", "template": template, "placeholders": []}]
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps(entry))
    (tmp_path / "20bn-something-something-v2").symlink_to(clips / "something-something-v2")
    data = SomethingDataModule(str(tmp_path), **SMALL)
    assert data.num_classes == 174
    assert data.class_names == (lists / "label_map.txt").read_text().splitlines()
    # The official pairs.
    pairs = {86: 87, 93: 94, 166: 167}
    assert data.mirror_classes == pairs | {second: first for first, second in pairs.items()}
    assert len(data.records("train")) == 860
    found = load(data, "val", "test")
    assert [batch["label"].item() for batch in found] == [57, 57]


def test_something_v1_loads_genuine_frames_and_labels(clips, tmp_path):
    labels = clips / "annotations" / "something-something-v1" / "label_map.txt"
    shutil.copy(labels, tmp_path / "something-something-v1-labels.csv")
    for side in ("train", "validation"):
        rows = "22983;Holding something\r\n151201;Opening something\r\n"
        (tmp_path / f"something-something-v1-{side}.csv").write_text(rows)
    (tmp_path / "20bn-something-something-v1").symlink_to(clips / "something-something-frames")
    data = SomethingDataModule(str(tmp_path), version=1, **SMALL)
    assert data.num_classes == 174
    pairs = {2: 4, 30: 41, 52: 66}
    assert data.mirror_classes == pairs | {second: first for first, second in pairs.items()}
    found = load(data, "train", "val", "test")
    assert sorted(batch["label"].item() for batch in found) == [0, 0, 0, 5, 5, 5]
    assert probe(clips / "something-something-frames" / "22983").num_frames == 64


def test_jester_lists_are_read_as_something_v1(clips, tmp_path):
    lists = clips / "annotations" / "jester-v1"
    shutil.copy(lists / "jester-v1-labels.csv", tmp_path / "something-something-v1-labels.csv")
    shutil.copy(
        lists / "jester-v1-validation.csv", tmp_path / "something-something-v1-validation.csv"
    )
    (tmp_path / "videos").mkdir()
    data = SomethingDataModule(str(tmp_path), version=1)
    assert len(data.records("val")) == 14787
    mirrored = {data.class_names[a]: data.class_names[b] for a, b in data.mirror_classes.items()}
    assert mirrored["Swiping Left"] == "Swiping Right"
    assert mirrored["Turning Hand Clockwise"] == "Turning Hand Counterclockwise"


def test_class_folders_load_genuine_files(clips):
    data = VideoFolderDataModule(str(clips / "hmdb51"), **SMALL)
    assert data.class_names == ["climb", "wave"]
    found = load(data, "train", "val", "test")
    assert len(found) >= 3


def test_predict_paths_accept_files_frames_and_folders(clips):
    paths = [clips / "jester" / "25063.mp4", clips / "something-something-frames", clips / "hmdb51"]
    data = VideoFolderDataModule("none", predict_paths=[str(path) for path in paths], **SMALL)
    found = load(data, "predict")
    assert len(found) == 1 + 2 + 4
    assert torch.cat([batch["label"] for batch in found]).unique().tolist() == [-1]


@pytest.mark.parametrize("name", ["utdmhad_depth27", "ucf101_6"])
def test_small_motion_sets_load_with_their_mirror_classes(shared_data, name):
    data = UCF101DataModule(
        str(shared_data / "motion" / name), **(SMALL | {"flip": "mirror", "frame_stride": "spread"})
    )
    data.setup("fit")
    assert data.num_classes == int(re.findall(r"\d+$", name)[0])
    assert len(data.dataset("train")) == {"utdmhad_depth27": 431, "ucf101_6": 529}[name]
    pairs = {data.class_names[a]: data.class_names[b] for a, b in data.mirror_classes.items()}
    if name == "utdmhad_depth27":
        assert pairs == {
            "SwipeLeft": "SwipeRight", "SwipeRight": "SwipeLeft",
            "DrawCircleCW": "DrawCircleCCW", "DrawCircleCCW": "DrawCircleCW",
        }  # fmt: skip
    assert data.dataset("val")[0].video.shape == (3, 4, 56, 56)


def test_mirror_classes_are_pairs(clips):
    maps = list(clips.glob("annotations/*/label_map*.txt"))
    assert maps
    for path in maps:
        pairs = mirror_classes(path.read_text().splitlines())
        assert all(pairs[second] == first for first, second in pairs.items())

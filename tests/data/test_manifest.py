"""A manifest describes its files correctly, and is believed only while they stay the same."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.decode import read_frames
from hcml_lightning.data.manifest import (
    MANIFEST_NAME,
    ManifestRow,
    digest_of,
    is_current,
    read_manifest,
    state_of,
    write_manifest,
)
from hcml_lightning.data.stored_index import StoredVideo, find_index, pack_index, unpack_index
from hcml_lightning.data.usable import usable_records
from hcml_lightning.data.video_index import VideoIndex, VideoInfo, index_video

SUFFIXES = {"ucf101": ".avi", "kinetics": ".mp4", "something_v2": ".webm"}


def video_of(root: Path) -> str:
    return str(next(p for p in sorted(root.rglob("*")) if p.suffix in SUFFIXES.values()))


def row_of(path: str, root: Path, **changes) -> ManifestRow:
    index = index_video(path)
    size, modified = state_of(path)
    name = Path(path).relative_to(root).as_posix()
    known = {"info": index.info, "index": pack_index(index)} | changes
    return ManifestRow(Path(path).stem, name, "left", size, modified, **known)


@pytest.mark.parametrize("layout", SUFFIXES)
def test_stored_index_equals_the_original(synthetic_root, layout):
    path = video_of(synthetic_root(layout))
    index = index_video(path)
    again = unpack_index(pack_index(index), index.info)
    assert np.array_equal(index.pts, again.pts)
    assert (index.pts_of_dts, index.keys) == (again.pts_of_dts, again.keys)
    assert (index.rotation, index.sequential) == (again.rotation, again.sequential)


def test_unusual_index_survives_storage():
    info = VideoInfo(3, 0.0, 8, 8)
    index = VideoIndex(info, np.array([-7, 0, 9]), {5: 0, -1: 9}, (), 3, True)
    again = unpack_index(pack_index(index), info)
    assert again.pts.tolist() == [-7, 0, 9]
    assert (again.pts_of_dts, again.keys, again.rotation) == ({5: 0, -1: 9}, (), 3)
    assert again.sequential is True


@pytest.mark.parametrize("layout", SUFFIXES)
def test_stored_index_gives_the_same_frames_without_a_scan(synthetic_root, layout, monkeypatch):
    path = video_of(synthetic_root(layout))
    size, modified = state_of(path)
    index = index_video(path)
    stored = StoredVideo(index.info, size, modified, pack_index(index))
    expected = [read_frames(path, [n, 3]) for n in range(index.info.num_frames)]

    def no_pass(path: str) -> None:
        raise AssertionError(f"{path} was scanned")

    monkeypatch.setattr("hcml_lightning.data.stored_index.index_video", no_pass)
    for number, frames in enumerate(expected):
        assert torch.equal(read_frames(path, [number, 3], stored), frames)


def test_a_stored_index_is_not_used_for_a_file_that_changed(synthetic_root, tmp_path):
    first, second = sorted(synthetic_root("kinetics").rglob("*.mp4"))[:2]
    path = str(shutil.copy(first, tmp_path / "video.mp4"))
    size, modified = state_of(path)
    wrong = unpack_index("0 1*3;;0;0;0;0", VideoInfo(4, 1.0, 2, 2))
    stored = StoredVideo(wrong.info, size, modified, pack_index(wrong))
    assert find_index(path, stored).info.num_frames == 4
    shutil.copy(second, path)
    assert find_index(path, stored).info == index_video(str(second)).info


def test_rows_survive_writing_and_reading(tmp_path):
    rows = [
        ManifestRow('a "b", c\r', "x/ü.mp4", "pull, push", 5, 6, VideoInfo(3, 29.97002997, 4, 5)),
        ManifestRow("gone", "y.avi", "", error="there is no such file"),
        ManifestRow(
            "odd", "z.avi", "a", 1, 2, VideoInfo(1, 1 / 3, 1, 1), note="n", index="0;;;0;0;0"
        ),
    ]
    write_manifest(tmp_path / "m.csv", rows)
    assert list(read_manifest(tmp_path / "m.csv").values()) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_images_whose_names_are_no_utf8_have_a_digest(tmp_path):
    (tmp_path / "ü.jpg").write_bytes(b"picture")
    # This digest must never change: existing manifests contain it.
    assert digest_of(str(tmp_path)) == "bde0a0a20f3215b83def927d908a681e"
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"another")
    assert len(digest_of(str(tmp_path))) == 32


@pytest.mark.parametrize(
    "content", ["", "id,path\n", "{}", "HEADER\nx,y\n", "HEADER\n" + ",".join("abcdefghijkl")]
)
def test_file_that_is_no_manifest_is_named(tmp_path, content):
    write_manifest(tmp_path / "m.csv", [])
    header = (tmp_path / "m.csv").read_text().strip()
    (tmp_path / "m.csv").write_text(content.replace("HEADER", header))
    with pytest.raises(ValueError, match=r"m\.csv.*hcml data check"):
        read_manifest(tmp_path / "m.csv")


def test_change_of_size_or_time_is_noticed(synthetic_root, tmp_path):
    path = str(shutil.copy(video_of(synthetic_root("ucf101")), tmp_path / "v.avi"))
    row = row_of(path, tmp_path)
    assert is_current(row, path)
    os.utime(path, ns=(0, row.modified + 1))
    assert not is_current(row, path)
    os.utime(path, ns=(0, row.modified))
    assert is_current(row, path)
    with open(path, "ab") as file:
        file.write(b"x")
    os.utime(path, ns=(0, row.modified))
    assert not is_current(row, path)
    os.remove(path)
    assert not is_current(row, path)
    assert is_current(ManifestRow("v", "v.avi", ""), path)


class TestUsable:
    @pytest.fixture
    def records(self, synthetic_root, tmp_path) -> list[VideoRecord]:
        root = shutil.copytree(synthetic_root("ucf101"), tmp_path / "ucf101")
        return UCF101DataModule(str(root)).records("val")

    def write(self, records: list[VideoRecord], root: Path, **changes) -> None:
        rows = [row_of(r.path, root, **(changes if i == 0 else {})) for i, r in enumerate(records)]
        write_manifest(root / MANIFEST_NAME, rows)

    def usable(self, records: list[VideoRecord], root: Path, on_error: str = "raise"):
        return usable_records(str(root), {"val": records}, on_error, "", ["val"])["val"]

    def test_videos_in_the_manifest_are_not_opened(self, records, tmp_path, monkeypatch):
        self.write(records, tmp_path / "ucf101")
        monkeypatch.setattr("hcml_lightning.data.usable.probe", None)
        found = self.usable(records, tmp_path / "ucf101")
        assert [r.path for r in found] == [r.path for r in records]
        assert all(r.stored is not None and r.stored.info.num_frames == 12 for r in found)

    def test_broken_videos_are_named_before_the_start(self, records, tmp_path):
        self.write(records, tmp_path / "ucf101", error="cut in half", info=None)
        name = Path(records[0].path).name
        with pytest.raises(FileNotFoundError, match=rf"1 of 8 .*\n.*{name}: cut in half"):
            self.usable(records, tmp_path / "ucf101")
        with pytest.warns(UserWarning, match="cut in half"):
            assert len(self.usable(records, tmp_path / "ucf101", "skip")) == 7

    def test_broken_videos_of_all_splits_of_a_stage_are_named_at_once(self, records, tmp_path):
        data = UCF101DataModule(str(tmp_path / "ucf101"), flip="none")
        first = [Path(rows[0].path) for rows in (data.records("train"), records)]
        for path in first:
            path.unlink()
        named = r"1 of 8 videos of the train split .*\n.*{}: .*\n1 of 8 .* val split .*\n.*{}: .*\n"
        with pytest.raises(FileNotFoundError, match=named.format(*(p.name for p in first))):
            data.setup("fit")

    def test_manifest_row_of_a_changed_video_is_ignored(self, records, tmp_path):
        self.write(records, tmp_path / "ucf101", error="cut in half", info=None)
        os.utime(records[0].path)
        with pytest.warns(
            UserWarning, match=r"is out of date for 1 of 8 videos of the val .*g01_c01"
        ):
            found = self.usable(records, tmp_path / "ucf101")
        assert len(found) == 8
        assert found[0].stored is None

    def test_data_module_uses_the_manifest(self, records, tmp_path):
        root = tmp_path / "ucf101"
        size = {"clip_length": 4, "short_side": (40, 48), "crop_size": 32, "num_workers": 0}
        plain = UCF101DataModule(str(root), flip="none", **size)
        plain.setup("validate")
        expected = [plain.dataset("val")[i].video for i in range(8)]
        self.write(records, root)
        quick = UCF101DataModule(str(root), flip="none", **size)
        quick.setup("validate")
        assert all(record.stored for record in quick.dataset("val").records)
        assert all(torch.equal(quick.dataset("val")[i].video, expected[i]) for i in range(8))


def test_manifest_has_the_documented_columns(tmp_path):
    write_manifest(tmp_path / "m.csv", [ManifestRow("a", "b", "c")])
    with (tmp_path / "m.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {"id", "path", "label", "frames", "fps", "width", "height", "bytes", "error"} <= set(row)


def test_file_with_an_older_time_is_not_current(tmp_path):
    file = tmp_path / "v.avi"
    file.write_bytes(b"x")
    size, modified = state_of(str(file))
    row = ManifestRow("v", "v.avi", "", size, modified)
    assert is_current(row, str(file))
    os.utime(file, ns=(0, modified - 1))
    assert not is_current(row, str(file))

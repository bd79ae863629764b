"""`hcml data prepare` loses no video and no frame, and leaves nothing half written, whatever happens to it."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hcml_lightning.cli import main
from hcml_lightning.data import (
    KineticsDataModule,
    SomethingDataModule,
    UCF101DataModule,
    VideoFolderDataModule,
)
from hcml_lightning.data.decode import VideoError, probe, read_frames
from hcml_lightning.data.image_folder import probe_images, read_images
from hcml_lightning.data.video_index import VideoInfo, index_video
from hcml_lightning.tools.datasets.journal import Journal
from hcml_lightning.tools.datasets.prepare import COLUMNS, Shard, prepare
from hcml_lightning.tools.datasets.prepare_jobs import Job, convert
from hcml_lightning.tools.datasets.transcode import (
    Encoding,
    TargetError,
    copy_size,
    encode,
    make_copy,
)

LAYOUTS = {
    "ucf101": (UCF101DataModule, {"fold": 1}),
    "kinetics": (KineticsDataModule, {}),
    "something_v1": (SomethingDataModule, {"version": 1}),
    "something_v2": (SomethingDataModule, {"version": 2}),
    "folder": (VideoFolderDataModule, {}),
}


def words(layout: str, root: Path) -> list[str]:
    module, own = LAYOUTS[layout]
    options = [f"--data.{name}={value}" for name, value in own.items()]
    return ["--data", module.__name__, f"--data.root={root}", *options]


def run(layout: str, root: Path, output: Path, *more: str) -> int:
    given = [*words(layout, root), f"--output={output}", "--num_workers=1", *more]
    return main(["data", "prepare", *given])


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copy_is_the_same_dataset_frame_by_frame(synthetic_root, tmp_path, layout, capsys):
    root = synthetic_root(layout)
    assert run(layout, root, tmp_path / "copy", "--short_side=32") == 0
    assert "converted 16 of 16 videos" in capsys.readouterr().out
    module, own = LAYOUTS[layout]
    for split in ("train", "val"):
        first = module(str(root), **own).records(split)
        second = module(str(tmp_path / "copy"), **own).records(split)
        assert [r.label for r in first] == [r.label for r in second]
        assert [Path(r.video_id).stem for r in first] == [Path(r.video_id).stem for r in second]
        for record in second:
            info = probe(record.path)
            assert record.path.endswith(".mp4")
            assert (info.num_frames, info.height, info.width) == (12, 32, 42)
            assert info.fps == (12 if layout == "something_v1" else 25)
        # Each frame shows the same picture.
        large = read_frames(first[3].path, range(12)).permute(0, 3, 1, 2).float()
        small = read_frames(second[3].path, range(12)).permute(0, 3, 1, 2).float()
        scaled = torch.nn.functional.interpolate(large, (32, 42), mode="area")
        errors = (scaled[:, None] - small[None]).abs().mean((2, 3, 4))
        assert errors.argmin(1).tolist() == list(range(12))
        assert errors.diag().max() < 6
    assert not list((tmp_path / "copy").glob(".hcml*"))


def test_keep_images_copies_images_unchanged(synthetic_root, tmp_path):
    root = synthetic_root("something_v1")
    assert run("something_v1", root, tmp_path, "--keep_images") == 0
    record = SomethingDataModule(str(tmp_path), version=1).records("val")[0]
    old = SomethingDataModule(str(root), version=1).records("val")[0]
    assert Path(record.path).is_dir()
    info = probe_images(old.path)
    assert torch.equal(read_images(record.path, [0, 7], info), read_images(old.path, [0, 7], info))


def test_class_folders_keep_their_split(synthetic_root, tmp_path):
    video = next(synthetic_root("ucf101").rglob("*.avi"))
    for name in ("up", "down"):
        (tmp_path / "from" / name).mkdir(parents=True)
        for number in range(12):
            shutil.copy(video, tmp_path / "from" / name / f"{number}.avi")
    assert run("folder", tmp_path / "from", tmp_path / "to") == 0
    first, second = (
        [Path(r.path).stem for r in VideoFolderDataModule(str(tmp_path / name)).records("val")]
        for name in ("from", "to")
    )
    assert first == second


def with_sound(video: Path, path: Path) -> Path:
    """Copy a video to `path`, and add half a second of silence to it."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        (pictures,) = source.streams.video
        copied = target.add_stream_from_template(pictures)
        sound = target.add_stream("pcm_s16le", rate=8000)
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        target.mux([*sound.encode(frame), *sound.encode(None)])
    return path


def test_copies_have_short_gops_and_no_sound(synthetic_root, tmp_path):
    video = with_sound(next(synthetic_root("ucf101").rglob("*.avi")), tmp_path / "sound.avi")
    with av.open(str(video)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    content, count = encode(str(video), Encoding(gop=5))
    (tmp_path / "copy.mp4").write_bytes(content)
    index = index_video(str(tmp_path / "copy.mp4"))
    keys = [int((index.pts == pts).nonzero()[0][0]) for pts, _ in index.keys]
    assert (count, keys) == (12, [0, 5, 10])
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.name == "h264"
    assert encode(str(video), Encoding(gop=5)) == (content, count)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(640, 480, (342, 256)), (480, 640, (256, 342)), (133, 99, (132, 98)), (1, 1, (2, 2))],
)
def test_copy_size_scales_the_short_side_to_even_numbers(width, height, size):
    assert copy_size(VideoInfo(1, 25.0, width, height), 256) == size


def test_broken_videos_are_listed_and_tried_again(layout_copy, tmp_path, capsys):
    root = layout_copy("ucf101")
    videos = sorted((root / "videos").rglob("*.avi"))
    whole = [video.read_bytes() for video in videos[:2]]
    videos[0].write_bytes(whole[0][:-3000])
    videos[1].unlink()
    assert run("ucf101", root, tmp_path / "to") == 1
    said = capsys.readouterr().out
    assert "converted 14 of 16 videos" in said
    assert "the file is cut short" in said
    listed = rows(tmp_path / "to" / "hcml_prepared.csv")
    assert len(listed) == 16
    assert {Path(r["path"]).name for r in listed if r["error"]} == {v.name for v in videos[:2]}
    assert not [
        n for n in files(tmp_path / "to") if Path(n).stem in (videos[0].stem, videos[1].stem)
    ]
    for video, content in zip(videos, whole, strict=False):
        video.write_bytes(content)
    assert run("ucf101", root, tmp_path / "to") == 0
    assert not any(row["error"] for row in rows(tmp_path / "to" / "hcml_prepared.csv"))


def test_only_changed_videos_are_converted_again(layout_copy, tmp_path, capsys):
    root = layout_copy("kinetics")
    assert run("kinetics", root, tmp_path / "to") == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "to").rglob("*.mp4")}
    changed = next(root.rglob("*.mp4"))
    os.utime(changed)
    assert capsys.readouterr().out.startswith("converted 16 of 16 videos\n")
    assert run("kinetics", root, tmp_path / "to") == 0
    assert capsys.readouterr().out.startswith("converted 1 of 16 videos; already there: 15\n")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "to").rglob("*.mp4")}
    assert [p.name for p in before if before[p] != after[p]] == [changed.name]


def test_copies_of_an_interrupted_run_are_not_made_again(synthetic_root, tmp_path, monkeypatch):
    root = synthetic_root("kinetics")

    def broken_off(function, items, *_, **__):
        for item in list(items)[:5]:
            yield item, function(item)
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("hcml_lightning.tools.datasets.prepare.run_each", broken_off)
        with pytest.raises(KeyboardInterrupt):
            run("kinetics", root, tmp_path / "to")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "to").rglob("*.mp4")}
    assert len(before) == 5
    assert run("kinetics", root, tmp_path / "to") == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_shards_together_equal_the_whole_copy(synthetic_root, tmp_path):
    root = synthetic_root("something_v2")
    assert run("something_v2", root, tmp_path / "whole") == 0
    for part in ("2/3", "1/3", "3/3"):
        assert run("something_v2", root, tmp_path / "parts", f"--shard={part}") == 0
    whole, parts = files(tmp_path / "whole"), files(tmp_path / "parts")
    listed = [
        row for k in (1, 2, 3) for row in rows(tmp_path / "parts" / f"hcml_prepared_{k}-of-3.csv")
    ]
    assert sorted(row["path"] for row in listed) == sorted(
        row["path"] for row in rows(tmp_path / "whole" / "hcml_prepared.csv")
    )
    assert {n: c for n, c in whole.items() if not n.startswith("hcml_prepared")} == {
        n: c for n, c in parts.items() if not n.startswith("hcml_prepared")
    }


def test_whole_run_leaves_the_scratch_of_a_killed_shard_alone(synthetic_root, tmp_path):
    part = tmp_path / "to" / ".hcml_prepare" / "part_1-of-8"
    root = synthetic_root("kinetics")
    assert run("kinetics", root, tmp_path / "to", "--shard=1/8") == 0
    part.mkdir(parents=True)
    assert run("kinetics", root, tmp_path / "to") == 0
    assert part.is_dir()


def test_killed_run_resumes_and_makes_the_same_copy(synthetic_root, tmp_path):
    root = synthetic_root("something_v1")
    assert run("something_v1", root, tmp_path / "whole") == 0
    command = [sys.executable, "-m", "hcml_lightning", "data", "prepare"]
    command += [*words("something_v1", root), f"--output={tmp_path / 'cut'}", "--num_workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "cut").rglob("[0-9]*.mp4"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(
        probe(p).num_frames == 12
        for p in (tmp_path / "cut" / "20bn-something-something-v1").glob("*")
    )
    assert run("something_v1", root, tmp_path / "cut") == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard=4/3"], "--shard 4/3: expected i/n with i from 1 to n"),
        (["--shard=x"], "--shard x"),
        (["--gop=6"], "was started with"),
        (["--output=/proc/none"], "cannot be written"),
        (["--output={root}"], "is the dataset itself"),
        (["--output={root}/small"], "lies in the dataset"),
    ],
)
def test_wrong_options_are_named(synthetic_root, tmp_path, capsys, more, message):
    root = synthetic_root("ucf101")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "hcml_prepare.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        run("ucf101", root, tmp_path / "to", *[word.format(root=root) for word in more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_two_videos_with_the_same_copy_are_refused(layout_copy, tmp_path, capsys):
    root = layout_copy("folder")
    video = next((root / "train" / "up").glob("*.mp4"))
    shutil.copy(video, video.with_suffix(".mkv"))
    with pytest.raises(SystemExit):
        run("folder", root, tmp_path / "to")
    assert "would have the same copy" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_target_that_cannot_be_written_is_named_and_left_empty(
    synthetic_root, tmp_path, monkeypatch, number
):
    video = next(synthetic_root("ucf101").rglob("*.avi"))

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(TargetError, match=rf"copy\.mp4 cannot be written: {os.strerror(number)}"):
        make_copy(str(video), tmp_path / "copy.mp4", tmp_path / "scratch", Encoding())
    assert files(tmp_path) == {}


def test_a_dataset_that_is_gone_stops_the_run(tmp_path):
    job = Job(str(tmp_path / "gone" / "a.avi"), "a.avi", "a.mp4", tmp_path, tmp_path, Encoding())
    with (
        Journal(tmp_path / "journal", len(COLUMNS)) as journal,
        pytest.raises(
            FileNotFoundError, match=r"gone: the dataset disappeared while a\.avi was read"
        ),
    ):
        list(prepare([job], str(tmp_path / "gone"), journal, 1))
    assert convert(job)[-1] == "there is no such file"


def test_copy_that_lost_frames_is_discarded(synthetic_root, tmp_path, monkeypatch):
    video = next(synthetic_root("ucf101").rglob("*.avi"))
    content, _ = encode(str(video), Encoding())
    monkeypatch.setattr("hcml_lightning.tools.datasets.transcode.encode", lambda *_: (content, 13))
    with pytest.raises(VideoError, match="its copy has 12 frames instead of 13"):
        make_copy(str(video), tmp_path / "copy.mp4", tmp_path, Encoding())
    assert files(tmp_path) == {}


@pytest.mark.parametrize("tool", ["check", "prepare", "bench"])
def test_help_shows_no_classes_of_python(tool, capsys):
    with pytest.raises(SystemExit):
        main(["data", tool, "--help"])
    said = capsys.readouterr().out
    assert "(default: " in said
    assert not [word for word in ("<class", "null", "None", "type:", "class_path") if word in said]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["--data=UCF101DataModule", "--data.root=x"], "--output"),
        (["--data=UCF101DataModule"], "--data.root"),
    ],
)
def test_missing_options_are_named_as_they_are_typed(given, missing, capsys):
    with pytest.raises(SystemExit):
        main(["data", "prepare", *given])
    assert f"error: {missing} is missing; pass it" in capsys.readouterr().err


def test_shard_is_parsed_and_named():
    assert Shard.parse("3/8") == Shard(3, 8)
    assert (Shard(1, 1).name, Shard(3, 8).name) == ("", "_3-of-8")


def test_genuine_videos_keep_their_frames(shared_data, tmp_path):
    clips = shared_data / "clips"
    chosen = [sorted((clips / "hmdb51").rglob("*.avi"))[0], clips / "jester" / "25063.mp4"]
    chosen += [clips / "something-something-frames" / "22983"]
    chosen += [clips / "something-something-v2" / "166766.webm"]
    for number, source in enumerate(chosen):
        copy = tmp_path / f"{number}.mp4"
        assert make_copy(str(source), copy, tmp_path, Encoding()) == probe(source).num_frames
        old, new = probe(source), probe(copy)
        numbers = [0, old.num_frames // 2, old.num_frames - 1]
        large = read_frames(source, numbers).permute(0, 3, 1, 2).float()
        small = read_frames(copy, numbers).permute(0, 3, 1, 2).float()
        scaled = torch.nn.functional.interpolate(large, (new.height, new.width), mode="area")
        errors = (scaled[:, None] - small[None]).abs().mean((2, 3, 4))
        assert errors.argmin(1).tolist() == [0, 1, 2]
        assert errors.diag().max() < 5, source
    for source in sorted((clips / "bad").iterdir()):
        with pytest.raises(VideoError, match=source.name):
            make_copy(str(source), tmp_path / "bad.mp4", tmp_path, Encoding())
    assert not (tmp_path / "bad.mp4").exists()


def test_missing_copy_is_made_again(synthetic_root, tmp_path):
    root = synthetic_root("ucf101")
    assert run("ucf101", root, tmp_path / "to") == 0
    copy = next((tmp_path / "to").rglob("*.mp4"))
    content = copy.read_bytes()
    copy.unlink()
    assert run("ucf101", root, tmp_path / "to") == 0
    assert copy.read_bytes() == content


def test_failed_video_is_tried_again_even_if_a_copy_exists(synthetic_root, tmp_path):
    root = synthetic_root("ucf101")
    assert run("ucf101", root, tmp_path / "to") == 0
    copy = next((tmp_path / "to").rglob("*.mp4"))
    listing = tmp_path / "to" / "hcml_prepared.csv"
    changed = [
        row | {"error": "no answer"} if Path(row["path"]).stem == copy.stem else row
        for row in rows(listing)
    ]
    assert sum(bool(row["error"]) for row in changed) == 1
    with listing.open("w", newline="") as file:
        writer = csv.DictWriter(file, changed[0])
        writer.writeheader()
        writer.writerows(changed)
    copy.write_bytes(b"old")
    assert run("ucf101", root, tmp_path / "to") == 0
    assert copy.read_bytes() != b"old"
    assert not any(row["error"] for row in rows(listing))


def test_higher_crf_makes_smaller_copies(synthetic_root, tmp_path):
    root = synthetic_root("ucf101")
    for crf in (10, 40):
        assert run("ucf101", root, tmp_path / str(crf), f"--crf={crf}") == 0
    fine, coarse = (
        sum(path.stat().st_size for path in (tmp_path / str(crf)).rglob("*.mp4"))
        for crf in (10, 40)
    )
    assert coarse < 0.7 * fine

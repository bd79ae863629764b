"""`hcml data check` finds all faults, scans nothing twice, and resumes where it was cut off."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from hcml_lightning.cli import main
from hcml_lightning.data import VideoFolderDataModule
from hcml_lightning.data.manifest import MANIFEST_NAME, ManifestRow, digest_of, read_manifest
from hcml_lightning.data.video_file import VideoError
from hcml_lightning.data.video_index import index_video
from hcml_lightning.tools.datasets import check as check_tool
from hcml_lightning.tools.datasets.check import UNREAD
from hcml_lightning.tools.datasets.check_report import by_kind
from hcml_lightning.tools.datasets.journal import Journal
from hcml_lightning.tools.datasets.pool import Lost, run_each

CLASSES = {
    "ucf101": "UCF101DataModule",
    "kinetics": "KineticsDataModule",
    "something_v1": "SomethingDataModule",
    "something_v2": "SomethingDataModule",
    "folder": "VideoFolderDataModule",
}


def words(layout: str, root: Path) -> list[str]:
    version = [f"--data.version={layout[-1]}"] if layout.startswith("something") else []
    return ["--data", CLASSES[layout], f"--data.root={root}", "--data.flip=mirror", *version]


def check(layout: str, root: Path, *more: str) -> int:
    return main(["data", "check", *words(layout, root), "--num_workers=1", *more])


@pytest.mark.parametrize("layout", CLASSES)
def test_a_sound_dataset_is_scanned_once(layout_copy, layout, capsys):
    root = layout_copy(layout)
    assert check(layout, root) == 0
    said = capsys.readouterr().out
    assert "16 videos (8 train, 8 val), 8 classes" in said
    assert "16 good: 192 frames (12 / 12 / 12 min/median/max)" in said
    assert re.search(r", [1-9]\d*\.\d [kM]B, 64×48 \(16 videos\)", said)
    assert "newly checked: 16 of 16 videos" in said
    rows = read_manifest(root / MANIFEST_NAME)
    assert len(rows) == 16
    assert all(r.info.num_frames == 12 and r.label and r.size > 0 for r in rows.values())
    before = (root / MANIFEST_NAME).read_bytes()
    assert check(layout, root) == 0
    assert "newly checked: 0 of 16 videos" in capsys.readouterr().out
    assert (root / MANIFEST_NAME).read_bytes() == before
    assert not list(root.glob(".hcml*"))


def test_every_kind_of_fault_is_named(layout_copy, capsys):
    root = layout_copy("ucf101")
    videos = sorted((root / "videos").rglob("*.avi"))
    videos[0].write_bytes(videos[0].read_bytes()[:-3000])
    videos[1].write_bytes(b"")
    videos[2].write_text("version https://git-lfs.github.com/spec/v1\n")
    videos[3].unlink()
    lists = root / "ucfTrainTestlist"
    train = (lists / "trainlist01.txt").read_text().splitlines()
    test = (lists / "testlist01.txt").read_text().splitlines()
    more = [train[-1], f"{test[-1]} 8", "sneeze/v_sneeze_g01_c01.avi 9"]
    (lists / "trainlist01.txt").write_text("\n".join([*train, *more]))
    names = (lists / "classInd.txt").read_text().replace("counterclockwise", "around")
    (lists / "classInd.txt").write_text(names + "9 sneezing\n")
    for line in (lists / "trainlist01.txt", lists / "testlist01.txt"):
        line.write_text(line.read_text().replace("counterclockwise", "around"))
    (root / "videos" / "counterclockwise").rename(root / "videos" / "around")
    for video in (root / "videos" / "around").iterdir():
        video.rename(str(video).replace("counterclockwise", "around"))
    assert check("ucf101", root) == 1
    said = capsys.readouterr().out
    for kind in ("1 missing", "1 empty", "1 not a video", "1 cut short"):
        assert f"  {kind}:\n" in said
    assert "remove these videos, or train without them: --data.on_error skip\n" in said
    assert "'sneeze', which is not in classInd.txt" in said
    assert "the id 'v_out_g02_c01' more than once" in said
    assert "is in both training and validation" in said
    assert "  1 class of left or right without the mirrored class" in said
    assert "'clockwise'" in said
    assert "  1 class without any listed videos:\n    'sneezing'\n" in said
    assert "  2 classes whose videos are all broken:\n    'clockwise'\n    'around'\n" in said
    errors = {r.path for r in read_manifest(root / MANIFEST_NAME).values() if r.error}
    assert len(errors) == 4


def test_only_changed_videos_are_scanned_again(layout_copy, capsys):
    root = layout_copy("something_v1")
    assert check("something_v1", root) == 0
    folder = next((root / "20bn-something-something-v1").glob("3"))
    (folder / "00012.jpg").unlink()
    video = next((root / "20bn-something-something-v1").glob("5"))
    (video / "00003.jpg").write_bytes(b"no picture")
    capsys.readouterr()
    assert check("something_v1", root) == 1
    said = capsys.readouterr().out
    assert "newly checked: 2 of 16 videos" in said
    assert "00003.jpg: the image is damaged" in said
    rows = read_manifest(root / MANIFEST_NAME)
    assert rows["20bn-something-something-v1/3"].info.num_frames == 11


@pytest.mark.parametrize(
    ("layout", "pattern"), [("something_v2", "3.webm"), ("something_v1", "3/00004.jpg")]
)
def test_verify_finds_content_that_changed_in_silence(layout_copy, layout, pattern, capsys):
    root = layout_copy(layout)
    assert check(layout, root) == 0
    sound = (root / MANIFEST_NAME).read_bytes()
    file = next(root.rglob(pattern))
    stat, whole = file.stat(), file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    file.write_bytes(damaged)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(layout, root) == 0
    assert "newly checked: 0 of 16" in capsys.readouterr().out
    for more in (["--verify"], [], ["--verify"]):
        assert check(layout, root, *more) == 1
        said = capsys.readouterr().out
        verified = "verified: 15 of 16 videos checked earlier have the same content\n"
        assert (verified in said) == bool(more)
        assert "1 changed, with the same size and time:" in said
        assert "the content is not the one that was checked" in said
    (row,) = [row for row in read_manifest(root / MANIFEST_NAME).values() if row.error]
    assert Path(pattern).parts[0] in row.path
    assert row.stored() is None
    file.write_bytes(whole)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(layout, root, "--verify") == 0
    said = capsys.readouterr().out
    assert "newly checked: 1 of 16" in said
    assert "verified: 16 of 16" in said
    assert (root / MANIFEST_NAME).read_bytes() == sound


@pytest.mark.parametrize(
    ("lost", "why"), [("", ""), (Lost("no answer in 1 s"), " (no answer in 1 s)")]
)
def test_a_file_that_cannot_be_compared_is_not_called_changed(
    layout_copy, lost, why, capsys, monkeypatch
):
    root = layout_copy("something_v2")
    assert check("something_v2", root) == 0
    sound = (root / MANIFEST_NAME).read_bytes()
    with monkeypatch.context() as cut:
        cut.setattr(check_tool, "run_each", lambda _, paths, *__: ((p, lost) for p in paths))
        assert check("something_v2", root, "--verify") == 1
    said = capsys.readouterr().out
    assert f"{UNREAD}{why}" in said
    assert "16 could not be compared:" in said
    assert "verified: 0 of 16" in said
    assert "is not the one that was checked" not in said
    assert check("something_v2", root, "--verify") == 0
    assert (root / MANIFEST_NAME).read_bytes() == sound


def test_unreadable_file_is_named(layout_copy, monkeypatch):
    # The superuser may read everything, so the refusal is simulated.
    root = layout_copy("ucf101")
    video = next((root / "videos").rglob("*.avi"))
    assert digest_of(str(video)) != digest_of(str(video.parent / "none.avi")) == ""
    error = av.error.PermissionError(13, "Permission denied", str(video))

    def refuse(*_args, **_more):
        raise error

    monkeypatch.setattr(av, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(VideoError, match=r"\.avi: the file cannot be read \(Permission denied\)"):
        index_video(str(video))


def test_wrong_frame_count_in_the_header_is_noted_but_accepted(layout_copy, capsys):
    root = layout_copy("ucf101")
    video = next((root / "videos").rglob("*.avi"))
    content = video.read_bytes()
    place = content.index(b"strh") + 8 + 32
    assert content[place : place + 4] == (12).to_bytes(4, "little")
    video.write_bytes(content[:place] + (5).to_bytes(4, "little") + content[place + 4 :])
    assert check("ucf101", root) == 0
    assert "the header promises 5 frames, but there are 12" in capsys.readouterr().out


def test_webm_that_lost_its_last_frames_is_noted(layout_copy, capsys):
    root = layout_copy("something_v2")
    video = next(root.rglob("*.webm"))
    content = video.read_bytes()
    # The end of the last cluster; twelve frames of 25 a second are not long enough to call it broken.
    video.write_bytes(content[: len(content) * 3 // 4])
    check("something_v2", root)
    assert re.search(r"the header promises 0\.48 s|cut short", capsys.readouterr().out)


def test_frames_of_different_length_are_not_odd(layout_copy, capsys):
    root = layout_copy("folder")
    path = root / "train" / "up" / "slides.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for stamp in (0, 1, 2, 3, 4, 5, 300):
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert check("folder", root) == 0
    assert "the header promises" not in capsys.readouterr().out


def test_a_pipe_is_named_without_waiting_for_it(layout_copy, capsys):
    root = layout_copy("folder")
    os.mkfifo(root / "train" / "up" / "x.mp4")
    assert check("folder", root, "--limit_s=20") == 1
    assert "x.mp4: is a pipe" in capsys.readouterr().out


def test_a_video_that_was_given_up_is_examined_again(layout_copy, monkeypatch, capsys):
    root = layout_copy("folder")
    run = check_tool.run_each

    def give_up_first(function, items, *options):
        for number, (item, result) in enumerate(run(function, items, *options)):
            yield item, Lost("decoding it took longer than 900 s") if number == 0 else result

    with monkeypatch.context() as patch:
        patch.setattr(check_tool, "run_each", give_up_first)
        assert check("folder", root) == 1
    assert "took longer than 900 s" in capsys.readouterr().out
    assert check("folder", root) == 0
    assert "newly checked: 1 of 16 videos" in capsys.readouterr().out


def test_killed_check_resumes_and_writes_the_same_manifest(layout_copy, tmp_path):
    root = layout_copy("something_v2")
    assert check("something_v2", root) == 0
    expected = (root / MANIFEST_NAME).read_bytes()
    (root / MANIFEST_NAME).unlink()
    command = [
        sys.executable,
        "-m",
        "hcml_lightning",
        "data",
        "check",
        *words("something_v2", root),
    ]
    journal = root / f".{MANIFEST_NAME}.journal"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 100):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if journal.exists():
        # As if the last row had been cut by the end of the process.
        content = journal.read_bytes()
        journal.write_bytes(content[: len(content) - random.Random(0).randrange(1, 40)])
    assert check("something_v2", root) == 0
    assert (root / MANIFEST_NAME).read_bytes() == expected
    assert not journal.exists()


def test_shortcomings_of_a_folder_of_own_videos_are_reported(layout_copy, capsys):
    root = layout_copy("ucf101") / "videos"
    keep, *others = sorted(path for path in root.iterdir() if path.is_dir())
    for folder in others:
        shutil.rmtree(folder)
    for path in keep.iterdir():
        if path.suffix not in (".avi", ".mp4"):
            path.unlink()
    hidden = keep / ".git" / "config"
    hidden.parent.mkdir()
    for path in (keep / "notes.txt", root / "README.md", hidden):
        path.touch()
    words = ["data", "check", "-c", "data/video_folder.yaml", f"--data.root={root}"]
    assert main([*words, "--data.clip_length=1000"]) == 0
    said = capsys.readouterr().out
    assert "(2 train, 2 val), 1 class\n" in said.replace("(1 train, 1 val)", "(2 train, 2 val)")
    assert "enough for the self-supervised stages; recognition needs two or more classes" in said
    assert "with fewer frames than a clip spans (1999), so some frames repeat" in said
    place = root / keep.name
    assert (
        "  2 files without the ending of a video (.mp4, .avi, …), so not used:\n"
        f"    {root}/README.md\n    {place}/notes.txt\n" in said
    )


def test_copies_are_reported_without_failing_the_check(layout_copy, capsys):
    root = layout_copy("folder")
    first, *_ = sorted((root / "train").rglob("*.mp4"))
    for name in ("once", "again"):
        shutil.copy(first, root / "val" / first.parent.name / f"{name}.mp4")
    assert check("folder", root) == 0
    place = f"{first.parent.name}/"
    assert (
        "  1 video with copies, which are harmless only within one class of one split:\n"
        f"    train/{place}{first.name} = val/{place}again.mp4 = val/{place}once.mp4\n"
        in capsys.readouterr().out
    )


def test_class_is_reported_as_empty_or_as_broken_and_only_once(layout_copy, capsys):
    root = layout_copy("folder")
    (root / "train" / "hop").mkdir()
    for video in root.glob("*/up/*.mp4"):
        video.write_bytes(b"")
    assert main(["data", "check", "-c", "data/video_folder.yaml", f"--data.root={root}"]) == 1
    said = capsys.readouterr().out
    assert f"  1 error in the lists:\n    {root}/train/hop: the class folder contains no" in said
    assert "  1 class whose videos are all broken:\n    'up'\n" in said
    assert said.count("hop") == 1
    assert "listed" not in said


def test_files_in_a_linked_class_folder_are_listed_once(layout_copy, tmp_path, monkeypatch):
    root = layout_copy("folder")
    shutil.move(root / "train" / "up", tmp_path / "up")
    (root / "train" / "up").symlink_to(tmp_path / "up")
    for folder in ("up", "down"):
        (root / "train" / folder / "notes.txt").touch()
    monkeypatch.chdir(root)
    names = ["train/down/notes.txt", "train/up/notes.txt"]
    assert VideoFolderDataModule(".").other_files() == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "there is no such folder"),
        ("empty", "it contains neither videos nor class folders"),
        ("frames", "it contains neither videos nor class folders"),
    ],
)
def test_unusable_folder_is_refused_with_the_reason(tmp_path, given, message, capsys):
    (tmp_path / "empty").mkdir()
    # A single video, of frames, is no folder of videos.
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/1.jpg").touch()
    with pytest.raises(SystemExit):
        main(["data", "check", "-c", "data/video_folder.yaml", f"--data.root={tmp_path}/{given}"])
    assert f"root={tmp_path}/{given}: {message}; expected" in capsys.readouterr().err


def test_videos_without_labels_are_checked_too(layout_copy, capsys):
    root = layout_copy("folder") / "train" / "up"
    for path in root.glob("*.npz"):
        path.unlink()
    assert main(["data", "check", "-c", "data/video_folder.yaml", f"--data.root={root}"]) == 0
    # In the second check, the manifest is not reported as an unused file.
    assert main(["data", "check", "-c", "data/video_folder.yaml", f"--data.root={root}"]) == 0
    said = capsys.readouterr().out
    assert "1 video (1 train, 0 val), without labels" in said
    assert "newly checked: 1 of 1 video ->" in said
    assert "not used" not in said
    assert "--data.on_error" not in said


def test_missing_list_is_named(tmp_path, capsys):
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("1 a\n")
    with pytest.raises(SystemExit) as stopped:
        check("ucf101", tmp_path)
    assert stopped.value.code == 2
    assert "the list of the train split is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--data is missing; pass the data: -c configs/data/ucf101.yaml"),
        (
            ["--data.root", "somewhere"],
            "--data is missing; pass the data: -c configs/data/ucf101.yaml",
        ),
        (["-c", "none.yaml"], "config 'none.yaml' not found"),
        (["--data=UCF101DataModule", "--data.root=none"], "root=none: there is no such folder"),
        (["--data=UCF101DataModule", "--data.rot=x"], "rot"),
    ],
)
def test_wrong_options_are_named(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", *given])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_data_tool_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "chek"])
    assert "unknown tool 'chek'" in capsys.readouterr().err


class TestJournal:
    def test_incomplete_last_row_is_dropped(self, tmp_path):
        file = tmp_path / "journal"
        with Journal(file, 2) as journal:
            journal.add(["a", "1\n2"])
            journal.add(['"b', ""])
        whole = file.read_bytes()
        file.write_bytes(whole + b"c,3")
        with Journal(file, 2) as journal:
            assert journal.rows == [["a", "1\n2"], ['"b', ""]]
            journal.add(["d", "4"])
        with Journal(file, 2) as journal:
            assert journal.rows[2:] == [["d", "4"]]

    def test_journal_in_use_cannot_be_opened_again(self, tmp_path):
        with (
            Journal(tmp_path / "journal", 2),
            pytest.raises(BlockingIOError, match="is in use"),
            Journal(tmp_path / "journal", 2),
        ):
            pass


def test_timeout_is_listed_under_crashed_or_took_too_long():
    rows = [ManifestRow("a", "a", "", error="decoding it took longer than 5 s")]
    assert by_kind(rows)["crashed or took too long"] == rows


def test_items_whose_process_dies_or_hangs_are_reported_lost():
    # abs, os._exit and time.sleep take one argument, and any process can import them.
    assert dict(run_each(abs, [-1, -2, -3], 2)) == {-1: 1, -2: 2, -3: 3}
    ((_, lost),) = run_each(os._exit, [3], 1)
    assert lost == Lost("decoding it ended the process (3)")
    ((_, lost),) = run_each(time.sleep, [60], 1, limit_s=0.2)
    assert lost == Lost("decoding it took longer than 0.2 s")
    with pytest.raises(ValueError, match="non-negative"):
        list(run_each(time.sleep, [-1], 1))


def test_process_that_dies_between_two_items_is_replaced():
    results = run_each(abs, [-1, -2, -3], 1)
    found = [next(results)]
    for idle in multiprocessing.active_children():
        idle.kill()
        idle.join()
    assert dict([*found, *results]) == {-1: 1, -2: 2, -3: 3}


def test_frame_count_in_the_header_may_be_off_by_one(layout_copy, capsys):
    root = layout_copy("ucf101")
    videos = sorted((root / "videos").rglob("*.avi"))
    for video, count in zip(videos, (11, 10), strict=False):
        content = video.read_bytes()
        place = content.index(b"strh") + 8 + 32
        video.write_bytes(content[:place] + count.to_bytes(4, "little") + content[place + 4 :])
    assert check("ucf101", root) == 0
    said = capsys.readouterr().out
    assert "the header promises 10 frames, but there are 12" in said
    assert "the header promises 11" not in said


def test_new_content_of_the_same_size_is_scanned(layout_copy, capsys):
    root = layout_copy("ucf101")
    assert check("ucf101", root) == 0
    video = next((root / "videos").rglob("*.avi"))
    size = video.stat().st_size
    video.write_bytes(b"no video" + bytes(size - 8))
    capsys.readouterr()
    assert check("ucf101", root) == 1
    assert "newly checked: 1 of 16 videos" in capsys.readouterr().out


def test_fault_in_a_list_alone_fails_the_check(layout_copy):
    root = layout_copy("ucf101")
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text().rstrip() + "\nsneeze/v_sneeze_g01_c01.avi 9\n")
    assert check("ucf101", root) == 1


def test_label_of_a_known_video_is_updated_from_the_lists(layout_copy, capsys):
    root = layout_copy("something_v1")
    assert check("something_v1", root) == 0
    path = root / "something-something-v1-train.csv"
    lines = path.read_text().splitlines()
    number, label = lines[0].split(";")
    other = next(line.split(";")[1] for line in lines if line.split(";")[1] != label)
    path.write_text("\n".join([f"{number};{other}", *lines[1:]]))
    capsys.readouterr()
    check("something_v1", root)
    assert "newly checked: 0 of 16 videos" in capsys.readouterr().out
    row = read_manifest(root / MANIFEST_NAME)[f"20bn-something-something-v1/{number}"]
    assert row.label == other

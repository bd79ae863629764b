"""Untrusted datasets: malformed lists, names and links that lead outside, files that are traps."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from PIL import Image

from hcml_lightning import (
    KineticsDataModule,
    SomethingDataModule,
    UCF101DataModule,
    VideoFolderDataModule,
)
from hcml_lightning.data.annotations import walk_videos
from hcml_lightning.data.decode import VideoError, check_video, probe
from hcml_lightning.data.links import outside
from hcml_lightning.data.lists import read_json, read_lines, read_table, what_is_wrong_with

HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.fixture
def ucf(synthetic_root: Callable[[str], Path], tmp_path: Path) -> Path:
    """A dataset whose lists may be changed; its videos are linked, as on clusters."""
    root = tmp_path / "ucf"
    root.mkdir()
    (root / "videos").symlink_to(synthetic_root("ucf101") / "videos")
    shutil.copytree(synthetic_root("ucf101") / "ucfTrainTestlist", root / "ucfTrainTestlist")
    return root


def rewrite(root: Path, change: Callable[[bytes], bytes]) -> None:
    for path in (root / "ucfTrainTestlist").iterdir():
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\xef\xbb\xbf\r\n" + text.replace(b"\n", b" \r\n\r\n") + b"\r\n",
    ],
    ids=["BOM", "CRLF", "CR", "all and empty lines"],
)
def test_line_ends_and_byte_order_marks_change_nothing(ucf, change):
    before = UCF101DataModule(str(ucf))
    records = before.records("train")
    rewrite(ucf, change)
    after = UCF101DataModule(str(ucf))
    assert (after.class_names, after.records("train")) == (before.class_names, records)


def test_kinetics_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "train.csv").write_text("\ufeff" + HEAD + '"a, b",id,1,2,train,0\r\n')
    assert KineticsDataModule(str(tmp_path)).class_names == ["a, b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"a\nCaf\xe9\n", r"line 2: the byte 0xe9 is not valid UTF-8"),
        (b"a\nb\0c\n", "line 2: contains a NUL byte"),
        (b"a\n" + b"x" * 10_000_000, "line 2: has 10000000 characters"),
    ],
)
def test_malformed_list_is_named(content, message, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"list\.txt.*{message}"):
        read_lines(path)


def test_link_to_the_folder_of_all_classes_is_not_followed(tmp_path):
    for name in ("up", "down"):
        (tmp_path / name).mkdir()
        a_video(tmp_path / name / f"{name}.mp4")
    (tmp_path / "up" / "all").symlink_to(tmp_path)
    assert list(walk_videos(tmp_path / "up")) == [str(tmp_path / "up" / "up.mp4")]


def test_list_that_is_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_lines(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "expected a mapping"),
    ],
)
def test_malformed_json_is_named(text, message, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json: {message}"):
        read_json(tmp_path / "x.json", dict)


def test_csv_with_an_unclosed_quote_is_named(tmp_path):
    (tmp_path / "x.csv").write_text('a,b\n1,"2\n' + "3,4\n" * 50_000)
    with pytest.raises(ValueError, match=r"x\.csv, line \d+: is not valid CSV"):
        read_table(tmp_path / "x.csv", {"a", "b"})


LEADS_OUT = "points outside the dataset folder"


@pytest.mark.parametrize("name", ["../x.avi", "a/../../x.avi", "/etc/passwd", "..", "a/.."])
def test_names_that_lead_outside_are_refused(name):
    assert LEADS_OUT in what_is_wrong_with(name)


@pytest.mark.parametrize("name", ["a..b/..c.avi", "...", "a/b c.avi", "x" * 255])
def test_names_that_only_seem_to_lead_outside_are_accepted(name):
    assert what_is_wrong_with(name) == ""


def test_ucf101_lists_cannot_lead_outside(ucf, tmp_path):
    """Neither by the name of a file, nor by a class called `..`."""
    secret = tmp_path / "secret.avi"
    secret.write_bytes(b"")
    for classes, line in (
        ("1 left\n", "left/../../../secret.avi 1\n"),
        ("1 ..\n", "../secret 1\n"),
    ):
        (ucf / "ucfTrainTestlist" / "classInd.txt").write_text(classes)
        (ucf / "ucfTrainTestlist" / "trainlist01.txt").write_text(line)
        data = UCF101DataModule(str(ucf))
        with pytest.raises(ValueError, match=LEADS_OUT):
            data.records("train")
        with data.list_faults() as faults:
            assert data.records("train") == []
        assert len(faults) == 1
        with pytest.raises(ValueError, match=LEADS_OUT):
            data.records("train")


@pytest.mark.parametrize("video", ["../../secret", "/etc/passwd"])
def test_something_and_kinetics_lists_cannot_lead_outside(video, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "labels.json").write_text('{"up": "0"}')
    (tmp_path / "train.json").write_text(json.dumps([{"id": video, "template": "up"}]))
    with pytest.raises(ValueError, match=LEADS_OUT):
        SomethingDataModule(str(tmp_path)).records("train")
    (tmp_path / "train.csv").write_text(f"{HEAD}up,{video},1,2,train,0\n")
    with pytest.raises(ValueError, match=LEADS_OUT):
        KineticsDataModule(str(tmp_path)).records("train")


def test_links_out_of_the_root_are_followed_unless_forbidden(ucf):
    UCF101DataModule(str(ucf), flip="none").setup("fit")
    data = UCF101DataModule(str(ucf), flip="none", follow_links=False)
    with pytest.raises(
        ValueError, match=r"links point outside .*videos/.* -> .* and 13 more;.*--data.follow_links"
    ):
        data.setup("fit")
    (ucf / "videos").unlink()
    lists = ucf / "ucfTrainTestlist"
    lists.rename(ucf.parent / "lists")
    lists.symlink_to(ucf.parent / "lists")
    with pytest.raises(ValueError, match=r"outside the dataset folder: .*classInd\.txt"):
        UCF101DataModule(str(ucf), follow_links=False)


def test_links_within_the_root_do_not_lead_outside(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    real = tmp_path / "root" / "a" / "1.avi"
    real.write_bytes(b"")
    inside = tmp_path / "root" / "2.avi"
    inside.symlink_to(real)
    (tmp_path / "other").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "a" / "3.png").symlink_to("/etc/passwd")
    root = str(tmp_path / "other")
    assert list(outside(root, [f"{root}/a/1.avi", f"{root}/2.avi"])) == []
    # A link among the images of a folder of frames counts as well.
    assert list(outside(root, [f"{root}/a"])) == [(f"{real.parent}/3.png", "/etc/passwd")]


def test_link_to_a_parent_folder_does_not_loop(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.avi").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(walk_videos(tmp_path)) == [f"{tmp_path}/a/1.avi"]


def test_linked_folder_is_followed_by_default_and_refused_on_request(tmp_path):
    (tmp_path / "root" / "left").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.avi").write_bytes(b"")
    (tmp_path / "root" / "left" / "more").symlink_to(tmp_path / "elsewhere")
    root = str(tmp_path / "root")
    assert [r.path for r in VideoFolderDataModule(root).records("train")] == [
        f"{root}/left/more/1.avi"
    ]
    (tmp_path / "root" / "left" / "2.avi").write_bytes(b"")
    data = VideoFolderDataModule(root, follow_links=False)
    with pytest.raises(ValueError, match=r"outside the dataset folder: [^,]*/more"):
        data.setup("fit")


@pytest.mark.parametrize("names", [["a", "a"], [" "], ["a\0b"], ["\ud800"]])
def test_impossible_class_names_are_refused(names, tmp_path):
    with pytest.raises(ValueError, match="in the class list"):
        VideoFolderDataModule(str(tmp_path), class_names=names)


# ── videos that are traps ──


def a_video(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["trap.mp4", "trap.avi", "trap.m3u8"])
def test_a_playlist_reads_no_other_file(name, tmp_path):
    """FFmpeg itself would open the files that the text names, wherever they are."""
    secret = a_video(tmp_path / "secret.ts")
    texts = {
        "concat": "ffconcat version 1.0\nfile secret.ts\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    }
    trap = tmp_path / name
    opened = 0
    for text in texts.values():
        trap.write_text(text)
        with pytest.raises(VideoError, match="is a playlist, which names other files"):
            check_video(trap)
        try:
            with av.open(str(trap)) as container:
                opened += sum(1 for _ in container.decode(video=0))
        except av.error.FFmpegError:
            pass
    assert opened > 0, "FFmpeg itself would not fall for it"


def test_file_name_like_a_url_is_read_as_a_file(tmp_path, monkeypatch):
    a_video(tmp_path / "x.mp4").rename(tmp_path / "pipe:x.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("pipe:x.mp4").num_frames == 4


def test_pipe_in_place_of_a_video_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    with pytest.raises(VideoError, match="is a pipe"):
        probe(tmp_path / "x.mp4")
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames" / "1.jpg")
    with pytest.raises(VideoError, match="is not a file"):
        probe(tmp_path / "frames")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
    content = bytearray((tmp_path / "1.png").read_bytes())
    for side in (9_000, 30_000):
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
        (tmp_path / "1.png").write_bytes(content)
        with pytest.raises(VideoError, match=r"1\.png: .*(fill the memory|decompression bomb)"):
            probe(tmp_path)


def test_postscript_named_like_an_image_is_refused(tmp_path):
    (tmp_path / "1.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with Image.open(tmp_path / "1.jpg") as image:
        assert image.format == "EPS", "Pillow itself would not take it for PostScript"
    # Pillow only opened it above, which for PostScript starts no program yet.
    with pytest.raises(VideoError, match="not a JPEG or PNG"):
        probe(tmp_path)

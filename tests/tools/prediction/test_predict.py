import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hcml_lightning.cli import main
from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.synthetic import CLASSES
from hcml_lightning.tools.prediction import annotate
from hcml_lightning.tools.prediction.predicting import copy_paths, find_videos, predict
from hcml_lightning.tools.prediction.prediction_files import Prediction, open_results
from hcml_lightning.tools.prediction.recognizer import Recognition, Recognizer


@pytest.fixture(scope="module")
def videos(synthetic_root: Callable[[str], Path]) -> list[Path]:
    """Two videos of 12 frames and 64 × 48 pixels."""
    return sorted((synthetic_root("ucf101") / "videos" / "left").glob("*.avi"))


def run(words: list[str | Path]) -> int:
    return main(["predict", "--num_workers=0", "--device=cpu", *map(str, words)])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_good_files_are_recognised_and_broken_ones_listed(
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(videos[0], mine / "good.avi")
    (mine / "cut.avi").write_bytes(videos[0].read_bytes()[:1500])
    output = tmp_path / "out" / "found.csv"
    checkpoint = checkpoints["recognition"]
    assert run(["--ckpt_path", checkpoint, mine, videos[1], "--output", output]) == 0
    rows = read_csv(output)
    good = [row for row in rows if "good.avi" in row["video"]]
    assert [row["rank"] for row in good] == ["1", "2", "3", "4", "5"]
    assert {row["class"] for row in good} < set(CLASSES)
    probabilities = [float(row["probability"]) for row in good]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1
    assert {(row["start"], row["end"]) for row in good} == {("0.000", f"{12 / 25:.3f}")}
    [broken] = [row for row in rows if row["error"]]
    assert "cut.avi" in broken["video"]
    assert len([row for row in rows if videos[1].name in row["video"]]) == 5
    said = capsys.readouterr().out
    assert said.endswith(f"recognised 2 of 3 videos -> {output}, which also lists the errors\n")
    assert "cut.avi" in said
    assert [path.name for path in output.parent.iterdir()] == ["found.csv"]


def test_windows_are_written_as_json_and_as_annotated_videos(
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    folder = videos[0].parent
    monkeypatch.chdir(tmp_path)
    words = ["--ckpt_path", checkpoints["recognition"], f"{folder}/*", "--output=found.json"]
    words += ["--window=0.32", "--hop=0.12", "--top_k=2", "--annotate=seen"]
    rows: list[int] = []
    draw = annotate.draw_names

    def count_and_draw(image: Any, top: Any) -> None:
        rows.append(len(top))
        draw(image, top)

    monkeypatch.setattr(annotate, "draw_names", count_and_draw)
    assert run(words) == 0
    assert set(rows) == {2}
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["class_names"] == list(CLASSES)
    assert [entry["video"] for entry in content["videos"]] == [str(video) for video in videos]
    for entry in content["videos"]:
        assert entry["error"] is None
        times = [(span["start"], span["end"]) for span in entry["spans"]]
        # 12 frames, 25 in a second: windows of 8 frames, 3 apart, the last one at the end.
        assert times == [(0.0, 0.32), (0.12, 0.44), (0.16, 0.48)]
        for span in entry["spans"]:
            assert len(span["classes"]) == 2
            assert span["classes"][0]["probability"] >= span["classes"][1]["probability"]
    seen = sorted((tmp_path / "seen").iterdir())
    assert [path.name for path in seen] == [f"{video.stem}.annotated.mp4" for video in videos]
    info = probe(seen[0])
    assert (info.num_frames, info.fps, info.width, info.height) == (12, 25.0, 64, 48)
    drawn, plain = (read_frames(path, [5]).float() for path in (seen[0], videos[0]))
    # The names are drawn at the top; below them, only compression changes the picture.
    assert (drawn - plain)[:, :16].abs().mean() > 3 * (drawn - plain)[:, -8:].abs().mean()


def test_video_that_breaks_off_keeps_the_windows_before(
    checkpoints: dict[str, Path], videos: list[Path], monkeypatch: pytest.MonkeyPatch
):
    recognizer = Recognizer.from_checkpoint(checkpoints["recognition"])
    monkeypatch.setattr("hcml_lightning.tools.prediction.recognizer.FRAMES_AT_A_TIME", 4)
    path = str(videos[0])
    [whole] = predict(recognizer, [path], (0.32, 0.12))
    assert len(whole.found) == 3
    frames = "hcml_lightning.tools.prediction.spans.read_frames"

    def damaged(path: str, numbers: list[int]) -> torch.Tensor:
        return read_frames(path, numbers if max(numbers) < 9 else [99])

    monkeypatch.setattr(frames, damaged)
    [part] = predict(recognizer, [path], (0.32, 0.12))
    assert len(part.found) == 1
    assert torch.equal(part.found[0].probability, whole.found[0].probability)
    assert "frame 99" in part.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ckpt_path=flow"], "was written by FlowTask"),
        (["--ckpt_path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["--output=found.txt"], "must end in .csv or .json"),
        (["--hop=1"], "pass --window too"),
        (["--window=0"], "--window must be a finite number of seconds greater than 0, got 0.0"),
        (
            ["--window=1", "--hop=0"],
            "--hop must be a finite number of seconds greater than 0, got 0.0",
        ),
        (["--window=inf"], "--window must be a finite number of seconds greater than 0, got inf"),
        (["--device=gpu"], "'gpu' is not available here; expected auto, cpu, cuda or cuda:N"),
        (["--num_workers=-1"], "--num_workers must be at least 0"),
        (["none/*.mp4"], "none/*.mp4 does not exist"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    words: list[str],
    message: str,
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    given = [f"--ckpt_path={checkpoints['recognition']}", str(videos[0]), *words]
    with pytest.raises(SystemExit) as stopped:
        run([word.replace("=flow", f"={checkpoints['flow']}") for word in given])
    assert message in f"{stopped.value.code} {capsys.readouterr().err}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "export"])
def test_help_shows_only_defaults_that_are_set(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert "(default: " in said
    assert "None" not in said


def test_debug_raises_the_error_itself(checkpoints: dict[str, Path]):
    with pytest.raises(ValueError, match="was written by FlowTask"):
        run(["--debug", "--ckpt_path", checkpoints["flow"], "x.mp4"])


def test_find_videos_accepts_paths_folders_and_patterns(videos: list[Path], tmp_path: Path):
    odd = tmp_path / "what [1080p].avi"
    shutil.copy(videos[0], odd)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    shutil.copy(videos[0], below / "c.avi")
    assert find_videos([str(odd), f"{tmp_path}/**/*.avi"]) == [str(odd), str(below / "c.avi")]
    assert find_videos([str(odd), f"{tmp_path}/./{odd.name}"]) == [str(odd)]
    assert find_videos([str(tmp_path)]) == [str(below / "c.avi"), str(odd)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither videos nor frames"):
        find_videos([str(tmp_path / "empty")])


def test_csv_has_no_more_ranks_than_classes(tmp_path: Path):
    found = Recognition(0.0, 1.5, torch.tensor([0.25, 0.75]), ("up", "down"))
    with open_results(tmp_path / "p.csv", found.class_names, top_k=5) as write:
        write(Prediction("a,b.avi", [found], ""))
    assert [tuple(row.values()) for row in read_csv(tmp_path / "p.csv")] == [
        ("a,b.avi", "0.000", "1.500", "1", "down", "0.750000", ""),
        ("a,b.avi", "0.000", "1.500", "2", "up", "0.250000", ""),
    ]


def test_an_annotated_copy_never_replaces_a_video(
    checkpoints: dict[str, Path], videos: list[Path], tmp_path: Path
):
    mine = tmp_path / "mine"
    mine.mkdir()
    video = shutil.copy(videos[0], mine / "a.annotated.mp4")
    shutil.copy(videos[0], mine / "a.mp4")
    (tmp_path / "link").symlink_to(mine)
    words = ["--ckpt_path", checkpoints["recognition"], "--output", tmp_path / "p.csv"]
    with pytest.raises(SystemExit, match=r"--annotate .*link: the copy of .* would overwrite"):
        run([*words, mine, "--annotate", tmp_path / "link"])
    assert video.read_bytes() == videos[0].read_bytes()
    assert not (tmp_path / "p.csv").exists()


def test_each_copy_has_a_name_of_its_own(tmp_path: Path):
    videos = ["1/a.mp4", "1/a_2.mp4", "2/a.mp4", "3/a.avi"]
    names = [path.name for path in copy_paths(videos, tmp_path).values()]
    assert names == [f"{name}.annotated.mp4" for name in ("a", "a_2", "a_3", "a_4")]


@pytest.mark.parametrize("end", [KeyboardInterrupt, KeyError])
@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_results_found_before_a_failure_are_kept(
    end: type[BaseException],
    suffix: str,
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def breaks_off(recognizer: Recognizer, *_: object) -> Iterator[Prediction]:
        share = 1 / len(CLASSES)
        probability = torch.full((len(CLASSES),), share)
        for name in ("a.avi", "b.avi"):
            yield Prediction(name, [Recognition(0, 1, probability, recognizer.class_names)], "")
        # A kill would leave the same.
        assert "b.avi" in kept.read_text()
        raise end

    kept = tmp_path / f"p.partial.{suffix}"
    monkeypatch.setattr("hcml_lightning.tools.prediction.predicting.predict", breaks_off)
    words = ["--ckpt_path", checkpoints["recognition"], videos[0]]
    with pytest.raises(end):
        run([*words, "--output", tmp_path / f"p.{suffix}"])
    assert f"the results of 2 videos are kept in {kept}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [kept]
    if suffix == "csv":
        assert {row["video"] for row in read_csv(kept)} == {"a.avi", "b.avi"}
    else:
        content = json.loads(kept.read_text())
        assert [entry["video"] for entry in content["videos"]] == ["a.avi", "b.avi"]


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_partial_results_of_earlier_runs_are_never_replaced(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, first = tmp_path / f"p.{suffix}", tmp_path / f"p.partial.{suffix}"
    first.write_text("ten hours")
    found = Recognition(0.0, 1.5, torch.tensor([0.25, 0.75]), ("up", "down"))

    def run(*videos: str, end: type[Exception] | None = None) -> None:
        with open_results(path, found.class_names, top_k=5) as write:
            for video in videos:
                write(Prediction(video, [found], ""))
            if end is not None:
                raise end

    with pytest.raises(KeyError):
        run("a.avi", end=KeyError)
    second = tmp_path / f"p.partial_2.{suffix}"
    left = second.read_bytes()
    assert b"a.avi" in left
    run("a.avi", "b.avi")
    assert b"b.avi" in path.read_bytes()
    assert (first.read_text(), second.read_bytes()) == ("ten hours", left)
    assert len(list(tmp_path.iterdir())) == 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{first} is kept")
    assert [line.split(" is kept")[0] for line in said[-2:]] == [str(first), str(second)]


@pytest.mark.parametrize(
    ("output", "message"), [("file/p.csv", "exists: .*/file'"), ("folder.csv", "is a folder")]
)
def test_unwritable_output_is_refused_before_any_video_is_read(
    output: str,
    message: str,
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(
        "hcml_lightning.tools.prediction.predicting.predict", lambda *_: pytest.fail("looked")
    )
    with pytest.raises(SystemExit, match=message):
        run(["--ckpt_path", checkpoints["recognition"], videos[0], "--output", tmp_path / output])


def test_windows_overlap_by_half_unless_told_otherwise(
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    output = tmp_path / "found.json"
    words = ["--ckpt_path", checkpoints["recognition"], videos[0], "--window=0.16"]
    assert run([*words, "--output", output]) == 0
    assert capsys.readouterr().out == f"recognised 1 of 1 video -> {output}\n"
    (entry,) = json.loads(output.read_text())["videos"]
    assert [span["start"] for span in entry["spans"]] == [0.0, 0.08, 0.16, 0.24, 0.32]


def test_copy_under_another_name_is_reported(
    checkpoints: dict[str, Path],
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shutil.copy(videos[0], tmp_path / folder / "a.avi")
    words = ["--ckpt_path", checkpoints["recognition"], "--output", tmp_path / "p.csv"]
    run([*words, "--annotate", tmp_path / "drawn", tmp_path / "x", tmp_path / "y"])
    told = f"a_2.annotated.mp4 is the copy of {tmp_path / 'y' / 'a.avi'}"
    assert [line for line in capsys.readouterr().out.splitlines() if "is the copy" in line] == [
        told
    ]
    assert len(list((tmp_path / "drawn").iterdir())) == 2

"""[**known motion → folders and lists** → video file → batch → model → loss → metric]

The folders and the lists of the real datasets, which `write_synthetic` imitates.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcml_lightning.data.moving_shapes import CLASSES
from hcml_lightning.storage import write_whole


@dataclass(frozen=True)
class SyntheticVideo:
    """One video to be written.

    Attributes:
        label: class index.
        number: number among all videos.
        place: number within its class.
        is_train: whether it is listed for training.
    """

    label: int
    number: int
    place: int
    is_train: bool

    @property
    def name(self) -> str:
        """Name of the class."""
        return CLASSES[self.label]


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    _write_text(path, "".join(f"{line}\n" for line in lines))


def _ucf101_path(video: SyntheticVideo) -> Path:
    return Path("videos", video.name, f"v_{video.name}_g{video.place + 1:02d}_c01.avi")


def _ucf101_lists(root: Path, videos: list[SyntheticVideo]) -> None:
    lists = root / "ucfTrainTestlist"
    classes = [f"{label + 1} {name}" for label, name in enumerate(CLASSES)]
    _write_lines(lists / "classInd.txt", classes)
    total = 1 + max(video.place for video in videos)
    num_val = sum(not video.is_train for video in videos) // len(CLASSES)
    for fold in (1, 2, 3):
        # Each fold tests on other videos, as far as there are enough.
        tested = {((fold - 1) * num_val + k) % total for k in range(num_val)}
        test = [v for v in videos if v.place in tested]
        train = [v for v in videos if v.place not in tested]
        names = [_ucf101_path(v).relative_to("videos").as_posix() for v in test]
        _write_lines(lists / f"testlist{fold:02d}.txt", names)
        names = [f"{_ucf101_path(v).relative_to('videos').as_posix()} {v.label + 1}" for v in train]
        _write_lines(lists / f"trainlist{fold:02d}.txt", names)


def _kinetics_path(video: SyntheticVideo) -> Path:
    side = "train" if video.is_train else "val"
    return Path(side, video.name, f"synth{video.number:06d}_000010_000020.mp4")


def _kinetics_lists(root: Path, videos: list[SyntheticVideo]) -> None:
    for side in ("train", "val", "test"):
        rows = []
        for video in videos:
            if video.is_train == (side == "train"):
                row = [f"synth{video.number:06d}", "10", "20", side]
                # The labels of the official test list are withheld.
                rows.append(row if side == "test" else [video.name, *row, "1"])
        header = ["youtube_id", "time_start", "time_end", "split"]
        header = header if side == "test" else ["label", *header, "is_cc"]
        _write_lines(root / f"{side}.csv", [",".join(row) for row in [header, *rows]])


def _something_v1_path(video: SyntheticVideo) -> Path:
    return Path("20bn-something-something-v1", str(video.number + 1))


def _something_v1_lists(root: Path, videos: list[SyntheticVideo]) -> None:
    prefix = "something-something-v1"
    _write_lines(root / f"{prefix}-labels.csv", CLASSES)
    for side in ("train", "validation"):
        chosen = [video for video in videos if video.is_train == (side == "train")]
        entries = [f"{video.number + 1};{video.name}" for video in chosen]
        _write_lines(root / f"{prefix}-{side}.csv", entries)
    tested = [str(video.number + 1) for video in videos if not video.is_train]
    _write_lines(root / f"{prefix}-test.csv", tested)


def _something_v2_path(video: SyntheticVideo) -> Path:
    return Path("20bn-something-something-v2", f"{video.number + 1}.webm")


def _something_v2_lists(root: Path, videos: list[SyntheticVideo]) -> None:
    prefix = "something-something-v2"
    labels = {name: str(label) for label, name in enumerate(CLASSES)}
    _write_text(root / f"{prefix}-labels.json", json.dumps(labels))
    for side in ("train", "validation"):
        entries = [
            {"id": str(video.number + 1), "template": f"[{video.name}]"}
            for video in videos
            if video.is_train == (side == "train")
        ]
        _write_text(root / f"{prefix}-{side}.json", json.dumps(entries))
    tested = [{"id": str(video.number + 1)} for video in videos if not video.is_train]
    _write_text(root / f"{prefix}-test.json", json.dumps(tested))


def _folder_path(video: SyntheticVideo) -> Path:
    return Path("train" if video.is_train else "val", video.name, f"{video.place:04d}.mp4")


def _no_lists(root: Path, videos: list[SyntheticVideo]) -> None:
    """Write nothing, because class folders need no lists."""


# For each layout: the function that gives the path of a video, and the one that writes the lists.
LAYOUTS: dict[
    str, tuple[Callable[[SyntheticVideo], Path], Callable[[Path, list[SyntheticVideo]], None]]
] = {
    "ucf101": (_ucf101_path, _ucf101_lists),
    "kinetics": (_kinetics_path, _kinetics_lists),
    "something_v1": (_something_v1_path, _something_v1_lists),
    "something_v2": (_something_v2_path, _something_v2_lists),
    "folder": (_folder_path, _no_lists),
}

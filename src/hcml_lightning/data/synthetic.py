"""[**known motion → video file** → batch → model → loss → metric]

Videos of shapes in known motion, written as real video files in the folder layout of any dataset of this package, so
that every stage of training can be run, and its flow measured, without data.

The motion is stored beside each video, as `<name>.motion.npz`: from it `true_flow` gives the flow between any two
frames.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from hcml_lightning.data.moving_shapes import CLASSES, Motion, render

__all__ = ["CLASSES", "motion_path", "true_flow", "write_synthetic"]

Layout = Literal["ucf101", "kinetics", "something_v1", "something_v2", "folder"]


@dataclass(frozen=True)
class _Video:
    """One video to be written: its class, and its number among all and within its class."""

    label: int
    number: int
    place: int
    is_train: bool

    @property
    def name(self) -> str:
        return CLASSES[self.label]


def write_synthetic(
    root: str | Path,
    layout: Layout = "ucf101",
    num_train: int = 16,
    num_val: int = 4,
    num_frames: int = 24,
    height: int = 64,
    width: int = 64,
    seed: int = 0,
) -> None:
    """Write a small dataset of the eight classes, in the layout of a real one, with the true motion of each video.

    Args:
        root: folder to write to; made if missing.
        layout: whose folders, file formats and annotation files to write.
        num_train: training videos of each class.
        num_val: validation videos of each class.
        num_frames: frames of each video, T.
        height: H, pixels, even.
        width: W, pixels, even.
        seed: source of everything random; the same seed gives the same files.

    Raises:
        ValueError: if the layout is unknown, a size is odd or below 16, or there would be no videos or no frames.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}, but is {layout!r}.")
    if min(height, width) < 16 or height % 2 or width % 2:
        raise ValueError(f"height={height} and width={width} must be even, and at least 16.")
    total = num_train + num_val
    if min(num_train, num_val) < 0 or total < 1 or num_frames < 1:
        raise ValueError(
            f"num_train={num_train}, num_val={num_val} and num_frames={num_frames} must give at least one video of "
            "each class, and one frame of each video."
        )
    videos = [
        _Video(label, label * total + place, place, is_train=place >= num_val)
        for label in range(len(CLASSES))
        for place in range(total)
    ]
    path_of, write_lists = _LAYOUTS[layout]
    for video in videos:
        rng = np.random.default_rng((seed, video.label, video.place))
        frames, motion = render(video.name, rng, num_frames, height, width)
        path = Path(root) / path_of(video)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_frames(path, frames)
        _write_motion(path, motion)
    # Last, so that a dataset that was left half written is not taken for a whole one.
    write_lists(Path(root), videos)


def motion_path(path: str | Path) -> Path:
    """Where the true motion of a synthetic video lies: beside the file, or beside the folder of frames."""
    path = Path(path)
    return path.with_name(f"{path.name if path.is_dir() else path.stem}.motion.npz")


def true_flow(path: str | Path, numbers: Sequence[int]) -> Tensor:
    """Give the exact flow between consecutive frames of a clip of a synthetic video.

    Args:
        path: the video.
        numbers: frame numbers of the clip, length T, in any order.

    Returns:
        Flow from frame `numbers[t]` to frame `numbers[t + 1]`, float32, shape (2, T, H, W), pixels, x first; zeros at
        T - 1.

    Raises:
        FileNotFoundError: if no motion was stored beside the video.
    """
    file = motion_path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no true motion is stored for {path}; only videos of write_synthetic have it."
        )
    with np.load(file) as stored:
        shape = tuple(int(size) for size in stored["shape"])
        mask = np.unpackbits(stored["mask"], count=int(np.prod(shape))).reshape(shape)
        motion = Motion(stored["pose"], mask.astype(bool))
    flow = np.zeros((2, len(numbers), *shape[1:]), np.float32)
    for t, (start, end) in enumerate(pairwise(numbers)):
        flow[:, t] = motion.flow(start, end)
    return torch.from_numpy(flow)


def _write_motion(path: Path, motion: Motion) -> None:
    file = motion_path(path)
    new = file.with_name(f".{file.name}")
    np.savez(new, pose=motion.pose, mask=np.packbits(motion.mask), shape=motion.mask.shape)
    new.replace(file)


# Close to lossless, so that brightness is constant along the true flow to a few grey levels; with B-frames and several
# key frames, so that reading is as hard as it is in real files.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    ".avi": ("mpeg4", {"qmin": "2", "qmax": "3", "bf": "2", "g": "12", "b": "8M"}),
    ".mp4": ("libx264", {"crf": "10", "preset": "veryfast", "bf": "2", "g": "12"}),
    ".webm": (
        "libvpx-vp9",
        {"crf": "8", "b": "0", "g": "12", "deadline": "realtime", "cpu-used": "8"},
    ),
}


def _write_frames(path: Path, frames: npt.NDArray[np.uint8], fps: int = 25) -> None:
    """Write a video file, or a folder of JPEG files where the path has no suffix."""
    if not path.suffix:
        path.mkdir(exist_ok=True)
        for number, picture in enumerate(frames, start=1):
            Image.fromarray(picture).save(path / f"{number:05d}.jpg", quality=95, subsampling=0)
        return
    codec, options = _ENCODERS[path.suffix]
    new = path.with_name(f".{path.name}")
    # Without time of creation and random identity: the same seed gives the same files.
    with av.open(str(new), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    new.replace(path)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}")
    new.write_text(text, "utf-8")
    new.replace(path)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    _write_text(path, "".join(f"{line}\n" for line in lines))


def _ucf101_path(video: _Video) -> Path:
    return Path("videos", video.name, f"v_{video.name}_g{video.place + 1:02d}_c01.avi")


def _ucf101_lists(root: Path, videos: list[_Video]) -> None:
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


def _kinetics_path(video: _Video) -> Path:
    side = "train" if video.is_train else "val"
    return Path(side, video.name, f"synth{video.number:06d}_000010_000020.mp4")


def _kinetics_lists(root: Path, videos: list[_Video]) -> None:
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


def _something_v1_path(video: _Video) -> Path:
    return Path("20bn-something-something-v1", str(video.number + 1))


def _something_v1_lists(root: Path, videos: list[_Video]) -> None:
    prefix = "something-something-v1"
    _write_lines(root / f"{prefix}-labels.csv", CLASSES)
    for side in ("train", "validation"):
        chosen = [video for video in videos if video.is_train == (side == "train")]
        entries = [f"{video.number + 1};{video.name}" for video in chosen]
        _write_lines(root / f"{prefix}-{side}.csv", entries)
    tested = [str(video.number + 1) for video in videos if not video.is_train]
    _write_lines(root / f"{prefix}-test.csv", tested)


def _something_v2_path(video: _Video) -> Path:
    return Path("20bn-something-something-v2", f"{video.number + 1}.webm")


def _something_v2_lists(root: Path, videos: list[_Video]) -> None:
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


def _folder_path(video: _Video) -> Path:
    return Path("train" if video.is_train else "val", video.name, f"{video.place:04d}.mp4")


def _no_lists(root: Path, videos: list[_Video]) -> None:
    """Class folders need none."""


_LAYOUTS: dict[str, tuple[Callable[[_Video], Path], Callable[[Path, list[_Video]], None]]] = {
    "ucf101": (_ucf101_path, _ucf101_lists),
    "kinetics": (_kinetics_path, _kinetics_lists),
    "something_v1": (_something_v1_path, _something_v1_lists),
    "something_v2": (_something_v2_path, _something_v2_lists),
    "folder": (_folder_path, _no_lists),
}

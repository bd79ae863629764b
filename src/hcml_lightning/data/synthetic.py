"""[**known motion → video file** → batch → model → loss → metric]

Videos of shapes in known motion, written as real video files in the folder layout of any dataset of this package, so
that every stage of training can be run, and its flow measured, without a real dataset.

The motion is stored next to each video, as `<name>.motion.npz`; from it, `true_flow` computes the flow between any two
frames.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from hcml_lightning.data.encode import encode
from hcml_lightning.data.moving_shapes import CLASSES, Motion, render
from hcml_lightning.data.synthetic_layouts import LAYOUTS, SyntheticVideo
from hcml_lightning.storage import whole

__all__ = ["CLASSES", "motion_path", "true_flow", "write_synthetic"]

Layout = Literal["ucf101", "kinetics", "something_v1", "something_v2", "folder"]


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
        root: folder to write to; created if missing.
        layout: dataset whose folders, file formats and annotation files are imitated.
        num_train: training videos of each class.
        num_val: validation videos of each class.
        num_frames: frames of each video, T.
        height: H, pixels, even.
        width: W, pixels, even.
        seed: determines everything random; the same seed gives the same files.

    Raises:
        ValueError: if the layout is unknown, a size is odd or below 16, or there would be no videos or no frames; or
            if the folder holds anything else than these videos, which may be written again.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if min(height, width) < 16 or height % 2 or width % 2:
        raise ValueError(f"height={height} and width={width} must be even and at least 16")
    total = num_train + num_val
    if min(num_train, num_val) < 0 or total < 1 or num_frames < 1:
        raise ValueError(
            f"num_train={num_train}, num_val={num_val} and num_frames={num_frames} must give at least one video per "
            "class and one frame per video"
        )
    videos = [
        SyntheticVideo(label, label * total + place, place, is_train=place >= num_val)
        for label in range(len(CLASSES))
        for place in range(total)
    ]
    path_of, write_lists = LAYOUTS[layout]
    _refuse_others(Path(root), {motion_path(Path(root) / path_of(video)) for video in videos})
    for video in videos:
        rng = np.random.default_rng((seed, video.label, video.place))
        frames, motion = render(video.name, rng, num_frames, height, width)
        path = Path(root) / path_of(video)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_frames(path, frames)
        _write_motion(path, motion)
    # The lists are written last, so that a half-written dataset is not taken for a complete one.
    write_lists(Path(root), videos)


def _refuse_others(root: Path, planned: set[Path]) -> None:
    """Raise an error if the folder holds another dataset, which would be mixed with the one to be written.

    Raises:
        ValueError: as described.
    """
    if not root.is_dir() or not any(root.iterdir()):
        return
    found = set(root.rglob("*.motion.npz"))
    others = sorted(found - planned) if found else sorted(root.iterdir())
    if others:
        raise ValueError(
            f"{root} holds other files than the videos to be written, e.g. {others[0].relative_to(root)}, with which "
            "they would be mixed; choose a new folder"
        )


def motion_path(path: str | Path) -> Path:
    """Return the path of the true motion of a synthetic video: next to the file, or next to the folder of frames."""
    path = Path(path)
    return path.with_name(f"{path.name if path.is_dir() else path.stem}.motion.npz")


def true_flow(path: str | Path, numbers: Sequence[int]) -> Tensor:
    """Return the exact flow between consecutive frames of a clip of a synthetic video.

    Args:
        path: the video.
        numbers: frame numbers of the clip, length T, in any order.

    Returns:
        Flow from frame `numbers[t]` to frame `numbers[t + 1]`, float32, shape (2, T, H, W), pixels, x first; zeros at
        T - 1.

    Raises:
        FileNotFoundError: if no motion was stored next to the video.
    """
    file = motion_path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no true motion is stored for {path}; use videos of write_synthetic, or set true_flow=False"
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
    with whole(file, ".part.npz") as new:
        np.savez(new, pose=motion.pose, mask=np.packbits(motion.mask), shape=motion.mask.shape)


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
    """Write a video file, or a folder of JPEG files if the path has no suffix."""
    if not path.suffix:
        path.mkdir(exist_ok=True)
        for number, picture in enumerate(frames, start=1):
            Image.fromarray(picture).save(path / f"{number:05d}.jpg", quality=95, subsampling=0)
        return
    codec, options = _ENCODERS[path.suffix]
    # No creation time and no random identifiers, so that the same seed gives the same files.
    exact = {"fflags": "+bitexact"}
    with (
        whole(path, f".part{path.suffix}") as new,
        av.open(str(new), "w", options=exact) as container,
    ):
        encode(container, codec, frames, fps, options)

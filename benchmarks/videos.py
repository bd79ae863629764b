"""Videos for the benchmarks of data: moving textures with some grain, in the formats of the datasets."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt


class Format(NamedTuple):
    """How a video is encoded.

    Attributes:
        suffix: suffix of the file.
        codec: name of FFmpeg's encoder.
        width: width in pixels.
        height: height in pixels.
        num_frames: number of frames.
        fps: frames per second.
        options: options of the encoder.
    """

    suffix: str
    codec: str
    width: int
    height: int
    num_frames: int
    fps: int
    options: dict[str, str]


_KINETICS = (".mp4", "libx264", 340, 256, 300, 30)
FORMATS = {
    "h264_gop12": Format(*_KINETICS, {"crf": "23", "g": "12"}),
    "h264_gop250": Format(*_KINETICS, {"crf": "23", "g": "250"}),
    "mpeg4_avi": Format(
        ".avi", "mpeg4", 320, 240, 180, 25, {"b": "3300k", "bf": "2", "g": "12", "vtag": "XVID"}
    ),
    "vp9_webm": Format(
        ".webm", "libvpx-vp9", 426, 240, 48, 12,
        {"crf": "33", "b": "0", "cpu-used": "4", "deadline": "good", "g": "128"},
    ),
    "vp8_webm": Format(
        ".webm", "libvpx", 426, 240, 48, 12, {"b": "600k", "cpu-used": "4", "deadline": "good", "g": "128"}
    ),
}  # fmt: skip
# Those in which the datasets are distributed.
OF_DATASETS = ("h264_gop12", "h264_gop250", "mpeg4_avi", "vp9_webm")


def write_videos(
    folder: Path, names: Iterable[str], num_frames: int | None = None
) -> dict[str, Path]:
    """Write a video of each of the named formats.

    Args:
        folder: folder to write to.
        names: keys of `FORMATS`.
        num_frames: number of frames of each video; None for that of its format.
    """
    paths = {}
    for name in names:
        form = FORMATS[name]
        path = paths[name] = folder / f"{name}{form.suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(form.codec, rate=form.fps, options=form.options)
            stream.width, stream.height, stream.pix_fmt = form.width, form.height, "yuv420p"
            if "b" in form.options:
                stream.bit_rate = int(form.options["b"].replace("k", "000"))
            for number in range(num_frames or form.num_frames):
                picture = _picture(form, number)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


def all_frames(path: Path) -> npt.NDArray[np.uint8]:
    """Decode all frames in order, which is slow but reliable, (T, H, W, 3)."""
    with av.open(str(path), metadata_errors="ignore") as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def wrong_frames(
    frames: npt.NDArray[np.uint8], numbers: list[int], truth: npt.NDArray[np.uint8]
) -> int:
    """Count the frames that look more like another frame of the video, or like none.

    Args:
        frames: frames that were read, (T, H, W, 3).
        numbers: numbers of the frames that were requested, length T.
        truth: all frames of the video.
    """
    small = truth[:, ::4, ::4].astype(np.int16)
    wrong = 0
    for frame, number in zip(frames[:, ::4, ::4].astype(np.int16), numbers, strict=True):
        near = range(max(0, number - 12), min(len(truth), number + 13))
        errors = {other: np.abs(frame - small[other]).mean() for other in near}
        wrong += min(errors, key=errors.__getitem__) != number or errors[number] > 6
    return wrong


def _picture(form: Format, number: int) -> npt.NDArray[np.uint8]:
    second = number / form.fps
    background, patches = _textures()
    left, top = int(60 + 50 * np.sin(0.7 * second)), int(60 + 40 * np.cos(0.5 * second))
    picture = background[top : top + form.height, left : left + form.width].copy()
    for i, patch in enumerate(patches):
        x = int((form.width - 70) * (0.5 + 0.5 * np.sin((1 + 0.6 * i) * second + i)))
        y = int((form.height - 90) * (0.5 + 0.5 * np.cos((0.8 + 0.5 * i) * second + 2 * i)))
        picture[y : y + 90, x : x + 70] = patch
    grain = np.random.default_rng(number).normal(0, 1, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


_CACHE: list[npt.NDArray[np.float64]] = []


def _textures() -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]:
    if not _CACHE:
        rng = np.random.default_rng(0)
        _CACHE.extend([_noise(rng, 420, 560, 1.3), *(_noise(rng, 90, 70, 1.0) for _ in range(4))])
    return _CACHE[0], _CACHE[1:]


def _noise(
    rng: np.random.Generator, height: int, width: int, power: float
) -> npt.NDArray[np.float64]:
    """Return a texture whose amplitudes fall with frequency as in photographs, (H, W, 3)."""
    waves = np.fft.rfft2(rng.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    waves = waves / np.maximum(frequency, 1 / max(height, width)) ** power
    texture = np.fft.irfft2(waves, s=(height, width))
    texture -= texture.mean((1, 2), keepdims=True)
    texture /= texture.std((1, 2), keepdims=True)
    return np.clip(128 + 45 * texture, 0, 255).transpose(1, 2, 0)

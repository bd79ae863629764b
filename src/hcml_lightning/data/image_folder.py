"""[**folder of images → frames** → batch → model → loss → metric]

Read a folder with one image file for each frame, as in Something-Something V1, as a video.
"""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image
from torch import Tensor

from hcml_lightning.data.video_file import VideoError, check_size
from hcml_lightning.data.video_index import VideoInfo

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG")
# What turns an image of each EXIF orientation upright. `ImageOps.exif_transpose` is not used because it also rewrites
# the EXIF data, and fails if another part of these is damaged.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image(name: str) -> bool:
    """Return whether a file is a frame, judging by its name; other files in the folder are ignored."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def probe_images(path: str) -> VideoInfo:
    """Count the images and read the size of the first.

    Raises:
        VideoError: if the folder holds no image, or the first one cannot be read.
    """
    files = _files(path, os.stat(path).st_mtime_ns)
    width, height = probe_image(os.path.join(path, files[0]))
    return VideoInfo(len(files), 0.0, width, height)


def probe_image(file: str) -> tuple[int, int]:
    """Read width and height of an image, as displayed.

    Raises:
        VideoError: if the file cannot be read as an image.
    """
    with _open(file) as image:
        lies = _orientation(image) >= 5
        return (image.height, image.width) if lies else (image.width, image.height)


def read_images(path: str, numbers: Sequence[int], info: VideoInfo) -> Tensor:
    """Read frames by their numbers, counted from 0 whatever the number in the name of the first file.

    Args:
        path: the folder.
        numbers: frame numbers, in any order; repetitions are allowed.
        info: what `probe_images` returned; all frames must be of this size.

    Returns:
        RGB, uint8, shape (T, H, W, 3).

    Raises:
        VideoError: if an image cannot be read, or its size differs from that of the first.
    """
    names = _files(path, os.stat(path).st_mtime_ns)
    frames = torch.empty((len(numbers), info.height, info.width, 3), dtype=torch.uint8)
    rows: dict[int, int] = {}
    for row, number in enumerate(numbers):
        if number in rows:
            frames[row] = frames[rows[number]]
            continue
        file = os.path.join(path, names[number])
        image = torch.from_numpy(_read(file))
        if image.shape != frames.shape[1:]:
            raise VideoError(
                f"{file}: the frame is {image.shape[1]}×{image.shape[0]} pixels, but the first in its folder is "
                f"{info.width}×{info.height}."
            )
        frames[row] = image
        rows[number] = row
    return frames


@lru_cache(maxsize=4096)
def _files(path: str, modified: int) -> list[str]:
    with os.scandir(path) as entries:
        images = [entry for entry in entries if is_image(entry.name)]
    for entry in images:
        if not entry.is_file():
            raise VideoError(
                f"{entry.path}: is not a file or a link to one; expected a JPEG or PNG frame."
            )
    names = [entry.name for entry in images]
    if not names:
        raise VideoError(f"{path}: the folder has no frames ({', '.join(_SUFFIXES)}).")
    return sorted(names, key=lambda name: (_number(name), name))


def _number(name: str) -> int:
    """Return the last number in the name, so that 2.jpg sorts before 10.jpg; -1 if there is none."""
    numbers = re.findall(r"\d+", os.path.splitext(name)[0])
    return int(numbers[-1]) if numbers else -1


@contextmanager
def _open(file: str) -> Iterator[Image.Image]:
    try:
        # Other formats are not tried, whatever the content: some are programs, for which Pillow starts an interpreter.
        with Image.open(file, formats=_FORMATS) as image:
            check_size(file, image.width, image.height)
            yield image
    except VideoError:
        raise
    # Pillow's decoders raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file}: the image is damaged or not a JPEG or PNG ({error}).") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, which tells how the camera was held: 1 is upright, 5 and above lie on a side."""
    if image.format != "JPEG":
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Pillow raises these for damaged EXIF data; the image itself may be intact.
    except (struct.error, OSError, SyntaxError, TypeError, ValueError):
        return 1


def _read(file: str) -> npt.NDArray[np.uint8]:
    with _open(file) as image:
        turn = _TURNS.get(_orientation(image))
        if image.mode.startswith("I"):
            # Pillow would clip 16-bit values at 255, which gives a white image.
            return np.stack([(np.asarray(image) // 256).astype(np.uint8)] * 3, axis=-1)
        return np.array((image if turn is None else image.transpose(turn)).convert("RGB"))

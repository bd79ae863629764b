"""[**folder of images → frames** → batch → model → loss → metric]

A folder with one image file for each frame, as Something-Something V1 comes, is a video too.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hcml_lightning.data.video_index import VideoError, VideoInfo

_SUFFIXES = (".jpg", ".jpeg", ".png")


def is_image(name: str) -> bool:
    """Whether a file is a frame, by its name: other files in the folder are none of our business."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def probe_images(path: str) -> VideoInfo:
    """Count the images and read the size of the first.

    Raises:
        VideoError: if the folder holds no image, or the first one cannot be read.
    """
    files = _files(path, os.stat(path).st_mtime_ns)
    height, width = _read(os.path.join(path, files[0])).shape[:2]
    return VideoInfo(len(files), 0.0, width, height)


def read_images(path: str, numbers: Sequence[int]) -> Tensor:
    """Read frames by their numbers, from 0, whatever the number in the name of the first file.

    Args:
        path: the folder.
        numbers: frame numbers, in any order; repetitions are allowed.

    Returns:
        RGB, uint8, shape (T, H, W, 3).

    Raises:
        VideoError: if an image cannot be read, or has another size than the first.
    """
    names = _files(path, os.stat(path).st_mtime_ns)
    images: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}
    for number in numbers:
        if number in images:
            continue
        file = os.path.join(path, names[number])
        images[number] = _read(file)
        first = next(iter(images.values()))
        if images[number].shape != first.shape:
            raise VideoError(
                f"{file}: the frame has the shape {images[number].shape}, others of its folder have {first.shape}."
            )
    return torch.from_numpy(np.stack([images[number] for number in numbers]))


@lru_cache(maxsize=4096)
def _files(path: str, modified: int) -> list[str]:
    names = [name for name in os.listdir(path) if is_image(name)]
    if not names:
        raise VideoError(f"{path}: the folder holds no frames ({', '.join(_SUFFIXES)}).")
    return sorted(names, key=lambda name: (_number(name), name))


def _number(name: str) -> int:
    """The last number in the name: 2.jpg comes before 10.jpg."""
    numbers = re.findall(r"\d+", os.path.splitext(name)[0])
    return int(numbers[-1]) if numbers else -1


def _read(file: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise VideoError(f"{file}: the image is damaged or no image ({error}).") from error

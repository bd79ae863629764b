"""Compare readers of video clips, each with one thread: clips of 32 frames per CPU-second, and wrong frames.

`python benchmarks/decode.py` adds to `results/decode.csv`. Readers that are not installed are left out: `pip install
torchcodec decord opencv-python-headless` (torchcodec also needs FFmpeg on the system). Readers take turns, clip by
clip, so that other load on the machine affects all of them alike. `torchcodec` is the faster of its two modes.
"""

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from report import FOLDER, record
from videos import FORMATS, OF_DATASETS, all_frames, write_videos, wrong_frames

from hcml_lightning.data.decode import read_frames

PACKAGES = ("av", "torchcodec", "decord", "opencv-python-headless", "torch", "numpy")
Reader = Callable[[str, list[int]], npt.NDArray[np.uint8]]


def ours(path: str, numbers: list[int]) -> npt.NDArray[np.uint8]:
    """Read with this package."""
    return read_frames(path, numbers).numpy()


def pyav_loop(path: str, numbers: list[int]) -> npt.NDArray[np.uint8]:
    """Decode all frames in order and convert each one separately, as most loaders do."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[number] for number in numbers])


def torchcodec(mode: str) -> Reader:
    """Return a reader that creates a decoder for each clip, as a dataset has to."""
    decoder = import_module("torchcodec.decoders").VideoDecoder

    def read(path: str, numbers: list[int]) -> npt.NDArray[np.uint8]:
        video = decoder(path, seek_mode=mode, num_ffmpeg_threads=1, dimension_order="NHWC")
        return video.get_frames_at(numbers).data.numpy()

    return read


def decord() -> Reader:
    """Return a reader that opens the video for each clip."""
    module = import_module("decord")

    def read(path: str, numbers: list[int]) -> npt.NDArray[np.uint8]:
        return module.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()

    return read


def opencv() -> Reader:
    """Return a reader that uses OpenCV's FFmpeg, whose number of threads only the environment sets."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
    module = import_module("cv2")

    def read(path: str, numbers: list[int]) -> npt.NDArray[np.uint8]:
        video = module.VideoCapture(path)
        video.set(module.CAP_PROP_POS_FRAMES, numbers[0])
        frames = []
        for number in range(numbers[0], numbers[-1] + 1):
            good = video.grab()
            if good and number in numbers:
                frames.append(video.retrieve()[1][..., ::-1])
        video.release()
        return np.stack(frames)

    return read


def readers() -> dict[str, Reader]:
    """Return the readers that are installed."""
    makers: dict[str, Callable[[], Reader]] = {
        "torchcodec_exact": lambda: torchcodec("exact"),
        "torchcodec_approximate": lambda: torchcodec("approximate"),
        "decord": decord,
        "opencv": opencv,
    }
    found: dict[str, Reader] = {"ours": ours, "pyav_loop": pyav_loop}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, RuntimeError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}")
    return found


def measure(path: Path, clips: list[list[int]], turns: int) -> dict[str, tuple[float, str]]:
    """Return clips per CPU-second (of each clip the fastest turn) and wrong frames for each reader."""
    truth = all_frames(path)
    found = readers()
    seconds = {name: [math.inf] * len(clips) for name in found}
    wrong: dict[str, int | str] = dict.fromkeys(found, 0)
    for turn in range(turns):
        for place, clip in enumerate(clips):
            for name, read in found.items():
                start = time.process_time()
                try:
                    frames = read(str(path), clip)
                except Exception as error:  # A reader that fails is a result.
                    wrong[name] = type(error).__name__
                spent = time.process_time() - start
                seconds[name][place] = min(seconds[name][place], spent)
                count = wrong[name]
                if turn == 0 and isinstance(count, int):
                    wrong[name] = count + wrong_frames(frames, clip, truth)
    return {name: (len(clips) / sum(seconds[name]), str(wrong[name])) for name in found}


def main() -> None:
    """Measure and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=14, help="of each video")
    parser.add_argument("--turns", type=int, default=3, help="of which the quickest counts")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "decode.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write_videos(Path(folder), OF_DATASETS).items():
            draw = random.Random(0)
            total, stride = FORMATS[name].num_frames, 1 if name == "vp9_webm" else 2
            starts = [draw.randrange(total - 31 * stride) for _ in range(options.clips)]
            clips = [list(range(start, start + 32 * stride, stride)) for start in starts]
            found = measure(path, clips, options.turns)
            modes = [v for k, v in found.items() if k.startswith("torchcodec")]
            if modes:
                found["torchcodec"] = max(modes)
            rows += [
                {"reader": k, "video": name, "clips_per_s": f"{v:.2f}", "wrong_frames": wrong}
                for k, (v, wrong) in found.items()
            ]
            print(*(list(row.values()) for row in rows[-len(found) :]), sep="\n", flush=True)
    record(rows, options.output, PACKAGES)


if __name__ == "__main__":
    main()

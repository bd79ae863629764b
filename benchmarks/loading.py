"""Time the loading of training clips, from file to uint8 (3, 32, 224, 224), in one process, and look for memory leaks.

`python benchmarks/loading.py` adds to `results/loading.csv`: clips per CPU-second of this package (decode, crop,
resize, flip), and of torchvision's v2 transforms on full-size frames, as float (as in torchvision's recipes) and as
uint8, after our reader and after a plain PyAV loop; and the growth of resident memory from 200 to 2,000 clips. All read
the same frames of each clip and return a contiguous clip; of each clip the fastest of three turns counts.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from decode import pyav_loop
from report import FOLDER, record
from torch import Tensor
from torchvision.transforms import v2
from videos import write_videos

from hcml_lightning.data.dataset import ClipRecipe, VideoDataset, VideoRecord
from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.sampling import clip_frames

LENGTH, STRIDE, SIZE = 32, 2, 224


def torchvision_clip(as_float: bool) -> Callable[[Tensor], Tensor]:
    """Return the views of the paper as torchvision transforms: short side of 256 to 320, random crop, flip."""
    steps: list[torch.nn.Module] = [v2.ToDtype(torch.float32, scale=True)] if as_float else []
    steps += [
        v2.RandomShortestSize(256, 320, antialias=True),
        v2.RandomCrop(SIZE),
        v2.RandomHorizontalFlip(),
    ]
    return v2.Compose(steps)


def providers(path: str) -> dict[str, Callable[[int], Tensor]]:
    """Return functions that make the clip of a given number, by provider."""
    recipe = ClipRecipe(LENGTH, STRIDE, (256, 320), SIZE, flip="plain", random=True)
    dataset = VideoDataset([VideoRecord(path, 0, "video")], recipe)
    total = probe(path).num_frames
    plain, exact = torchvision_clip(as_float=True), torchvision_clip(as_float=False)

    def ours(number: int) -> Tensor:
        sample = dataset[(number, 0)]
        assert sample is not None
        return sample.video

    def numbers(number: int) -> list[int]:
        """Return the frames that the dataset chooses."""
        rng = np.random.default_rng((dataset.seed, number, 0))
        return clip_frames(total, LENGTH, STRIDE, rng)[0]

    def finish(frames: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        return transform(frames.permute(0, 3, 1, 2)).transpose(0, 1).contiguous()

    def same_reader(transform: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
        return lambda number: finish(read_frames(path, numbers(number)), transform)

    def loop(number: int) -> Tensor:
        return finish(torch.from_numpy(pyav_loop(path, numbers(number))), plain)

    return {
        "ours": ours,
        "torchvision_v2_float, our reader": same_reader(plain),
        "torchvision_v2_uint8, our reader": same_reader(exact),
        "torchvision_v2_float, plain PyAV loop": loop,
    }


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(li for li in lines if li.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Measure and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12, help="of each video and provider")
    parser.add_argument("--memory_clips", type=int, default=2000, help="after which to look")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "loading.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_videos(Path(folder), ["h264_gop12", "h264_gop250"])
        for video, path in paths.items():
            ways = providers(str(path))
            quickest = {name: [math.inf] * options.clips for name in ways}
            for number in [*range(options.clips)] * 3:
                for name, make in ways.items():
                    start = time.process_time()
                    make(number)
                    spent = time.process_time() - start
                    quickest[name][number] = min(quickest[name][number], spent)
            seconds = {name: sum(spent) for name, spent in quickest.items()}
            rows += [
                {
                    "what": name,
                    "video": video,
                    "value": f"{options.clips / spent:.2f}",
                    "unit": "clips/s",
                }
                for name, spent in seconds.items()
            ]
        small = write_videos(Path(folder), ["vp9_webm"])["vp9_webm"]
        make, early = providers(str(small))["ours"], 0.0
        for number in range(options.memory_clips):
            make(number)
            if number == 199:
                early = resident_mb()
        grown = resident_mb() - early
        what = f"resident memory, {options.memory_clips} clips less 200 clips"
        rows.append({"what": what, "video": "vp9_webm", "value": f"{grown:.1f}", "unit": "MB"})
    print(*(list(row.values()) for row in rows), sep="\n")
    record(rows, options.output, ("av", "torch", "torchvision"))


if __name__ == "__main__":
    main()

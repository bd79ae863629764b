"""[a config of data → **how fast it loads clips**]

`hcml data bench`: measures the configured training loader, in clips per second for each number of workers, and prints
where the time goes and how many cores keep a GPU busy. The time of a GPU step is given as an option or measured.
"""

import math
import os
import time
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import TypeVar

import torch
from jsonargparse import Namespace
from torch import Tensor

from hcml_lightning.data import VideoDataModule
from hcml_lightning.data.dataset import VideoDataset, collate
from hcml_lightning.data.decode import VideoError
from hcml_lightning.data.stored_index import StoredVideo
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.console.output import counted, print_table
from hcml_lightning.tools.console.threads import threads_given_back
from hcml_lightning.tools.datasets.step_time import step_seconds
from hcml_lightning.tools.training.data_options import DataParser, data_parser

T = TypeVar("T")


def clips_per_second(data: VideoDataModule, num_workers: int, seconds: float) -> float:
    """Measure the clips per second of the training loader, after the first batch of every worker.

    Args:
        data: after `setup("fit")`.
        num_workers: processes that decode.
        seconds: minimum duration of the measurement.
    """
    data.num_workers = num_workers
    loader = data.train_dataloader()
    clips, epoch, batches = 0, 0, 0
    start = math.inf
    while time.perf_counter() - start < seconds:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epoch += 1
        for batch in loader:
            batches += 1
            clips += len(batch["label"])
            if batches == max(1, num_workers):
                clips, start = 0, time.perf_counter()
            elif time.perf_counter() - start > seconds:
                break
    return clips / (time.perf_counter() - start)


def shares(data: VideoDataModule, seconds: float) -> dict[str, float]:
    """Return the CPU seconds that one process spends on each part of preparing a clip.

    Args:
        data: after `setup("fit")`.
        seconds: minimum duration of the measurement.
    """
    dataset = data.dataset("train")
    spent = dict.fromkeys(("find frames", "decode", "crop, resize, flip", "collate"), 0.0)
    clips, number = 0, 0
    start = time.perf_counter()
    while clips == 0 or time.perf_counter() - start < seconds:
        number += 1
        try:
            parts = _one_clip(dataset, number)
        except VideoError:
            # No warning here: the loader warns of broken videos, and raises if there are too many.
            if not dataset.skip_broken:
                raise
            continue
        for name, value in parts.items():
            spent[name] += value
        clips += 1
    return {name: value / clips for name, value in spent.items()}


def transfer_seconds(data: VideoDataModule) -> float | None:
    """Return the seconds of transfer to the GPU per clip; None without a GPU, or if the first video is broken."""
    if not torch.cuda.is_available():
        return None
    sample = data.dataset("train")[0]
    if sample is None:
        return None
    batch = sample.video.expand(data.batch_size, *sample.video.shape).contiguous().pin_memory()
    batch.to("cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        batch.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 10 / data.batch_size


def cores_needed(step_ms: float, batch_size: int, clips_per_core: float) -> int:
    """Return the number of cores that prepare a batch in the time of one GPU step.

    Example:
        >>> cores_needed(step_ms=200, batch_size=8, clips_per_core=20)
        2
    """
    return math.ceil(batch_size / (step_ms / 1e3) / clips_per_core)


def make_parser() -> DataParser:
    """Make the parser of `hcml data bench`."""
    parser = data_parser(
        "bench",
        "Time the training loader: clips/s for each number of workers, where the time goes, and how many cores a GPU "
        "whose step takes --step_ms needs. With a GPU and the config of a stage, the step is measured.",
    )
    parser.taken = ("data", "model")
    parser.add_subclass_arguments(
        MotionTask,
        "model",
        required=False,
        metavar="CLASS",
        help="class of the stage, such as RecognitionTask, if no config names it",
    )
    parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--workers",
        type=int | list[int],
        default=sorted({0, 1, 2, cores // 2, cores}),
        help="numbers of workers to try, such as 4 or [0, 4]; not used with a cache, which has no workers",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument(
        "--step_ms",
        type=float | list[float],
        default=[],
        help="milliseconds that a GPU takes for a batch; measured if not set",
    )
    parser.add_argument(
        "--precision",
        default="32-true",
        help="precision of the measured step, as for --trainer.precision",
    )
    return parser


def main(words: Sequence[str]) -> int:
    """Time the training loader of a config, and print how many cores feed a GPU."""
    parser = make_parser()
    data, options = parser.read(words)
    try:
        with quiet():
            data.setup("fit")
            data.dataset("train")[0]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with threads_given_back():
        torch.set_num_threads(1)
        _measure(data, options)
    return 0


def _measure(data: VideoDataModule, options: Namespace) -> None:
    rows = [["workers", "clips/s", "clips/s per worker"]]
    for workers in [0] if data.hparams["cache"] else _listed(options.workers):
        rate = clips_per_second(data, workers, options.seconds)
        rows.append([str(workers), f"{rate:.1f}", f"{rate / max(1, workers):.1f}"])
    cores = counted(os.cpu_count() or 1, "core")
    print(f"{data.root}: batches of {data.batch_size}, {cores}\n")
    print_table(rows)
    spent = shares(data, options.seconds)
    total = sum(spent.values())
    print(f"\none process, one clip: {1e3 * total:.1f} ms of CPU")
    for name, value in spent.items():
        print(f"  {name:<20} {1e3 * value:7.2f} ms {value / total:5.0%}")
    transfer = transfer_seconds(data)
    print(
        f"  {'transfer to the GPU':<20} "
        + ("no GPU here" if transfer is None else f"{1e3 * transfer:7.2f} ms")
    )
    print()
    for step in _listed(options.step_ms) or measured_step(options.model, data, options.precision):
        needed = cores_needed(step, data.batch_size, 1 / total)
        print(f"a GPU whose step takes {step:.4g} ms needs {counted(needed, 'core')} of this kind")


def measured_step(task: MotionTask | None, data: VideoDataModule, precision: str) -> list[float]:
    """Measure the duration of a task's training step on this machine's GPU; if impossible, print why and what to do.

    Args:
        task: of the stage; None if no config names one.
        data: after `setup("fit")`.
        precision: of the Trainer.

    Returns:
        A list with the milliseconds of a step, empty if it was not measured.
    """
    if not torch.cuda.is_available():
        print(
            "how many cores does a GPU need? There is no GPU here to measure; pass the milliseconds that a batch takes "
            "on yours, such as --step_ms 250"
        )
        return []
    if task is None:
        print(
            "how many cores does this GPU need? Pass the stage to measure, such as "
            "-c configs/stages/4_recognition.yaml, or --step_ms 250"
        )
        return []
    step = 1e3 * step_seconds(task, data, precision=precision)
    print(f"a step of {type(task).__name__} takes {step:.1f} ms on {torch.cuda.get_device_name()}")
    return [step]


def _listed(given: T | list[T]) -> list[T]:
    return given if isinstance(given, list) else [given]


def _one_clip(dataset: VideoDataset, number: int) -> dict[str, float]:
    """Let the dataset prepare one training clip, and return the CPU seconds of each part."""
    marks = [time.process_time()]

    def timed_read(path: str, numbers: Sequence[int], stored: StoredVideo | None = None) -> Tensor:
        marks.append(time.process_time())
        frames = dataset.read_frames(path, numbers, stored)
        marks.append(time.process_time())
        return frames

    timed = copy(dataset)
    timed.read_frames = timed_read
    timed.skip_broken = False
    sample = timed[number, number % len(dataset)]
    marks.append(time.process_time())
    collate([sample])
    marks.append(time.process_time())
    names = ("find frames", "decode", "crop, resize, flip", "collate")
    return {name: end - begin for name, (begin, end) in zip(names, pairwise(marks), strict=True)}

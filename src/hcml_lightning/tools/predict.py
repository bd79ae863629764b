"""[your own videos + checkpoint → **top classes**]

`hcml predict`: task, clips and class names come from the checkpoint; a file that cannot be read is
named, and the others go on.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hcml_lightning.data import VideoFolderDataModule
from hcml_lightning.data.decode import VideoError
from hcml_lightning.tasks import RecognitionTask
from hcml_lightning.tasks.checkpoint import check_finite, read_checkpoint
from hcml_lightning.tools.noise import quiet
from hcml_lightning.tools.output import printable

# Of the settings of the training data, those that say how a clip is cut out of a video.
CLIP_SETTINGS = (
    "clip_length",
    "frame_stride",
    "short_side",
    "crop_size",
    "test_crop_size",
    "test_clips",
    "test_crops",
)


class Prediction(NamedTuple):
    """What was found in one video.

    Attributes:
        video: its name.
        probability: of each class, shape (K,); None if it could not be read.
        error: why not, else empty.
    """

    video: str
    probability: Tensor | None
    error: str


class _Readable(Dataset[tuple[str, Tensor | None, str]]):
    """The views of each video (V, 3, T, H, W), or what is wrong with it, instead of an error."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, Tensor | None, str]:
        name = str(self.samples.records[index].video_id)
        try:
            return name, self.samples[index].video, ""
        except VideoError as error:
            return name, None, str(error)


def load_task(path: Path) -> tuple[RecognitionTask, list[str], dict[str, Any]]:
    """Rebuild what a checkpoint was written by.

    Args:
        path: checkpoint of a RecognitionTask.

    Returns:
        The task, the names of its classes, and the settings of the data it was trained on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if another stage wrote it, or it is broken.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--ckpt_path: there is no file '{path}'; name a .ckpt of a stage")
    checkpoint = read_checkpoint(path, mmap=True)
    written_by = checkpoint.get("task")
    if written_by != "RecognitionTask":
        raise ValueError(
            f"--ckpt_path: {path} was written by {written_by}, which knows no classes; expected the "
            "checkpoint of a recognition stage"
        )
    check_finite(path, checkpoint["state_dict"])
    try:
        task = RecognitionTask.load_from_checkpoint(path, map_location="cpu")
    except (RuntimeError, TypeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"--ckpt_path: {path} does not fit what this release makes of its settings ({said[:200]}); give a "
            "checkpoint that this release wrote, unchanged"
        ) from error
    names = checkpoint.get("class_names") or [str(i) for i in range(task.num_classes)]
    return task.eval(), list(names), dict(checkpoint.get("datamodule_hyper_parameters", {}))


def predict(
    task: RecognitionTask, data: VideoFolderDataModule, device: torch.device
) -> Iterator[Prediction]:
    """Yield the mean class probabilities over all views of each video.

    Args:
        task: in evaluation mode.
        data: with `predict_paths`.
        device: where to compute.
    """
    data.setup("predict")
    samples = _Readable(data.predict_dataloader().dataset)
    loader = DataLoader(samples, batch_size=None, num_workers=min(data.num_workers, len(samples)))
    task = task.to(device)
    for name, views, error in tqdm(loader, desc="predict", disable=None):
        if views is None:
            yield Prediction(name, None, error)
            continue
        batch = {"video": views[None].to(device), "video_id": [name]}
        with torch.inference_mode():
            found = task.predict_step(batch, 0)  # type: ignore[arg-type]
        yield Prediction(name, found["probability"][0].cpu(), "")


def write_csv(
    path: Path, predictions: Sequence[Prediction], class_names: Sequence[str], top_k: int
) -> None:
    """Write `video, rank, class, probability, error`: one row for each rank, or for an error.

    The file appears when it is complete.

    Args:
        path: to write to.
        predictions: of all videos.
        class_names: in the order of the probabilities.
        top_k: ranks of each video.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "rank", "class", "probability", "error"])
        for prediction in predictions:
            if prediction.probability is None:
                writer.writerow([prediction.video, "", "", "", prediction.error])
                continue
            top = prediction.probability.topk(min(top_k, len(class_names)))
            found = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            writer.writerows(
                [prediction.video, rank, class_names[label], f"{probability:.6f}", ""]
                for rank, (probability, label) in enumerate(found, start=1)
            )
    partial.replace(path)


def main(words: Sequence[str]) -> int:
    """Run `hcml predict`.

    Args:
        words: what stands after `hcml predict`.

    Returns:
        0 if at least one video was read, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="hcml predict",
        description="The top classes of videos, as csv. Settings come from the checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="video, frame folder, or folder")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="of a recognition stage")
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), help="csv to write")
    parser.add_argument("--top_k", type=int, default=5, help="classes of each video")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to compute",
    )
    options = parser.parse_args(words)
    try:
        if options.top_k < 1:
            raise ValueError(f"--top_k must be at least 1, but is {options.top_k}")
        device = _device(options.device)
        task, names, settings = load_task(options.ckpt_path)
        data = VideoFolderDataModule(
            root=".",
            predict_paths=options.paths,
            class_names=names,
            num_workers=options.num_workers,
            **{key: settings[key] for key in CLIP_SETTINGS if key in settings},
        )
        with quiet():
            predictions = list(predict(task, data, device))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    write_csv(options.output, predictions, names, options.top_k)
    broken = [p for p in predictions if p.probability is None]
    for prediction in broken:
        print(f"could not be read: {printable(prediction.error)}")
    if broken:
        print("Get these anew, or leave them out; what any player shows, ffmpeg can convert.")
    print(f"{len(predictions) - len(broken)} of {len(predictions)} videos -> {options.output}")
    return 0 if len(broken) < len(predictions) else 1


def _device(name: str) -> torch.device:
    """Find a device.

    Raises:
        ValueError: if it does not exist, or not here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"--device: there is no {name!r} here; expected cpu, cuda or cuda:N"
        ) from error
    return device

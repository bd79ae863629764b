"""[video + checkpoint → **what happens in it, and when**]

The trained network for use without a Trainer: its weights, the class names, and how a video is cut into clips.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from hcml_lightning.checkpoint_files import check_finite, read_checkpoint
from hcml_lightning.data import VideoFolderDataModule
from hcml_lightning.data.dataset import ClipRecipe
from hcml_lightning.models import MotionNetwork
from hcml_lightning.tasks import RecognitionTask
from hcml_lightning.tasks.views import mean_probability
from hcml_lightning.tools.prediction.frame_times import frame_times
from hcml_lightning.tools.prediction.spans import (
    FRAMES_AT_A_TIME,
    Span,
    SpanViews,
    read_spans,
    sliding_windows,
)
from hcml_lightning.tools.run.checkpoints import load_task

# Settings of the training data that say how a clip is cut out of a video.
CLIP_SETTINGS = (
    "clip_length",
    "frame_stride",
    "short_side",
    "crop_size",
    "test_crop_size",
    "test_clips",
    "test_crops",
)
# Settings of the task that shape the network.
NETWORK_SETTINGS = ("backbone", "num_classes", "levels", "max_displacement", "stride")


class Recognition(NamedTuple):
    """What was recognised in a video, or in a span of it.

    Attributes:
        start: seconds from the start of the video.
        end: seconds from the start of the video.
        probability: of each class, float32 on the CPU, (K,).
        class_names: in the order of `probability`.
    """

    start: float
    end: float
    probability: Tensor
    class_names: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k likeliest classes and their probabilities, best first; all, if there are fewer."""
        values, labels = self.probability.topk(min(k, len(self.class_names)))
        return [
            (self.class_names[label], value)
            for value, label in zip(values.tolist(), labels.tolist(), strict=True)
        ]


class Recognizer:
    """Recognise what happens in videos.

    Args:
        network: the trained network; it is set to evaluation mode.
        class_names: in the order of its logits.
        recipe: how clips are cut out of a video, including the number of clips and crops.
        architecture: arguments from which `MotionNetwork` can build the network again; an export stores them.
        views_per_forward: how many clips go through the network at a time; bounds the memory.

    Raises:
        ValueError: if there is not one name for each class.
    """

    def __init__(
        self,
        network: MotionNetwork,
        class_names: Sequence[str],
        recipe: ClipRecipe,
        architecture: Mapping[str, Any] | None = None,
        views_per_forward: int = 8,
    ) -> None:
        if len(class_names) != network.fc.out_features:
            raise ValueError(
                f"class_names: expected {network.fc.out_features} names, one for each class of the network, "
                f"got {len(class_names)}"
            )
        self.network = network.eval()
        self.class_names = tuple(class_names)
        self.recipe = recipe
        self.architecture = dict(architecture or {})
        self.views_per_forward = views_per_forward

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], device: str = "cpu") -> "Recognizer":
        """Load the network of a recognition stage, without its side branch.

        Args:
            path: checkpoint that `hcml fit` wrote.
            device: device on which the network computes; "auto" is a GPU if there is one, else the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a checkpoint, is broken, or is of another task than recognition; or if the
                device does not exist.
        """
        checkpoint = read_checkpoint(Path(path), mmap=True)
        written_by = checkpoint.get("task")
        if written_by != "RecognitionTask":
            raise ValueError(
                f"{path} was written by {written_by}; expected a RecognitionTask, which recognises classes. To use "
                "the network of your own task, pass it to Recognizer in Python."
            )
        check_finite(Path(path), checkpoint["state_dict"])
        place = _device(device)
        task = load_task(RecognitionTask, path)
        names = checkpoint.get("class_names") or [str(i) for i in range(task.num_classes)]
        settings = checkpoint.get("datamodule_hyper_parameters", {})
        if "clip_length" not in settings:
            rank_zero_warn(
                f"{path} does not say how clips are cut out of videos, because it was trained without a data module of "
                "this package; using 16 frames, 2 apart, as in the paper. For other clips, make a Recognizer of its "
                "network."
            )
        # The data module only provides the recipe of clips, and looks for no videos.
        data = VideoFolderDataModule(
            root="",
            class_names=list(names),
            predict_paths=[],
            **{name: settings[name] for name in CLIP_SETTINGS if name in settings},
        )
        architecture = {name: task.hparams[name] for name in NETWORK_SETTINGS}
        network = task.model.network.float().to(place)
        return cls(network, names, data.recipe("test"), architecture, task.views_per_forward)

    def __call__(self, video: str | os.PathLike[str]) -> Recognition:
        """Recognise what a video shows, as a multi-view test does: mean probability over clips and crops.

        Args:
            video: video file, or folder of images.

        Raises:
            VideoError: if it cannot be read.
        """
        return self.recognise(read_spans(os.fspath(video), None, self.recipe)[0])

    def windows(
        self, video: str | os.PathLike[str], window: float, hop: float
    ) -> Iterator[Recognition]:
        """Recognise what each window of a long video shows, from its start to its end.

        Args:
            video: video file, or folder of images.
            window: length of a window, seconds. One clip is taken from its middle; if the window is too short
                for a clip, the clip reaches beyond it.
            hop: from the start of one window to that of the next, seconds.

        Raises:
            ValueError: if window or hop is not positive.
            VideoError: if the video cannot be read.
        """
        path = os.fspath(video)
        for group in self.window_groups(path, window, hop):
            for seen in read_spans(path, group, self.recipe):
                yield self.recognise(seen)

    def window_groups(self, path: str, window: float, hop: float) -> list[list[Span]]:
        """Return the windows of a video in groups that are read at a time; the arguments are those of `windows`."""
        spans = sliding_windows(frame_times(path), window, hop)
        size = max(1, FRAMES_AT_A_TIME // self.recipe.clip_length)
        return [spans[i : i + size] for i in range(0, len(spans), size)]

    @torch.inference_mode()
    def recognise(self, seen: SpanViews) -> Recognition:
        """Return the mean probability over the views of a span."""
        device = self.network.fc.weight.device
        (probability,) = mean_probability(
            lambda clip: self.network(clip.to(device)), seen.views[None], self.views_per_forward
        )
        return Recognition(seen.start, seen.end, probability.cpu(), self.class_names)


def _device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: if the name is invalid, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device (--device): {name!r} is not available here; expected auto, cpu, cuda or cuda:N"
        ) from error
    return device

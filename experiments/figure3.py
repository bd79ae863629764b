"""Figure 3: flow learned without labels at the three levels, compared with true flow and a classical estimate."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import flow_to_image, make_grid, save_image

from hcml_lightning.batch import VideoBatch
from hcml_lightning.checkpoint_files import read_checkpoint
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.synthetic import write_synthetic
from hcml_lightning.storage import whole
from hcml_lightning.tasks import FlowTask
from hcml_lightning.tasks.flow import at_grid
from hcml_lightning.tools.pictures.drawing import validation_clips
from protocol import QUANTITY, Protocol, circumstances, exclusive, is_done, write_rows

DATASET = "synthetic"
LEVELS = (0, 1, 2)


class Corpus(NamedTuple):
    """The synthetic videos.

    Attributes:
        num_train: training videos of each of the eight classes.
        num_val: held-out videos of each class.
        num_frames: frames of each video.
        size: height and width in pixels.
    """

    num_train: int = 100
    num_val: int = 24
    num_frames: int = 16
    size: int = 128


DEFAULT = Corpus()


def run(protocol: Protocol, seed: int, corpus: Corpus = DEFAULT) -> None:
    """Train and measure the flow of level 0; with seed 0, also train levels 1 and 2 and draw all three.

    Args:
        protocol: the settings of the runs and their folders.
        seed: seed of all random numbers of training; the videos are always the same.
        corpus: size of the set of videos.
    """
    root = protocol.runs / "data" / DATASET
    with exclusive(root):
        if not root.is_dir():
            _make(root, corpus)
    config = protocol.config.removesuffix(".yaml") + "_synthetic.yaml"
    checkpoints = []
    # Levels 1 and 2 are only drawn, not measured, and there is one picture, so one seed of them is enough.
    for level in LEVELS if seed == 0 else LEVELS[:1]:
        words = ["-c", config, "--flow.model.level", str(level)]
        if level > 0:
            # Consecutive frames of level l are 2^l frames of the clip apart, so these levels need longer clips.
            words += ["--flow.data.clip_length", "8", "--flow.trainer.max_epochs", "6"]
        (done,) = protocol.run(f"flow_{level}", DATASET, 1, seed, ("flow",), words)
        checkpoints.append(done.checkpoint)
        if level == 0:
            _record(protocol, seed, done.metrics, done.checkpoint)
    picture = protocol.results / "figures" / f"figure3_{protocol.name}.png"
    if seed == 0:
        _draw(checkpoints, picture)


def _make(root: Path, corpus: Corpus) -> None:
    partial = root.with_name(f".{root.name}.part")
    sides = {"height": corpus.size, "width": corpus.size}
    counts = {"num_train": corpus.num_train, "num_val": corpus.num_val}
    write_synthetic(partial, "ucf101", num_frames=corpus.num_frames, **counts, **sides)
    partial.rename(root)


def _record(protocol: Protocol, seed: int, metrics: dict[str, float], checkpoint: str) -> None:
    table = protocol.results / "measurements.csv"
    key = {
        **{"experiment": "figure3", "dataset": DATASET, "split": 1, "method": "level 0"},
        **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
    }
    if is_done(table, key):
        return
    task, batch = _batch(checkpoint, 64)
    classical = _classical(batch["video"], _flow(task, batch["video"]))
    true = at_grid(batch["flow"], classical)
    error = torch.linalg.vector_norm(
        F.pad(classical, (0,) * 6).transpose(1, 2).flatten(0, 1) - true, dim=1
    )
    quantities = {
        "end-point error": metrics["val/epe"],
        "end-point error of zero flow": metrics["val/epe_zero"],
        "ratio": metrics["val/epe"] / metrics["val/epe_zero"],
        "end-point error of Farneback, 64 videos": float(error.mean()),
        "end-point error of zero flow, 64 videos": float(
            torch.linalg.vector_norm(true, dim=1).mean()
        ),
        "share of pixels whose flow stays in the frame": metrics["val/valid"],
        "photometric error of these pixels": metrics["val/photometric"] / metrics["val/valid"],
        "photometric error of zero flow": metrics["val/photometric_zero"],
    }
    same = key | circumstances(protocol)
    write_rows(
        table,
        QUANTITY,
        [same | {"quantity": k, "value": f"{v:.4g}"} for k, v in quantities.items()],
    )


def _draw(checkpoints: list[str], path: Path) -> None:
    """Draw one row for each video: frame, next frame, true flow, Farnebäck's flow, flow of levels 0, 1, 2."""
    task, batch = _batch(checkpoints[0], 6)
    video = batch["video"]
    flows = [_flow(task, video)]
    flows += [
        _flow(FlowTask.load_from_checkpoint(c, map_location="cpu").eval(), _batch(c, 6)[1]["video"])
        for c in checkpoints[1:]
    ]
    true = at_grid(batch["flow"], flows[0])
    pairs = flows[0].shape[2]
    middle = pairs // 2
    columns = [
        torch.unflatten(true, 0, (len(video), pairs))[:, middle],
        _classical(video, flows[0])[:, :, middle],
        # Level l compares frames 2^l apart, on a grid with 2^l times fewer cells per side: no scaling is needed.
        *(flow[:, :, flow.shape[2] // 2] for flow in flows),
    ]
    size = 4 * video.shape[-1]
    images = [_enlarge(video[:, :, middle], size), _enlarge(video[:, :, middle + 1], size)]
    images += [_enlarge(flow_to_image(flow.contiguous()), size) for flow in columns]
    grid = make_grid(
        torch.stack(images, dim=1).flatten(0, 1), nrow=len(images), padding=6, pad_value=1
    )
    with whole(path, ".part.png") as partial:
        save_image(grid, partial)


def _batch(checkpoint: str, count: int) -> tuple[FlowTask, VideoBatch]:
    """Return the task of a checkpoint, and held-out clips evenly spread over the classes."""
    known = read_checkpoint(checkpoint)["datamodule_hyper_parameters"]
    known = {key: value for key, value in known.items() if not key.startswith("_")}
    data = UCF101DataModule(**known)
    task = FlowTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    return task, validation_clips(data, count)


@torch.inference_mode()
def _flow(task: FlowTask, video: Tensor) -> Tensor:
    """Return the flow in cells of the task's grid, (B, 2, T_l − 1, h, w)."""
    motion = task.model.network.motion_features(video, up_to=task.level)[-1]
    return task.flow_terms(task.level, motion, video).flow


def _classical(video: Tensor, like: Tensor) -> Tensor:
    """Return Farnebäck's flow of the full frames, converted to the grid and unit of `like`: (B, 2, T − 1, h, w)."""
    # Imported here because the other experiments do not need OpenCV.
    import cv2

    grey = video.float().mean(dim=1).byte().numpy()
    pairs = [
        cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
        for clip in grey
        for a, b in pairwise(clip)
    ]
    flow = torch.from_numpy(np.stack(pairs)).permute(0, 3, 1, 2)
    cells = F.adaptive_avg_pool2d(flow, like.shape[3:]) * (like.shape[4] / video.shape[4])
    return torch.unflatten(cells, 0, (len(video), -1)).transpose(1, 2)


def _enlarge(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.float() / 255, size=(size, size), mode="nearest")

"""[checkpoints and metrics of a run → **pictures**]

What a demo shows: two frames, the true flow and the estimated one; and the curves of training.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import flow_to_image, make_grid, save_image

from hcml_lightning.data import UCF101DataModule
from hcml_lightning.tasks import FlowTask
from hcml_lightning.tasks.checkpoint import read_checkpoint
from hcml_lightning.tasks.flow import at_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of each panel: folder of the stage, and metrics.
PANELS: dict[str, dict[str, tuple[str, ...]]] = {
    "photometric error (validation)": {
        "full/flow": ("val/photometric", "val/photometric_zero"),
    },
    "end-point error (validation)": {"full/flow": ("val/epe", "val/epe_zero")},
    "contrastive loss (validation)": {
        "full/contrast1": ("val/contrast_l1", "val/contrast_l1_chance"),
        "full/contrast2": ("val/contrast_l2", "val/contrast_l2_chance"),
    },
    "top-1 (validation)": {
        "plain/baseline": ("val/top1",),
        "motion_only/motion_only": ("val/top1",),
        "full/recognition": ("val/top1",),
    },
}


def draw_flow(checkpoint: Path, path: Path, videos: int = 8) -> None:
    """Draw one row for each video: frame, next frame, true flow, estimated flow.

    Args:
        checkpoint: of a FlowTask, trained on synthetic videos.
        path: png to write.
        videos: rows.
    """
    settings = read_checkpoint(checkpoint, mmap=True)
    known = settings["datamodule_hyper_parameters"]
    known = {key: value for key, value in known.items() if not key.startswith("_")}
    data = UCF101DataModule(**{**known, "true_flow": True, "num_workers": 0})
    data.setup("validate")
    loader = data.val_dataloader()
    chosen = range(0, len(loader.dataset), max(1, len(loader.dataset) // videos))  # type: ignore[arg-type]
    batch = loader.collate_fn([loader.dataset[i] for i in chosen][:videos])
    task = FlowTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    with torch.inference_mode():
        motion = task.model.network.motion_features(batch["video"], up_to=task.level)[-1]
        flow = task.flow_terms(task.level, motion, batch["video"]).flow
    pairs = flow.shape[2]
    middle = pairs // 2
    true = at_grid(batch["flow"], flow)[middle::pairs]
    # One call for both, so that a colour means the same motion in both.
    both = torch.cat([true, flow[:, :, middle]])
    images = flow_to_image(both).chunk(2)
    frames = [batch["video"][:, :, middle], batch["video"][:, :, middle + 1]]
    columns = [_enlarge(image, 4 * batch["video"].shape[-1]) for image in (*frames, *images)]
    grid = make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns), padding=4)
    partial = path.with_name(f".{path.stem}.part.png")
    save_image(grid, partial)
    partial.replace(path)


def draw_curves(run_dir: Path, path: Path) -> None:
    """Draw the curves of all three runs of a demo.

    Args:
        run_dir: folder of the demo.
        path: png to write.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for folder, names in lines.items():
            _plot(axes, run_dir / folder, names)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.legend(fontsize="small")
    partial = path.with_name(f".{path.stem}.part.png")
    figure.savefig(partial, dpi=110)
    partial.replace(path)


def read_curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Return epochs and values of a metric, over all starts of a stage.

    Args:
        folder: of the stage; holds version_0, version_1, … of CSVLogger.
        name: of the metric.

    Returns:
        Epochs, counted from 1 and ascending, and values.
    """
    values: dict[int, float] = {}
    for file in sorted(folder.glob("version_*/metrics.csv"), key=_version):
        with file.open(newline="") as lines:
            rows: Iterable[dict[str, str]] = csv.DictReader(lines)
            values |= {int(row["epoch"]) + 1: float(row[name]) for row in rows if row.get(name)}
    epochs = sorted(values)
    return epochs, [values[epoch] for epoch in epochs]


def _version(file: Path) -> int:
    return int(file.parent.name.removeprefix("version_"))


def _plot(axes: "Axes", folder: Path, names: Sequence[str]) -> None:
    for name in names:
        epochs, values = read_curve(folder, name)
        reference = name.endswith(("_zero", "_chance"))
        label = f"{folder.name}: {name.removeprefix('val/')}"
        axes.plot(epochs, values, "--" if reference else ".-", label=label)


def _enlarge(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.float() / 255, size=(size, size), mode="nearest")

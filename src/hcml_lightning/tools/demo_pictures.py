"""[checkpoints and metrics of a run → **pictures**]

The pictures of a demo: two frames with the true and the estimated flow between them, and the curves of training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from hcml_lightning.storage import whole
from hcml_lightning.tools.pictures.drawing import estimate_flow, flow_rows, validation_clips
from hcml_lightning.tools.run.curves import by_epoch, comparable_points, read_points
from hcml_lightning.tools.run.finished import load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# For each panel, the metrics to draw, by the folder of their stage.
PANELS: dict[str, dict[str, tuple[str, ...]]] = {
    "photometric error (validation)": {
        "full/flow": ("val/photometric ÷ valid", "val/photometric ÷ valid_zero"),
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


def draw_flow(folder: Path, path: Path, videos: int = 8, enlarged: int = 4) -> None:
    """Draw one row for each video: frame, next frame, true flow if it is known, estimated flow, rebuilt frame.

    Args:
        folder: folder of a stage that trained flow.
        path: png to write.
        videos: number of videos.
        enlarged: factor by which the rows are enlarged.

    Raises:
        ValueError: if the stage trained no flow.
    """
    run = load_run(folder)
    batch = validation_clips(run.datamodule, videos)
    with torch.inference_mode():
        estimate = estimate_flow(run.model, batch["video"])
        if estimate is None:
            raise ValueError(
                f"{folder}: this stage did not train flow; pass the folder of one that did"
            )
        rows = flow_rows(batch, estimate)
    image = Image.fromarray(
        rearrange(torch.cat(rows, dim=1), "c h w -> h w c").contiguous().numpy()
    )
    with whole(path, ".part.png") as partial:
        ImageOps.scale(image, enlarged, Image.Resampling.NEAREST).save(partial)


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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    with whole(path, ".part.png") as partial:
        figure.savefig(partial, dpi=110)


def _plot(axes: "Axes", folder: Path, names: Sequence[str]) -> None:
    points = comparable_points(read_points(folder))
    for name in names:
        curve = by_epoch(points.get(name, []))
        reference = name.endswith(("_zero", "_chance"))
        label = f"{folder.name}: {name.removeprefix('val/')}"
        axes.plot(curve.epoch, curve.value, "--" if reference else ".-", label=label)

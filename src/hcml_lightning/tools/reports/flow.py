"""[checkpoints of a run → flow → **pictures** → report]

Draws two frames of a few validation videos and the flow between them: after the bootstrap, after joint training, and
the true flow if the videos are synthetic. Needs the videos that the run was trained on.
"""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torchvision.utils import flow_to_image

from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.pictures.drawing import estimate_flow, flow_columns, validation_clips
from hcml_lightning.tools.reports.stage_runs import StageRun
from hcml_lightning.tools.run.finished import load_run


class FlowPicture(NamedTuple):
    """A table of pictures.

    Attributes:
        headings: of the columns.
        rows: the pictures of each video, as data URIs.
        names: of the videos.
        wheel: legend that shows which colour means which direction, as a data URI.
    """

    headings: list[str]
    rows: list[list[str]]
    names: list[str]
    wheel: str


def estimates_flow(stage: StageRun) -> bool:
    """Return whether a stage trained a flow decoder and its checkpoint still exists."""
    options = (stage.settings.get("model") or {}).get("init_args") or {}
    joint = bool(options.get("flow_weight") and options.get("levels"))
    trained = stage.task == "FlowTask" or (stage.task == "RecognitionTask" and joint)
    return trained and "fit" in stage.records and stage.checkpoint is not None


def flow_picture(stages: Sequence[StageRun], videos: int) -> FlowPicture | None:
    """Draw the flow of the stages of one run that estimate it.

    Args:
        stages: of one run, in their order.
        videos: number of videos, one row each.

    Returns:
        The pictures; None if no stage estimates flow or `videos` is 0.

    Raises:
        ValueError: if the data module refuses the settings of the run, or a video cannot be read.
        FileNotFoundError: if the videos are not where they were.
    """
    chosen = [stage for stage in stages if estimates_flow(stage)]
    if not chosen or videos < 1:
        return None
    with quiet(), torch.inference_mode():
        runs = {stage.name: load_run(stage.folder) for stage in chosen}
        batch = validation_clips(next(iter(runs.values())).datamodule, videos)
        found = {name: estimate_flow(run.model, batch["video"]) for name, run in runs.items()}
    estimates = {name: estimate for name, estimate in found.items() if estimate is not None}
    level = next(iter(estimates.values())).level
    # The grids of two levels differ, so their flows cannot share one colour scale: show those of one level.
    flows = {
        f"estimated after {k}, up to {_fastest(e.flow):.2g} cells": e.flow
        for k, e in estimates.items()
        if e.level == level
    }
    columns = flow_columns(batch, flows, level)
    uris = [[_uri(i, "jpeg" if "frame" in k else "png") for i in c] for k, c in columns.items()]
    return FlowPicture(
        headings=list(columns),
        rows=[list(row) for row in zip(*uris, strict=True)],
        names=list(batch["video_id"]),
        wheel=_wheel(),
    )


def _fastest(flow: Tensor) -> float:
    """Return the fastest motion in the pictures, in cells; colours are scaled to it, so they do not show it."""
    return float(torch.linalg.vector_norm(flow[:, :, flow.shape[2] // 2], dim=1).max())


def _wheel(radius: int = 32) -> str:
    axis = torch.linspace(-1, 1, 2 * radius)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    flow = torch.stack([x, y])
    colours = flow_to_image(flow * (flow.norm(dim=0) <= 1))
    alpha = 255 * (flow.norm(dim=0, keepdim=True) <= 1).byte()
    return _uri(torch.cat([colours, alpha]), "png")


def _uri(image: Tensor, kind: str) -> str:
    content = io.BytesIO()
    Image.fromarray(rearrange(image, "c h w -> h w c").contiguous().numpy()).save(
        content, kind, quality=90
    )
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"

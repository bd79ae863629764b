"""[clips, flow, maps of attention → **pixels**]

Pictures as uint8 tensors and short videos as files, made with nothing but torchvision and PyAV.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.utils import flow_to_image, make_grid

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data import VideoDataModule
from hcml_lightning.data.encode import encode
from hcml_lightning.ops import warp
from hcml_lightning.tasks import FlowTask, MotionTask, RecognitionTask
from hcml_lightning.tasks.flow import at_grid


class FlowEstimate(NamedTuple):
    """The flow that a task estimates.

    Attributes:
        flow: from each frame of the level to the next, in cells of its grid, (B, 2, T − 1, h, w).
        level: the level whose grid and frame rate the flow has.
    """

    flow: Tensor
    level: int


def estimate_flow(task: MotionTask, clip: Tensor) -> FlowEstimate | None:
    """Estimate the flow of clips with the decoder that a task trains; return None if it trains none.

    Args:
        task: of any stage.
        clip: RGB in 0..255, (B, 3, T, H, W).
    """
    if isinstance(task, FlowTask):
        level = task.level
    elif isinstance(task, RecognitionTask) and task.flow_weight > 0:
        level = task.model.levels[0]
    else:
        return None
    motion = task.model.network.motion_features(clip, up_to=level)[-1]
    return FlowEstimate(task.flow_terms(level, motion, clip).flow, level)


def flow_columns(batch: VideoBatch, flows: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
    """Draw a frame of each clip, the next one, the true flow between them if it is known, and estimates of it.

    Args:
        batch: the clips.
        flows: estimates for these clips by heading, in cells of one level's grid, (B, 2, T − 1, h, w).
        level: the level whose grid and frame rate these have.

    Returns:
        Pictures by heading, uint8, (B, 3, rows of pixels, columns of pixels); those of flow have a pixel for each cell
        of the grid.
    """
    seen = batch["video"].cpu()[:, :, :: 2**level]
    example = next(iter(flows.values())).cpu().float()
    middle = example.shape[2] // 2
    shown = {heading: flow[:, :, middle].cpu().float() for heading, flow in flows.items()}
    if "flow" in batch and batch["flow"].shape[2] == example.shape[2] + 1:
        true = at_grid(batch["flow"].cpu().float(), example)
        shown = {
            "true flow": rearrange(true, "(b t) c h w -> b t c h w", b=len(seen))[:, middle],
            **shown,
        }
    # One call for all, so that a colour means the same motion everywhere.
    colours = flow_to_image(torch.cat(list(shown.values()))).chunk(len(shown))
    frames = {"frame": seen[:, :, middle].byte(), "next frame": seen[:, :, middle + 1].byte()}
    return {**frames, **dict(zip(shown, colours, strict=True))}


def flow_rows(batch: VideoBatch, estimate: FlowEstimate) -> list[Tensor]:
    """Draw one row for each clip: the columns of `flow_columns`, then the frame rebuilt from the next by the estimate.

    Args:
        batch: the clips.
        estimate: of these clips.

    Returns:
        For each clip an image, uint8, (3, rows of pixels, columns of pixels).
    """
    height, width = batch["video"].shape[3:]
    columns = flow_columns(batch, {"estimated flow": estimate.flow}, estimate.level)
    pictures = {k: F.interpolate(c.float() / 255, (height, width)) for k, c in columns.items()}
    flow = estimate.flow[:, :, estimate.flow.shape[2] // 2].cpu().float()
    scale = torch.tensor([width / flow.shape[3], height / flow.shape[2]]).view(1, 2, 1, 1)
    smooth = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    rebuilt, valid = warp(pictures["next frame"], smooth * scale)
    rows = torch.stack([*pictures.values(), rebuilt * valid], dim=1)
    return [_side_by_side(row) for row in rows]


def some_clips(loader: DataLoader[VideoBatch], count: int) -> VideoBatch:
    """Read clips of a split, evenly spread over it; all of them if it has no more.

    Args:
        loader: of the split.
        count: number of clips.
    """
    dataset: Any = loader.dataset
    total = len(dataset)
    chosen = [i * total // count for i in range(count)] if total > count else range(total)
    batch: VideoBatch = loader.collate_fn([dataset[i] for i in chosen])
    return batch


def validation_clips(data: VideoDataModule, count: int) -> VideoBatch:
    """Set up data without a trainer, and read clips of its validation split as `some_clips` does."""
    data.num_workers = 0
    data.setup("validate")
    return some_clips(data.val_dataloader(), count)


def heat_row(clip: Tensor, heat: Tensor, frames: int = 4) -> Tensor:
    """Draw frames of one clip, and below them the same frames overlaid with a map of what speaks for a class.

    Args:
        clip: RGB in 0..255, (3, T, H, W).
        heat: 0..1, (T, H, W).
        frames: how many of the T are shown.

    Returns:
        An image, uint8, (3, rows of pixels, columns of pixels).
    """
    times = torch.linspace(0, clip.shape[1] - 1, min(frames, clip.shape[1])).round().long()
    shown = rearrange(clip[:, times], "c t h w -> t c h w").float().cpu() / 255
    weight = heat[times].float().cpu()[:, None].clamp(0, 1)
    # From black over red and yellow to white, more opaque where the map is larger.
    colour = torch.cat([(3 * weight - i).clamp(0, 1) for i in range(3)], dim=1)
    mixed = shown * (1 - 0.6 * weight) + colour * (0.6 * weight)
    return _side_by_side(torch.cat([shown, mixed]), len(times))


def write_mp4(path: Path, clip: Tensor, fps: int = 8) -> None:
    """Write a clip as a video that every browser plays.

    Args:
        path: to write to; ends in .mp4.
        clip: RGB in 0..255, uint8, (3, T, H, W); an odd last row or column is left out.
        fps: frames per second.
    """
    frames = clip[:, :, : clip.shape[2] // 2 * 2, : clip.shape[3] // 2 * 2]
    frames = rearrange(frames, "c t h w -> t h w c")
    with av.open(str(path), "w") as container:
        encode(container, "libx264", frames.cpu().contiguous().numpy(), fps)


def _side_by_side(images: Tensor | Sequence[Tensor], columns: int | None = None) -> Tensor:
    grid: Tensor = make_grid(images, nrow=columns or len(images), padding=2, pad_value=1.0)
    return grid.mul(255).round().clamp(0, 255).to(torch.uint8)

"""[clips, flow, maps of attention → **pixels**]

Pictures as uint8 tensors and short videos as files, made with nothing but torchvision and PyAV.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import flow_to_image, make_grid

from hcml_lightning.batch import VideoBatch
from hcml_lightning.ops import warp
from hcml_lightning.tasks import FlowTask, MotionTask, RecognitionTask
from hcml_lightning.tasks.flow import at_grid


class FlowEstimate(NamedTuple):
    """What a task says about motion.

    Attributes:
        flow: from each frame of the level to the next, cells of its grid, (B, 2, T − 1, h, w).
        level: whose grid and frame rate these are.
    """

    flow: Tensor
    level: int


def estimate_flow(task: MotionTask, clip: Tensor) -> FlowEstimate | None:
    """Ask the flow decoder that a task trains, if it trains one.

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


def flow_rows(batch: VideoBatch, estimate: FlowEstimate) -> list[Tensor]:
    """Draw one row for each clip: a frame, the next one, the estimated flow, and the frame rebuilt with it.

    Args:
        batch: the clips; where they come with their true flow it is drawn too, before the estimate.
        estimate: of these clips.

    Returns:
        For each clip an image, uint8, (3, rows of pixels, columns of pixels).
    """
    clip, flow = batch["video"].cpu(), estimate.flow.float().cpu()
    frames = clip[:, :, :: 2**estimate.level]
    middle = flow.shape[2] // 2
    first, second = frames[:, :, middle].float() / 255, frames[:, :, middle + 1].float() / 255
    height, width = clip.shape[3:]
    flows = [flow[:, :, middle]]
    if "flow" in batch and batch["flow"].shape[2] == flow.shape[2] + 1:
        true = at_grid(batch["flow"].cpu().float(), flow)
        flows.insert(0, torch.unflatten(true, 0, (len(clip), -1))[:, middle])
    # One call for all, so that a colour means the same motion everywhere.
    colours = flow_to_image(torch.cat(flows)).float().div(255).chunk(len(flows))
    scale = torch.tensor([width / flow.shape[4], height / flow.shape[3]]).view(1, 2, 1, 1)
    smooth = F.interpolate(flows[-1], (height, width), mode="bilinear", align_corners=False)
    rebuilt, valid = warp(second, smooth * scale)
    columns = [
        first,
        second,
        *(F.interpolate(c, (height, width)) for c in colours),
        rebuilt * valid,
    ]
    return [_side_by_side(row) for row in torch.stack(columns, dim=1)]


def heat_row(clip: Tensor, heat: Tensor, frames: int = 4) -> Tensor:
    """Draw frames of one clip above the same frames under a map of what spoke for a class.

    Args:
        clip: RGB in 0..255, (3, T, H, W).
        heat: 0..1, (T, H, W).
        frames: how many of the T are shown.

    Returns:
        An image, uint8, (3, rows of pixels, columns of pixels).
    """
    times = torch.linspace(0, clip.shape[1] - 1, min(frames, clip.shape[1])).round().long()
    shown = clip[:, times].movedim(1, 0).float().cpu() / 255
    weight = heat[times].float().cpu()[:, None].clamp(0, 1)
    # From black over red and yellow to white, stronger where the map is.
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
    pictures = frames.movedim(0, -1).cpu().contiguous().numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _side_by_side(images: Tensor | Sequence[Tensor], columns: int | None = None) -> Tensor:
    grid: Tensor = make_grid(images, nrow=columns or len(images), padding=2, pad_value=1.0)
    return grid.mul(255).round().clamp(0, 255).to(torch.uint8)

"""Figure 4: where the networks of Table 2 look (Grad-CAM++), and how much of that moves.

Measured at res5, as in the paper, and at the last stage with at least 7 × 7 cells, which is res5 at 224 × 224.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.utils import make_grid, save_image

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.storage import whole
from hcml_lightning.tasks import RecognitionTask
from hcml_lightning.tools.pictures.grad_cam import grad_cam, moving_mass, moving_pixels
from protocol import QUANTITY, Protocol, circumstances, is_done, write_rows
from table2 import METHODS

# Rows of the picture.
VIDEOS = 5
CELLS = 7
RES5 = 3


def run(protocol: Protocol, dataset: str, split: int, seed: int) -> None:
    """Measure and draw the maps of the true class on the test videos.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of the runs of Table 2.
    """
    table = protocol.results / "measurements.csv"
    shown: list[Tensor] = []
    video = torch.empty(0)
    for method, stages in METHODS.items():
        key = {
            **{"experiment": "figure4", "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        training = protocol.run(method, dataset, split, seed, stages[:-1])[-1]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        task = RecognitionTask.load_from_checkpoint(training.checkpoint, map_location=device).eval()
        loader = _videos(training.checkpoint)
        batch = _few(loader)
        video = batch["video"]
        level = _fine(task, video)
        if not is_done(table, key):
            same = key | circumstances(protocol)
            rows = [
                same | {"quantity": k, "value": f"{v:.4g}"}
                for k, v in _shares(task, loader, level).items()
            ]
            write_rows(table, QUANTITY, rows)
        heat = grad_cam(task.model.network, video.to(device), batch["label"], level)
        shown.append(_over(video, heat))
    if seed == 0:
        _draw(video, shown, protocol.results / "figures" / f"figure4_{dataset}_{protocol.name}.png")


def _videos(checkpoint: str) -> DataLoader[VideoBatch]:
    data = UCF101DataModule.load_from_checkpoint(checkpoint)
    data.setup("validate")
    return data.val_dataloader()


def _fine(task: RecognitionTask, clip: Tensor) -> int:
    """Return the last level whose maps have at least `CELLS` cells per side, or 0 if none has."""
    for level in range(RES5, 0, -1):
        with torch.no_grad():
            maps = task.model.network.appearance(clip[:1].to(task.device), level)
            if min(maps.shape[-2:]) >= CELLS:
                return level
    return 0


def _shares(task: RecognitionTask, loader: DataLoader[VideoBatch], fine: int) -> dict[str, float]:
    """Return the share of the maps' mass that lies on moving pixels, and the share of pixels that move, in %."""
    found: dict[str, list[Tensor]] = {}
    for batch in loader:
        clip = batch["video"]
        for level in {RES5, fine}:
            heat = grad_cam(task.model.network, clip.to(task.device), batch["label"], level)
            found.setdefault(f"moving mass at res{level + 2}", []).append(moving_mass(heat, clip))
        moving = moving_pixels(clip).float().mean(dim=(1, 2, 3))
        found.setdefault("moving pixels", []).append(moving)
    shares = {name: torch.cat(values) for name, values in found.items()}
    # The share of a map without any mass is NaN.
    known = {name: float(100 * share.nanmean()) for name, share in shares.items()}
    return known | {
        "maps without mass": float(sum(share.isnan().sum() for share in shares.values()))
    }


def _few(loader: DataLoader[VideoBatch]) -> VideoBatch:
    """Return a batch of a few videos, evenly spread over the classes."""
    count = len(loader.dataset)  # type: ignore[arg-type]
    chosen = range(count // (2 * VIDEOS), count, max(1, count // VIDEOS))
    some = Subset(loader.dataset, list(chosen)[:VIDEOS])
    batch: VideoBatch = next(iter(DataLoader(some, VIDEOS, collate_fn=loader.collate_fn)))
    return batch


def _over(video: Tensor, heat: Tensor) -> Tensor:
    """Return the frame at 3/8 of the clip in grey, with its map on top in red: (B, 3, H, W) in 0..1."""
    place = video.shape[2] * 3 // 8
    grey = video[:, :, place].float().mean(dim=1) / 255
    hot = heat[:, place]
    return torch.stack(
        [grey + (1 - grey) * hot, grey * (1 - 0.6 * hot), grey * (1 - 0.8 * hot)], dim=1
    )


def _draw(video: Tensor, shown: list[Tensor], path: Path) -> None:
    """Draw one row for each video: frame, next frame, and the maps of all methods."""
    place = video.shape[2] * 3 // 8
    frames = [video[:, :, place].float() / 255, video[:, :, place + 1].float() / 255]
    columns = [F.interpolate(image, scale_factor=3, mode="bilinear") for image in (*frames, *shown)]
    grid = make_grid(
        torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns), padding=6, pad_value=1
    )
    with whole(path, ".part.png") as partial:
        save_image(grid, partial)

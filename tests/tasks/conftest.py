"""Batches of moving noise, and a trainer that runs a few steps on a CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

TINY: dict[str, Any] = {
    "backbone": "r2d_tiny",
    "num_classes": 4,
    "warmup_epochs": 0,
    "max_offset": 2,
}


# Settings of a trainer that runs on a CPU, prints nothing and saves nothing.
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Drift(Dataset[dict[str, Any]]):
    """Smooth noise that drifts by one cell of level 0 a frame, in the direction that is its label."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        noise = torch.rand(1, 3, 8, 8, generator=generator) * 255
        image = torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(0, 255)
        step = [(4, 0), (-4, 0), (0, 4), (0, -4)][index % 4]
        frames = [image[0].roll((step[1] * t, step[0] * t), (1, 2)) for t in range(8)]
        flow = torch.tensor(step, dtype=torch.float32).view(2, 1, 1, 1).repeat(1, 8, 32, 32)
        flow[:, -1] = 0
        return {
            "video": torch.stack(frames, 1).to(torch.uint8),
            "label": index % 4,
            "index": index,
            "video_id": f"drift{index}",
            "flow": flow,
        }


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def loader() -> DataLoader[dict[str, Any]]:
    return DataLoader(Drift(), batch_size=4)


@pytest.fixture
def fit(tmp_path: Path, loader: DataLoader[dict[str, Any]]) -> Iterator[Callable[..., pl.Trainer]]:
    """Fit a task on the drifting noise; keyword arguments go to the trainer."""

    def run(task: pl.LightningModule, ckpt_path: str | None = None, **options: Any) -> pl.Trainer:
        pl.seed_everything(0, verbose=False)
        settings: dict[str, Any] = {
            **QUIET,
            "max_epochs": 1,
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
        }
        trainer = pl.Trainer(**(settings | options))
        trainer.fit(task, loader, loader, ckpt_path=ckpt_path)
        return trainer

    return run

"""[a task → **how long one step of its training takes**]

A real step: forward, backward and the optimizer's, through the Trainer, on batches of noise that are on the device
before the step begins to wait for them.
"""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data import VideoDataModule
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.noise import quiet

# Kernels are chosen, and memory is found, in the first steps.
WARM_UP = 5


class _Clock(pl.Callback):
    """Times the steps after the first ones, and waits for the device at both ends alone."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun, self.seconds = steps, 0.0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        done = trainer.fit_loop.total_batch_idx + 1
        if done in (WARM_UP, WARM_UP + self.steps):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.begun
            self.begun = time.perf_counter()


def step_seconds(
    task: MotionTask, data: VideoDataModule, steps: int = 20, precision: str = "32-true"
) -> float:
    """Time training steps of a task on the batches that a data module would give, on one GPU where there is one.

    Args:
        task: trained in place, on noise: of no use afterwards.
        data: says how large a batch and its clips are.
        steps: to time.
        precision: of the Trainer.

    Returns:
        Seconds for each step.
    """
    # Training would copy the next ones, from pinned memory, while a step goes on.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = [random_batch(data, seed, device) for seed in range(2)]
    loader: DataLoader[VideoBatch] = DataLoader(
        [batches[i % 2] for i in range(WARM_UP + steps)],  # type: ignore[arg-type]
        batch_size=None,
    )
    clock = _Clock(steps)
    trainer = pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_autolog_hparams=False,
    )
    with quiet():
        trainer.fit(task, loader, loader)
    return clock.seconds / steps


def random_batch(data: VideoDataModule, seed: int, device: str = "cpu") -> VideoBatch:
    """Make a batch of noise, of the shape that training would see."""
    draw = torch.Generator().manual_seed(seed)
    clips, frames, side = data.batch_size, *data.clip_shape
    video = torch.randint(256, (clips, 3, frames, side, side), dtype=torch.uint8, generator=draw)
    label = torch.randint(max(1, data.num_classes), (clips,), generator=draw)
    return VideoBatch(
        video=video.to(device),
        label=label.to(device),
        index=torch.arange(clips, device=device),
        video_id=[str(number) for number in range(clips)],
    )

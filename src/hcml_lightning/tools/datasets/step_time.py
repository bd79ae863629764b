"""[a task → **how long one step of its training takes**]

A real step (forward, backward and optimizer) through the Trainer, on batches of noise that are already on the device,
so that no step waits for data.
"""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data import VideoDataModule
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.console.noise import quiet

# The first steps are not timed, because kernels are chosen and memory is allocated in them.
WARM_UP = 5


class _Clock(pl.Callback):
    """Time the steps after the first ones, and wait for the device only before the first and after the last of them."""

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
    """Time training steps of a task on batches shaped like those of a data module, on one GPU if there is one.

    Args:
        task: task to train; it is trained in place on noise, and of no use afterwards.
        data: data module that gives the size of a batch and its clips.
        steps: number of steps to time.
        precision: precision of the Trainer.

    Returns:
        Seconds for each step, on average.
    """
    # On the device already, because training would copy the next batch from pinned memory during a step.
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
    """Make a batch of noise in the shape of a training batch."""
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

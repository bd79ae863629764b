"""Callbacks that end or spoil one process of a run, for test_ranks.py."""

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch


class Dies(pl.Callback):
    """Kills the process of a rank before its second batch.

    Args:
        rank: of the process.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


class Spoils(pl.Callback):
    """Fills the second batch of a rank with NaN.

    Args:
        rank: of the process.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1 and trainer.global_rank == self.rank:
            batch["video"] = torch.full(batch["video"].shape, torch.nan)

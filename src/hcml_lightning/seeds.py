"""[seed → **each batch** → what it draws at random]

Random numbers that do not depend on what came before, so that a resumed run draws the same as an uninterrupted one.
"""

import os
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class SeedEachBatch(pl.Callback):
    """Draw the random numbers of each batch from the run's seed and the number of the batch alone.

    Otherwise a run resumed from a checkpoint would sample other locations and drop other units than an uninterrupted
    one. In training each process draws its own numbers; in validation and test the numbers of a batch are the same
    whichever process evaluates it. The seed is that of `pl.seed_everything`, or else torch's own; a resumed run keeps
    its seed. After the run torch's random state is restored, so that two successive runs do not start from the same
    weights.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._outside = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look up the seed, and remember torch's random state."""
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        self._outside.enter_context(torch.random.fork_rng(devices))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore torch's random state."""
        self._outside.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Restore torch's random state."""
        self._outside.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the remembered random state, which only the original restores."""
        return {**self.__dict__, "_outside": ExitStack()}

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, to be stored in checkpoints."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed, so that the resumed run draws the same numbers."""
        self._seed = state_dict["seed"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed by epoch and process, before a loader that shuffles with torch's random numbers does so.

        In a resumed run, Lightning may have started such a loader earlier; only loaders of this package, and others
        that have a `state_dict`, continue in the same order.
        """
        self._sow(4, trainer.current_epoch, trainer.global_rank)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed by epoch, batch and process."""
        self._sow(1, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Seed by loader and by the number of the batch among the batches of all processes."""
        self._sow(2, dataloader_idx, batch_idx * trainer.world_size + trainer.global_rank)

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Seed as in validation, but with other numbers."""
        self._sow(3, dataloader_idx, batch_idx * trainer.world_size + trainer.global_rank)

    def _sow(self, *numbers: int) -> None:
        state = np.random.SeedSequence([self._seed, *numbers]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

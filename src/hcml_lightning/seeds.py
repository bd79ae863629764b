"""[seed → **each batch** → what it draws at random]

Randomness that does not depend on what came before, so that a run that goes on draws what it would have drawn.
"""

import os
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class SeedEachBatch(pl.Callback):
    """Draw the random numbers of each batch from the seed and the number of the batch alone.

    Else a run that goes on from a checkpoint would train on other places and drop other units than it would have. Each
    process draws its own in training; in validation and test those of a batch are the same whichever process has it.
    The seed is that of `pl.seed_everything`, or else torch's own; a run that goes on keeps the one that it had. After
    the run torch draws on where it was before it, so that two runs do not begin with the same weights.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._outside = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look up the seed, and remember where torch's numbers stand."""
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        self._outside.enter_context(torch.random.fork_rng(devices))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Go back to there."""
        self._outside.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Go back to there."""
        self._outside.close()

    def __getstate__(self) -> dict[str, Any]:
        """All but the numbers outside of this run, which a copy has no share in."""
        return {**self.__dict__, "_outside": ExitStack()}

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw what the run would have drawn."""
        self._seed = state_dict["seed"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed by the epoch: a loader that shuffles by torch's own numbers does so after this.

        In a run that goes on, Lightning may have begun such a loader before; only loaders of this package, and others
        that have a `state_dict`, go on in the order that they were in.
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
        """Seed by the number of the batch among those of all processes."""
        self._sow(2, dataloader_idx, batch_idx * trainer.world_size + trainer.global_rank)

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As in validation."""
        self._sow(3, dataloader_idx, batch_idx * trainer.world_size + trainer.global_rank)

    def _sow(self, *numbers: int) -> None:
        state = np.random.SeedSequence([self._seed, *numbers]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

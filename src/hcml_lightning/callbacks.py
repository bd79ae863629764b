"""[task → **what it trains**]

The behaviour of training that is no part of any one task.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn


class LastCheckpoint(ModelCheckpoint):
    """Keep `last.ckpt`, the state after the last epoch, whatever became of the metric that is watched.

    `ModelCheckpoint(monitor=…, save_last=True)` writes its last.ckpt only when the monitored metric is among the best,
    so that a run would resume from, and the next stage start from, some epoch before the last.

    Args:
        dirpath: folder of the file; Lightning's choice where None.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            monitor=None,
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            # A resumed run goes on writing last.ckpt, not last-v1.ckpt.
            enable_version_counter=False,
        )


class CollapseError(RuntimeError):
    """Features that all point in one direction: nothing can be learned from them any more."""


class StopOnCollapse(pl.Callback):
    """Stop a self-supervised stage whose features have collapsed, before the stages above are built on them.

    Looks at `val/spread_l*` after each validation: about 0.8 in a healthy stage, 0 after a collapse.

    Args:
        least_spread: what the spread of every level must exceed.
    """

    def __init__(self, least_spread: float = 0.05) -> None:
        self.least_spread = least_spread

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the validation of a training run logged."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/spread_l") and not value > self.least_spread:
                raise CollapseError(
                    f"epoch {trainer.current_epoch + 1}: the motion features of level {name[-1]} have collapsed: their "
                    f"spread, {name}, is {value:.3g} and should be near 0.8 (0 means that all point in one direction). "
                    "The last checkpoint before this epoch is whole. Lower lr or raise warmup_epochs; in a contrastive "
                    "stage also raise batch_size or num_locations, for more negatives"
                )


@runtime_checkable
class _TrainsSome(Protocol):
    def trained_modules(self) -> list[nn.Module]: ...


class TrainOnly(pl.Callback):
    """Freeze all modules but those that the task names: no gradients, batch norm on its own statistics.

    Both matter. Batch norm that still normalised by the batch would let a frozen P^{l−1} move with a clip's batch
    mates, and parameters that the loss does not reach would stop training on several devices.

    Args:
        modules: what stays trainable; what `task.trained_modules()` gives where None.
    """

    def __init__(self, modules: list[nn.Module] | None = None) -> None:
        self.modules = modules

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the optimizer is made, so that it holds nothing frozen."""
        if stage == "fit":
            pl_module.requires_grad_(False)
            for module in self._trained(pl_module):
                module.requires_grad_(True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that is resumed inside an epoch has no epoch start."""
        self._set_modes(pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning restores these modes after every validation."""
        self._set_modes(pl_module)

    def _set_modes(self, task: pl.LightningModule) -> None:
        task.eval()
        for module in self._trained(task):
            module.train()

    def _trained(self, task: pl.LightningModule) -> list[nn.Module]:
        if self.modules is not None:
            return self.modules
        if not isinstance(task, _TrainsSome):
            raise TypeError(
                f"{type(task).__name__} does not say what it trains: give it a method trained_modules() "
                "or name the modules, TrainOnly([...])"
            )
        return task.trained_modules()

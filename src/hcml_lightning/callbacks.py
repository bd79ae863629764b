"""[task → **what it trains**]

The behaviour of training that is no part of any one task.
"""

import math
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class CollapseError(RuntimeError):
    """Features that all point in one direction: nothing can be learned from them any more."""


class NotFiniteError(FloatingPointError):
    """A loss, a gradient, a weight or a feature is NaN or infinite; the message says where."""


class StopOnCollapse(pl.Callback):
    """Stop a self-supervised stage whose features have collapsed, before the stages above are built on them.

    Looks at `val/spread_l*` after each validation: about 0.8 in a healthy stage, 0 after a collapse, NaN where features
    are not finite. `FiniteNumbers` reports non-finite training, before any validation.

    Args:
        least_spread: what the spread of every level must exceed.
    """

    def __init__(self, least_spread: float = 0.05) -> None:
        self.least_spread = least_spread

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the validation of a training run logged.

        Raises:
            CollapseError: if the spread of a level is too small.
            NotFiniteError: if it is NaN.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/spread_l") and not value > self.least_spread:
                raise _fault(f"epoch {trainer.current_epoch + 1}", name, float(value))


def _fault(epoch: str, name: str, spread: float) -> Exception:
    """Say what a spread means that is too small, or no number."""
    features = f"{epoch}: the motion features of level {name[-1]}"
    whole = "The last checkpoint before this epoch is whole."
    if math.isnan(spread):
        return NotFiniteError(
            f"{features} are not finite in validation ({name} is nan): probably numbers overflow there, where batch "
            f"norm uses its running statistics. {whole} Lower lr, or train with --trainer.precision bf16-mixed or 32"
        )
    return CollapseError(
        f"{features} have collapsed: their spread, {name}, is {spread:.3g} and should be near 0.8 (0 means that all "
        f"point in one direction). {whole} Lower lr or raise warmup_epochs; in a contrastive stage also raise "
        "batch_size or num_locations, for more negatives"
    )


@runtime_checkable
class _TrainsSome(Protocol):
    def trained_modules(self) -> list[nn.Module]: ...


class TrainOnly(pl.Callback):
    """Freeze all modules but those that the task names: no gradients, batch norm on its running statistics.

    Both matter. Batch norm that still normalised by the batch would let a frozen P^{l−1} move with a clip's batch
    mates, and parameters that the loss does not reach would stop training on several devices.

    Args:
        modules: what stays trainable; what `task.trained_modules()` gives where None.
    """

    # Unstated in the paper: by which statistics the batch norms of fixed levels normalise. By the running ones.
    def __init__(self, modules: list[nn.Module] | None = None) -> None:
        self.modules = modules

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the optimizer is made, so that it holds nothing frozen."""
        if stage == "fit":
            by_hand = {name for name, p in pl_module.named_parameters() if not p.requires_grad}
            pl_module.requires_grad_(False)
            for module in self._trained(pl_module):
                module.requires_grad_(True)
            self._remark(pl_module, by_hand)

    def _remark(self, task: pl.LightningModule, by_hand: set[str]) -> None:
        """Say what is trained or frozen otherwise than somebody may have meant it."""
        trained = {name for name, p in task.named_parameters() if p.requires_grad}
        if wrong := sorted(by_hand & trained):
            rank_zero_warn(
                f"parameters were frozen, and train here all the same ({len(wrong)}, the first {wrong[0]}): "
                f"trained_modules() of {type(task).__name__} names them. To train fewer modules, give the Trainer "
                "TrainOnly([...]) of hcml_lightning.callbacks"
            )
        # Parts of a model are frozen on purpose; what stands beside it, somebody has added to train it.
        names = [name for name, _ in task.named_parameters() if not name.startswith("model.")]
        idle = [name for name in names if name not in trained]
        if idle and self.modules is None and hasattr(task, "model"):
            rank_zero_warn(
                f"parameters stay as they are ({len(idle)}, the first {idle[0]}): trained_modules() of "
                f"{type(task).__name__} does not name them"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for what would change frozen levels all the same.

        Raises:
            ValueError: if there are frozen batch norms and Lightning's averaging of weights, which resets the
                statistics of all of them at its end and relearns only those of what trains.
        """
        frozen = {id(m) for m in pl_module.modules() if isinstance(m, _BatchNorm)}
        frozen -= {id(m) for module in self._trained(pl_module) for m in module.modules()}
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if frozen and any(isinstance(c, StochasticWeightAveraging) for c in callbacks):
            raise ValueError(
                "StochasticWeightAveraging would reset the batch norms of the levels that this stage freezes; average "
                "with WeightAveraging (pytorch_lightning.callbacks; multi_avg_fn=get_ema_multi_avg_fn() for an "
                "exponential mean), or in a stage that trains the whole network. EMAWeightAveraging moves frozen "
                "weights by what it rounds"
            )

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

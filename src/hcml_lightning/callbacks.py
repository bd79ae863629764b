"""[task → **what it trains**]

Callbacks of training that do not belong to a single task, and the errors that they raise.
"""

import math
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class CollapseError(RuntimeError):
    """All features point in one direction, so that nothing more can be learned from them."""


class NotFiniteError(FloatingPointError):
    """A loss, a gradient, a weight or a feature is NaN or infinite; the message names the place."""


class StopOnCollapse(pl.Callback):
    """Stop a self-supervised stage whose features have collapsed, before the stages above are built on them.

    Checks `val/spread_l*` after each validation: it is about 0.8 in a healthy stage, 0 after a collapse, and NaN if
    features are not finite. `FiniteNumbers` reports non-finite numbers of training earlier, before any validation.

    Args:
        least_spread: value that the spread of every level must exceed.
    """

    def __init__(self, least_spread: float = 0.05) -> None:
        self.least_spread = least_spread

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the spreads that a validation during training logged.

        Raises:
            CollapseError: if the spread of a level is too small.
            NotFiniteError: if the spread of a level is NaN.
        """
        # A Trainer keeps its callbacks: one that has run a self-supervised stage may go on to train with labels.
        learns_alone = getattr(pl_module, "SELF_SUPERVISED", True)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not learns_alone:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/spread_l") and not value > self.least_spread:
                raise _fault(f"epoch {trainer.current_epoch + 1}", name, float(value))


def _fault(epoch: str, name: str, spread: float) -> Exception:
    """Return the error for a spread that is too small or NaN."""
    features = f"{epoch}: the motion features of level {name[-1]}"
    whole = "The last checkpoint before this epoch is intact."
    if math.isnan(spread):
        return NotFiniteError(
            f"{features} are not finite in validation ({name} is nan), probably because numbers overflow when batch "
            f"norm uses its running statistics. {whole} Lower lr, or train with --trainer.precision bf16-mixed or 32."
        )
    return CollapseError(
        f"{features} have collapsed: their spread, {name}, is {spread:.3g} and should be near 0.8 (0 means that all "
        f"point in the same direction). {whole} Lower lr or raise warmup_epochs; in a contrastive stage also raise "
        "batch_size or num_locations to get more negatives."
    )


@runtime_checkable
class _TrainsSome(Protocol):
    def trained_modules(self) -> list[nn.Module]: ...


class TrainOnly(pl.Callback):
    """Freeze all modules except those that the task names: no gradients, batch norm with its running statistics.

    Both matter. If batch norm still normalised by batch statistics, a frozen P^{l−1} would depend on the other clips of
    the batch; and trainable parameters that the loss does not reach would abort training on several devices.

    Args:
        modules: modules that stay trainable; those of `task.trained_modules()` if None.
    """

    # Unstated in the paper: which statistics the batch norms of frozen levels normalise with. Here the running ones.
    def __init__(self, modules: list[nn.Module] | None = None) -> None:
        self.modules = modules

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze parameters before the optimizer is created, so that it holds no frozen ones."""
        if stage == "fit":
            by_hand = {name for name, p in pl_module.named_parameters() if not p.requires_grad}
            pl_module.requires_grad_(False)
            for module in self.trained(pl_module):
                module.requires_grad_(True)
            self._remark(pl_module, by_hand)

    def _remark(self, task: pl.LightningModule, by_hand: set[str]) -> None:
        """Warn about parameters that are trained or frozen although the user may have intended otherwise."""
        trained = {name for name, p in task.named_parameters() if p.requires_grad}
        if wrong := sorted(by_hand & trained):
            rank_zero_warn(
                f"frozen parameters are trained anyway ({len(wrong)}, first: {wrong[0]}), because trained_modules() of "
                f"{type(task).__name__} lists them; to train fewer modules, pass TrainOnly([...]) from "
                "hcml_lightning.callbacks to the Trainer"
            )
        # Parts of `model` are frozen on purpose, but modules next to it were probably added to be trained.
        names = [name for name, _ in task.named_parameters() if not name.startswith("model.")]
        idle = [name for name in names if name not in trained]
        if idle and self.modules is None and hasattr(task, "model"):
            rank_zero_warn(
                f"parameters are not trained ({len(idle)}, first: {idle[0]}), because trained_modules() of "
                f"{type(task).__name__} does not list them; add their modules to it to train them"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse callbacks that would change frozen levels.

        Raises:
            ValueError: if there are frozen batch norms and Lightning's `StochasticWeightAveraging`, which at its end
                resets the statistics of all batch norms and recomputes only those of the modules that train.
        """
        frozen = {id(m) for m in pl_module.modules() if isinstance(m, _BatchNorm)}
        frozen -= {id(m) for module in self.trained(pl_module) for m in module.modules()}
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if frozen and any(isinstance(c, StochasticWeightAveraging) for c in callbacks):
            raise ValueError(
                "StochasticWeightAveraging would reset the batch norms of the levels that this stage freezes, and "
                "EMAWeightAveraging would change frozen weights by rounding; use WeightAveraging "
                "(pytorch_lightning.callbacks; multi_avg_fn=get_ema_multi_avg_fn() for an exponential moving average), "
                "or average in a stage that trains the whole network"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the modes here too, because a run that is resumed inside an epoch has no epoch start."""
        self._set_modes(pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the modes for the epoch; Lightning restores them after every validation."""
        self._set_modes(pl_module)

    def _set_modes(self, task: pl.LightningModule) -> None:
        task.eval()
        for module in self.trained(task):
            module.train()

    def trained(self, task: pl.LightningModule) -> list[nn.Module]:
        """Return the modules of a task that train.

        Raises:
            TypeError: if neither this callback nor the task names them.
        """
        if self.modules is not None:
            return self.modules
        if not isinstance(task, _TrainsSome):
            raise TypeError(
                f"{type(task).__name__} does not say what it trains; add a method trained_modules() to it "
                "or name the modules with TrainOnly([...])"
            )
        return task.trained_modules()

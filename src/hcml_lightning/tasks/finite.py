"""[batch → loss → gradient → **finite?** → weights]

Stop a run whose numbers are no longer finite, and report where that began; no checkpoint of such weights is written.
"""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

from hcml_lightning.callbacks import NotFiniteError
from hcml_lightning.naming import first_few
from hcml_lightning.tasks.description import title

# A GradScaler halves its scale at each gradient that is not finite. It starts at 65536 and reaches this value after
# thirty of them in a row; by then the scale cannot be the reason.
SMALLEST_SCALE = 2.0**-14
MOST_NAMED = 16


class _Seen(NamedTuple):
    """Numbers of one batch, kept on the device until they are checked.

    Attributes:
        where: step, epoch and batch, for the message.
        videos: names of the videos in the batch.
        names: names of the numbers.
        values: the numbers, shape (len(names),).
        processes: number of processes of the run.
    """

    where: str
    videos: list[str]
    names: tuple[str, ...]
    values: Tensor
    processes: int


class FiniteNumbers(pl.Callback):
    """Stop if a term of the loss, the gradient or a weight is not finite, and name the step and its videos.

    On a CPU each batch is checked before the optimizer uses its gradient. On a GPU that would make the CPU wait for the
    device at every step; there the numbers stay on the device for `trainer.log_every_n_steps` batches, so that a run
    stops up to as many steps late, but still names the first bad batch. Weights are checked after as many batches,
    before every validation, whose metrics would otherwise be misleading, and before every checkpoint, so that one with
    weights that are not finite is never written.

    Under a GradScaler, gradients that are not finite are expected, and it skips their steps. Then only the loss, the
    weights and a scale that keeps falling are checked.
    """

    def __init__(self) -> None:
        self._seen: list[_Seen] = []
        self._videos: list[str] = []
        self._where = ""
        self._batches = 0
        self._error: NotFiniteError | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the numbers of an earlier run of the same Trainer."""
        self._seen, self._error, self._batches = [], None, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which batch this is."""
        names = batch.get("video_id", ()) if isinstance(batch, dict) else ()
        self._videos = list(names)
        rank = f", rank {trainer.global_rank}" if trainer.world_size > 1 else ""
        self._where = (
            f"step {trainer.global_step} (epoch {trainer.current_epoch}, batch {batch_idx}{rank})"
        )

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the terms of the loss for the next check."""
        terms = getattr(pl_module, "terms", {})
        # The total loss comes last, because its terms say more about the cause.
        ordered = sorted(terms, key=lambda name: name.endswith("loss"))
        tensors = {n: v for n in ordered if isinstance(v := terms[n], Tensor) and v.numel() == 1}
        if tensors:
            values = torch.stack([value.detach().reshape(()).float() for value in tensors.values()])
            self._keep(trainer, tuple(tensors), values)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the largest gradient; on a CPU check all kept numbers before the optimizer uses it."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if _scaler(trainer) is None and gradients:
            self._keep(trainer, ("gradient",), _largest(gradients).reshape(1).float())
        if _is_quick_to_ask(pl_module):
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the kept numbers and the weights after every `trainer.log_every_n_steps` batches."""
        self._batches += 1
        if self._batches >= max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            self._batches = 0
            self._look(trainer, pl_module)
            self._check_weights(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the kept numbers and the weights before a validation during training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._look(trainer, pl_module)
            self._check_weights(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write a checkpoint if numbers of training or weights are not finite.

        Raises:
            NotFiniteError: if one is not finite; it is raised before anything is written.
        """
        self._look(trainer, pl_module)
        self._check_weights(pl_module)

    def _keep(self, trainer: pl.Trainer, names: tuple[str, ...], values: Tensor) -> None:
        self._seen.append(_Seen(self._where, self._videos, names, values, trainer.world_size))

    def _look(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Wait for the device, and stop if a kept number is not finite or the GradScaler's scale is too small."""
        seen, self._seen = self._seen, []
        if seen and not bool(torch.cat([s.values for s in seen]).isfinite().all()):
            first = next(s for s in seen if not bool(s.values.isfinite().all()))
            self._stop(f"{title(task)}: {_describe(first)}")
        scaler = _scaler(trainer)
        if scaler is not None and scaler.get_scale() < SMALLEST_SCALE:
            self._stop(
                f"{title(task)}: the gradient has not been finite for many steps up to {self._where}, whatever the "
                f"scale of the loss (GradScaler is at {scaler.get_scale():.1e}); train with --trainer.precision "
                "bf16-mixed or 32"
            )

    def _check_weights(self, task: pl.LightningModule) -> None:
        """Stop if a weight or a running statistic is not finite."""
        named = {n: t for n, t in task.state_dict().items() if t.is_floating_point() and t.numel()}
        if bool(_largest(list(named.values())).isfinite()):
            return
        wrong = [name for name, tensor in named.items() if not bool(tensor.isfinite().all())]
        if self._error is not None:
            raise self._error
        self._stop(
            f"{title(task)}: after {self._where or 'loading'}, {len(wrong)} of {len(named)} weights are not finite "
            f"(first: {wrong[0]}) although loss and gradient were, so a step was too large; "
            f"{_REMEDY}{_named(self._videos)}"
        )

    def _stop(self, message: str) -> None:
        self._error = NotFiniteError(
            f"{message}\nThe last checkpoint was written before that and is unchanged."
        )
        raise self._error


_REMEDY = "lower --model.lr, raise --model.warmup_epochs, or set --trainer.gradient_clip_val 1. "


def _describe(seen: _Seen) -> str:
    values = dict(zip(seen.names, seen.values.tolist(), strict=True))
    finite = dict(zip(seen.names, seen.values.isfinite().tolist(), strict=True))
    wrong = ", ".join(f"{name} is {values[name]}" for name in values if not finite[name])
    good = ", ".join(f"{name} {values[name]:.4g}" for name in values if finite[name])
    known = f" ({good})" if good else ""
    elsewhere = (
        f"Batch norm and the gradient mix the numbers of all {seen.processes} processes, so the bad batch may belong "
        "to another process, which names its own. "
    )
    return (
        f"{wrong} at {seen.where}{known}. {elsewhere if seen.processes > 1 else ''}"
        "Check the videos of this batch (`hcml data check` decodes all videos); if they are good, "
        f"{_REMEDY}{_named(seen.videos)}"
    )


def _named(videos: list[str]) -> str:
    if not videos:
        return ""
    return "Videos in the batch: " + first_few([repr(video) for video in videos], MOST_NAMED)


def _is_quick_to_ask(task: pl.LightningModule) -> bool:
    return task.device.type == "cpu"


def _scaler(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    plugin = trainer.precision_plugin
    return plugin.scaler if isinstance(plugin, MixedPrecision) else None


def _largest(tensors: list[Tensor]) -> Tensor:
    """Return the largest magnitude in some tensors, NaN if one has a NaN; a sum of squares could overflow."""
    return torch.nn.utils.get_total_norm(tensors, norm_type=torch.inf)

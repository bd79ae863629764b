"""[run → **its newest state** → the same run, resumed]

Checkpoints from which an interrupted run is resumed, so that it ends as if it had not been interrupted. `seeds.py`
makes its random numbers independent of what came before.
"""

import io
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from hcml_lightning.checkpoint_files import previous_of, write_checkpoint
from hcml_lightning.stop_signals import Stopped, StopRequest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints completely or not at all, and keep the one that each replaces next to it.

    Lightning's own plugin writes to the folder for temporary files and moves the file from there. To another disk, the
    move is a copy over the previous checkpoint, which a kill leaves truncated; and the file is not synced to the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written; the message says what to do, and the previous checkpoint is kept.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # Do not let torch write the file itself, because it would hide the disk's error behind one of its own.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_checkpoint(Path(path), buffer.getbuffer())

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that is no longer among the best, and the one that it replaced."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            previous_of(Path(path)).unlink(missing_ok=True)


class ResumedLoader(pl.Callback):
    """Let training continue after the last video of the checkpoint, even if batches or ranks have changed.

    Lightning restores the state of loaders when it sets them up. If a schedule has asked for their length, that is too
    early: the part of the checkpoint that holds their state is read later. And it would go on counting batches from the
    stored number, so that with smaller batches the end of the epoch, and its validation, would not be noticed.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the stored state of the loader."""
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        self._states = loop.get("state_dict", {}).get("combined_loader", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state of the loader before its first batch is requested, and Lightning's count of batches."""
        states, self._states = self._states, []
        loader = trainer.train_dataloader
        load = getattr(loader, "load_state_dict", None)
        # A data module restores the state of its own loader.
        if load is not None and len(states) == 1 and getattr(trainer, "datamodule", None) is None:
            load(states[0])
        batches_moved = getattr(loader, "batches_moved", None)
        if batches_moved is not None:
            moved = batches_moved(trainer.current_epoch)
            count = trainer.fit_loop.epoch_loop.batch_progress.current
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, getattr(count, name) + moved)


class LastCheckpoint(Checkpoint):
    """Save `last.ckpt`, the newest state, after every epoch, within long epochs, and when the run is asked to end.

    `ModelCheckpoint(monitor=…, save_last=True)` writes its last.ckpt only if the monitored metric is among the best, so
    that a run would be resumed from, and the next stage would start from, an epoch before the last.

    SIGTERM, SIGUSR1 and SIGINT end the run after the current step, or on several GPUs after the next step that is
    logged; if a validation follows that step, one step later. The exit status is 128 + signal. A second SIGINT ends the
    run at once. Lightning itself would end it with status 0 and save nothing.

    Args:
        dirpath: folder of the file; that of the other checkpoints if None.
        every_n_steps: also save after every so many steps, so that a kill loses no more than these; not if None. A save
            that is due just before a validation is made after the next step that no validation follows.
        every_n_epochs: save after every so many epochs, and after the last; above 1 for epochs shorter than a save.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        every_n_steps: int | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        self.dirpath = dirpath
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self._is_saved = True
        self._others: list[ModelCheckpoint] = []
        self._best = ""
        self.path: Path | None = None
        self.metrics: dict[str, float] = {}
        self._request = StopRequest()
        self._due, self._asks_next, self._ends_next = False, False, False

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint, for `ckpt_path="best"`: that of the first `ModelCheckpoint`.

        Lightning asks this callback for it if it comes before the other checkpoint callbacks.
        """
        return self._others[0].best_model_path if self._others else self._best

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        # Lightning sets it to the path that the processes it started have found.
        self._best = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Determine the folder; by now all other checkpoint callbacks know theirs, whatever their order."""
        folder = Path(self.dirpath or Path(trainer.default_root_dir, "checkpoints"))
        self._others = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if self.dirpath is None and self._others and self._others[0].dirpath is not None:
            folder = Path(self._others[0].dirpath)
        self.path = folder / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the signal handlers that Lightning has just installed."""
        self._due, self._asks_next, self._ends_next = False, False, False
        self._request.listen()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time to and a checkpoint can hold the whole state; end the run if it was asked to."""
        self._is_saved = False
        if (batch_idx + 1) % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch:
            # Checkpoints do not hold accumulated gradients, so a request to stop waits for the optimizer step.
            self._ends_next, trainer.should_stop = self._ends_next or trainer.should_stop, False
            return
        trainer.should_stop, self._ends_next = trainer.should_stop or self._ends_next, False
        every = self.every_n_steps
        self._due |= every is not None and trainer.global_step % every == 0
        self._asks_next |= self._asks(trainer, pl_module)
        # The run ends inside the epoch, by its number of steps or its time limit.
        ends = trainer.fit_loop.epoch_loop.done
        # Do not save just before a validation, because a run that is resumed from there would skip it; but a run that
        # ends by its time limit validates wherever it is. After the last step of an epoch, its end saves.
        validates = _validates_after(trainer, batch_idx) and not (ends and trainer.should_stop)
        if validates or trainer.is_last_batch:
            return
        told = not ends and self._asks_next and self._told(trainer)
        self._asks_next = False
        if told or self._due or ends:
            self._save(trainer)
        if told:
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the run ends inside its epoch, with the metrics; later, the rest would count as trained."""
        if trainer.state.fn == "fit" and trainer.should_stop and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time to; end the run if it was asked to and this is not its end anyway."""
        epochs = trainer.current_epoch + 1
        is_last = epochs == trainer.max_epochs or trainer.global_step == trainer.max_steps
        told = self._told(trainer)
        # If the run ended inside the epoch, by time or steps, keep the state saved there: by now, Lightning counts the
        # rest of the epoch as trained.
        cut_off = self._is_saved and not trainer.is_last_batch
        if not cut_off and (told or is_last or epochs % self.every_n_epochs == 0):
            self._save(trainer)
        if told and not is_last:
            self._stop(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics, for a run that is interrupted between its last checkpoint and its end."""
        numbers = {k: torch.as_tensor(v) for k, v in trainer.callback_metrics.items()}
        checkpoint["metrics"] = {k: float(v) for k, v in numbers.items() if v.numel() == 1}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the stored metrics."""
        self.metrics = dict(checkpoint.get("metrics", {}))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if another callback or the time limit ended the run early; restore the earlier signal handlers."""
        if not self._is_saved:
            self._save(trainer)
        self._request.stop_listening()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Restore the earlier signal handlers."""
        self._request.stop_listening()

    def _asks(self, trainer: pl.Trainer, task: pl.LightningModule) -> bool:
        """Return whether the processes exchange requests to end after this step, the same in all of them.

        On several GPUs they do so only at logged steps, because the exchange waits for the GPUs, as logging does.
        """
        alone = trainer.world_size == 1 or task.device.type == "cpu"
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return alone or trainer.global_step % max(1, every) == 0

    def _told(self, trainer: pl.Trainer) -> bool:
        """Return whether any process was asked to end, because all must end after the same step."""
        return trainer.strategy.reduce_boolean_decision(bool(self._request.signum), all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        self._due, self._is_saved = False, True
        if getattr(trainer, "fast_dev_run", False) or self.path is None:
            return
        for logger in trainer.loggers:
            # Write the logs first: after a kill they must hold everything up to the saved state.
            logger.save()
        # False includes the optimizer's state. It is the default, but Lightning logs a line per save if it is not set.
        trainer.save_checkpoint(self.path, weights_only=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        rank_zero_info(f"the run stops here; resume it from {self.path}")
        raise Stopped(self._request.signum or signal.SIGTERM, trainer.is_global_zero)


def _validates_after(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates after this batch.

    Without `check_val_every_n_epoch`, it counts batches across epochs.
    """
    until = trainer.val_check_batch
    count = (
        trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    )
    return isinstance(until, int) and until > 0 and (count + 1) % until == 0

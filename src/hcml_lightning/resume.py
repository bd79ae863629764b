"""[run → **its newest state** → the same run, going on]

What makes a run that was cut off end as if it had not been: a state to go on from. That randomness does not depend on
what came before is for `seeds.py`.
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

from hcml_lightning.stop_signals import Stopped, StopRequest
from hcml_lightning.storage import previous_of, write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, each with the one that it replaced beside it.

    Lightning's own writes into the folder for temporary files and moves the file from there: onto another disk that is
    a copy over the checkpoint before, which a kill leaves cut short, and nothing waits for the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written, with what to do; the one before is untouched.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # Not into the file itself: torch would hide what the disk says behind an error of its own.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_checkpoint(Path(path), buffer.getbuffer())

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that is among the best no longer, and the one that it replaced."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            previous_of(Path(path)).unlink(missing_ok=True)


class ResumedLoader(pl.Callback):
    """Let a training loader that came without a data module go on with the batch after the checkpoint's last.

    Lightning gives loaders what it stored of them when it makes them, which is too early where a schedule has asked for
    their length: the rest of the checkpoint is read later.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember what is stored of the loader."""
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        self._states = loop.get("state_dict", {}).get("combined_loader", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give it back, before the first batch is asked for."""
        states, self._states = self._states, []
        load = getattr(trainer.train_dataloader, "load_state_dict", None)
        if load is not None and len(states) == 1 and getattr(trainer, "datamodule", None) is None:
            load(states[0])


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt`, the newest state: after every epoch, inside long ones, and when the run is told to end.

    `ModelCheckpoint(monitor=…, save_last=True)` writes its last.ckpt only when the monitored metric is among the best,
    so that a run would resume from, and the next stage start from, some epoch before the last.

    SIGTERM, SIGUSR1 and SIGINT end the run after the batch that is being trained on, on several GPUs after the next
    step that is logged, or the one behind it where a validation follows, with 128 + signal as status; a second SIGINT
    ends it at once. Lightning itself would end it with status 0 and save nothing.

    Args:
        dirpath: folder of the file; that of the other checkpoints where None.
        every_n_steps: save it after so many steps too, so that a kill costs no more than these; never where None. A
            save that is due just before a validation is made after the next step that no validation follows.
        every_n_epochs: save it after so many epochs, and after the last; for epochs that are shorter than a save.
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
        """What `ckpt_path="best"` means to Lightning where this stands before other checkpoints: theirs."""
        return self._others[0].best_model_path if self._others else self._best

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        # Lightning brings it from the processes that it has started.
        self._best = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the folder: by now the other checkpoints know theirs, in whatever order they stand."""
        folder = Path(self.dirpath or Path(trainer.default_root_dir, "checkpoints"))
        self._others = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if self.dirpath is None and self._others and self._others[0].dirpath is not None:
            folder = Path(self._others[0].dirpath)
        self.path = folder / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, in place of Lightning, which has begun to listen just now."""
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
        """Save where it is time to, and nothing of the state is outside what is saved."""
        self._is_saved = False
        if (batch_idx + 1) % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch:
            # Gradients that are added up so far are in no checkpoint: who ends the run now ends it after their step.
            self._ends_next, trainer.should_stop = self._ends_next or trainer.should_stop, False
            return
        trainer.should_stop, self._ends_next = trainer.should_stop or self._ends_next, False
        every = self.every_n_steps
        self._due |= every is not None and trainer.global_step % every == 0
        self._asks_next |= self._asks(trainer, pl_module)
        # By the number of steps, or by the time, inside an epoch.
        ends = trainer.fit_loop.epoch_loop.done
        # A run that went on from before a validation would leave it out; one that ends by its time validates wherever
        # it is. After the last step the epoch's end saves.
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
        """Save where the run ends inside its epoch, with what was measured; later the rest counts as trained."""
        if trainer.state.fn == "fit" and trainer.should_stop and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; a run that has just trained its last epoch or step also ends in its own way."""
        epochs = trainer.current_epoch + 1
        is_last = epochs == trainer.max_epochs or trainer.global_step == trainer.max_steps
        told = self._told(trainer)
        # What ended inside the epoch, by time or steps, is saved as it was then: now the rest counts as trained.
        cut_off = self._is_saved and not trainer.is_last_batch
        if not cut_off and (told or is_last or epochs % self.every_n_epochs == 0):
            self._save(trainer)
        if told and not is_last:
            self._stop(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the numbers, for a run that is cut off between its last checkpoint and its end."""
        numbers = {k: torch.as_tensor(v) for k, v in trainer.callback_metrics.items()}
        checkpoint["metrics"] = {k: float(v) for k, v in numbers.items() if v.numel() == 1}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the numbers."""
        self.metrics = dict(checkpoint.get("metrics", {}))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what ended early, for another callback or the time; leave the signals to whom they were left before."""
        if not self._is_saved:
            self._save(trainer)
        self._request.stop_listening()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the signals to whom they were left before."""
        self._request.stop_listening()

    def _asks(self, trainer: pl.Trainer, task: pl.LightningModule) -> bool:
        """Whether this step is one after which processes tell each other, the same in all of them.

        An answer from GPUs has to be waited for, as losses that are logged have to be.
        """
        alone = trainer.world_size == 1 or task.device.type == "cpu"
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return alone or trainer.global_step % max(1, every) == 0

    def _told(self, trainer: pl.Trainer) -> bool:
        """Whether any process was told to end: all must do so after the same step."""
        return trainer.strategy.reduce_boolean_decision(bool(self._request.signum), all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        self._due, self._is_saved = False, True
        if getattr(trainer, "fast_dev_run", False) or self.path is None:
            return
        for logger in trainer.loggers:
            # A kill after this must not take with it what this state has behind it.
            logger.save()
        # With the state of the optimizer: Lightning says at each save that it is, where nobody asked.
        trainer.save_checkpoint(self.path, weights_only=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        rank_zero_info(f"the run ends here; it can be resumed from {self.path}")
        raise Stopped(self._request.signum or signal.SIGTERM, trainer.is_global_zero)


def _validates_after(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation follows this batch, as Lightning counts: over epochs where it is not told of them."""
    until = trainer.val_check_batch
    count = (
        trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    )
    return isinstance(until, int) and until > 0 and (count + 1) % until == 0

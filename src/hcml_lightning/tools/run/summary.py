"""[stage → **what it is about to do, and what it did**]

Prints one screen before a stage and one after it, and writes the results of the second to a file for other tools.
"""

import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from hcml_lightning._version import __version__
from hcml_lightning.data import VideoDataModule
from hcml_lightning.resume import LastCheckpoint
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.console.output import counted, format_metrics, write_json
from hcml_lightning.tools.console.provenance import commit
from hcml_lightning.tools.run import screens
from hcml_lightning.tools.run.run_folder import run_folder


class StageSummary(pl.Callback):
    """Print what a stage trains, on which data and how, before it, and its results after it.

    The results are also written to `fit.json`, `validate.json` or `test.json` in the folder of the run. In `fit.json`,
    `validated_epoch` is the epoch of training, counted from 1, after which the metrics of `val/` were measured.
    """

    def __init__(self) -> None:
        self._started = self._epoch_started = time.monotonic()
        # Of the starts before this one, up to the checkpoint from which it resumed.
        self._seconds_before = 0.0
        self._validated_epoch: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._started, self._seconds_before = time.monotonic(), 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the screen before training."""
        if trainer.is_global_zero and isinstance(pl_module, MotionTask):
            screens.show(screens.before(trainer, pl_module))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print one line for each epoch if there is no progress bar, as in a log file or under a scheduler."""
        # On every rank, because Lightning computes metrics over all ranks when they are first read.
        metrics = _metrics(trainer)
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            seconds = time.monotonic() - self._epoch_started
            # Lightning keeps the metrics of the last validation, even if it followed an earlier epoch.
            validated = self._validated_epoch == trainer.current_epoch + 1
            shown = {k: v for k, v in metrics.items() if validated or k[:4] != "val/"}
            by_epochs = trainer.max_steps < 0 < (trainer.max_epochs or 0)
            of = f"/{trainer.max_epochs}" if by_epochs else ""
            print(
                f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {format_metrics(shown)}",
                flush=True,
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the results of training."""
        self._finish(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the results of a validation outside of training; during training, only remember its epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated_epoch = trainer.current_epoch + 1
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module, "validate")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the results of the test."""
        self._finish(trainer, pl_module, "test")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the time spent so far, and the epoch of the last validation, whose metrics are in the checkpoint too."""
        checkpoint["seconds"] = self._seconds()
        checkpoint["validated_epoch"] = self._validated_epoch

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the time spent and the epoch of the last validation."""
        self._validated_epoch = checkpoint.get("validated_epoch")
        if trainer.state.fn == "fit":
            self._seconds_before = checkpoint.get("seconds", 0.0)

    def _seconds(self) -> float:
        """Return the wall time over all starts of the run."""
        return self._seconds_before + time.monotonic() - self._started

    def _finish(self, trainer: pl.Trainer, task: pl.LightningModule, command: str) -> None:
        if not trainer.is_global_zero or not isinstance(task, MotionTask):
            return
        folder, idle = run_folder(trainer), False
        record = {
            "task": type(task).__name__,
            "finished": command != "fit" or not trainer.interrupted,
            "epochs": trainer.current_epoch,
            "seconds": round(self._seconds(), 1),
            "metrics": _metrics(trainer),
            "checkpoint": trainer.ckpt_path if command != "fit" else None,
            "environment": environment(trainer),
        }
        if command == "test":
            record["views"] = _views(trainer, task)
        if command != "fit":
            record["videos"] = _videos(trainer, "test" if command == "test" else "val")
        if folder is not None:
            if command == "fit":
                last = _last(trainer)
                written = last.path if last and last.path and last.path.is_file() else None
                # A resumed run that had already ended trains nothing and writes no checkpoint.
                record["checkpoint"] = str(written) if written else trainer.ckpt_path
                idle = written is None and trainer.ckpt_path is not None
                record["validated_epoch"] = self._validated_epoch
                record["started_from"] = task.started_from
            write_json(folder / f"{command}.json", record)
        rows = screens.after(task, command, record)
        if idle:
            rows.append(
                (
                    "trained",
                    "nothing: the run had already ended; to train more, raise --trainer.max_epochs",
                )
            )
        if command != "fit" and folder is not None:
            rows.append(("written", str(folder / f"{command}.json")))
        # A settings.json is that of `hcml progressive`, which runs the next stage by itself.
        if record["finished"] and folder is not None and not (folder / "settings.json").is_file():
            rows += screens.onwards(task, command, record)
        screens.show(rows)


def environment(trainer: pl.Trainer) -> dict[str, str]:
    """Return what results depend on besides the settings (code, versions, devices), and the time of their end."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    kind = "CPU" if device.type == "cpu" else "GPU"
    return {
        "hcml_lightning": __version__,
        "commit": commit("src", "configs") or "unknown",
        "torch": torch.__version__,
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "python": platform.python_version(),
        "device": f"{counted(trainer.world_size, kind)} ({name or platform.machine()})",
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _views(trainer: pl.Trainer, task: MotionTask) -> dict[str, int] | None:
    """Return the views that a test averages over; None if the task does not classify or has no data module of ours."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, VideoDataModule) or not task.CLASSIFIES:
        return None
    recipe = data.recipe("test")
    return {
        "clips": recipe.num_clips,
        "crops": recipe.num_crops,
        "frames": recipe.clip_length,
        "size": recipe.crop_size,
    }


def _videos(trainer: pl.Trainer, split: Literal["val", "test"]) -> dict[str, int] | None:
    """Return how many videos were evaluated and how many the split has; `limit_test_batches` may leave some out."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, VideoDataModule):
        return None
    number = len(data.dataset(split))
    batches = trainer.num_test_batches if split == "test" else trainer.num_val_batches
    seen = sum(batches) * data.batch_size * trainer.world_size
    return {"seen": min(number, int(seen)), "in_split": number}


def _metrics(trainer: pl.Trainer) -> dict[str, float]:
    last = _last(trainer)
    # A run that was interrupted after its last epoch trains nothing when it is resumed, so that it only has the metrics
    # of its checkpoint.
    before = last.metrics if last is not None and trainer.state.fn == "fit" else {}
    return before | {
        k: float(v) for k, v in trainer.callback_metrics.items() if torch.as_tensor(v).numel() == 1
    }


def _last(trainer: pl.Trainer) -> LastCheckpoint | None:
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
    return found[0] if found else None

"""[stage → **what it is about to do, and what it did**]

One screen before a stage and one after it, and the numbers of the second as a file for other tools.
"""

import math
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from hcml_lightning._version import __version__
from hcml_lightning.optim import schedule_steps
from hcml_lightning.resume import LastCheckpoint
from hcml_lightning.sync_batch_norm import CPUSyncBatchNorm
from hcml_lightning.tasks import ContrastTask, MotionTask, ProbeTask
from hcml_lightning.tools.output import format_metrics, write_json

WIDTH = 100
NEXT = {
    ("FlowTask", 0): "2_contrast_level1",
    ("ContrastTask", 1): "3_contrast_level2",
    ("ContrastTask", 2): "4_recognition",
}


class StageSummary(pl.Callback):
    """Say what trains, on what and how, before a stage, and what came of it, after it.

    The numbers of the end also go to `fit.json`, `validate.json` or `test.json` beside the folder of
    the checkpoints. There `validated_epoch` says after which epoch of training, from 1, those of `val/` were measured.
    """

    def __init__(self) -> None:
        self._started = self._epoch_started = time.monotonic()
        self._validated_epoch: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is about to happen."""
        if trainer.is_global_zero and isinstance(pl_module, MotionTask):
            print_rows(start_rows(trainer, pl_module))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line for each epoch where no progress bar shows it: in a file, or under a scheduler."""
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            seconds = time.monotonic() - self._epoch_started
            # Lightning goes on naming the numbers of the last validation.
            validated = self._validated_epoch == trainer.current_epoch + 1
            shown = {k: v for k, v in _metrics(trainer).items() if validated or k[:4] != "val/"}
            of = f"/{trainer.max_epochs}" if _ends_by_epochs(trainer) else ""
            print(
                f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {format_metrics(shown)}",
                flush=True,
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what came of training."""
        self._finish(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what came of validation where it is no part of training; else remember when it was."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated_epoch = trainer.current_epoch + 1
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module, "validate")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what came of the test."""
        self._finish(trainer, pl_module, "test")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add when the numbers beside it were measured."""
        checkpoint["validated_epoch"] = self._validated_epoch

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember it."""
        self._validated_epoch = checkpoint.get("validated_epoch")

    def _finish(self, trainer: pl.Trainer, task: pl.LightningModule, command: str) -> None:
        if not trainer.is_global_zero or not isinstance(task, MotionTask):
            return
        folder = run_folder(trainer)
        record = {
            "task": type(task).__name__,
            "finished": command != "fit" or not trainer.interrupted,
            "epochs": trainer.current_epoch,
            "seconds": round(time.monotonic() - self._started, 1),
            "metrics": _metrics(trainer),
            "checkpoint": trainer.ckpt_path if command != "fit" else None,
            "environment": environment(trainer),
        }
        if folder is not None:
            if command == "fit":
                last = _last(trainer)
                record["checkpoint"] = str(last.path) if last and last.path else None
                record["validated_epoch"] = self._validated_epoch
            write_json(folder / f"{command}.json", record)
        rows = end_rows(task, command, record)
        # `hcml progressive` has settings there, and goes on by itself.
        if record["finished"] and folder is not None and not (folder / "settings.json").is_file():
            rows += next_rows(task, command, record)
        print_rows(rows)


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Return the folder of a run, beside its checkpoints; None where it keeps none."""
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is not None:
        return Path(checkpoint.dirpath).parent
    return None


def environment(trainer: pl.Trainer) -> dict[str, str]:
    """Return what numbers depend on beside the settings: versions, devices, and when it was."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "hcml_lightning": __version__,
        "torch": torch.__version__,
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "python": platform.python_version(),
        "device": f"{trainer.world_size} x {name or platform.machine()}",
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def start_rows(trainer: pl.Trainer, task: MotionTask) -> list[tuple[str, str]]:
    """Return what there is to know before a stage trains, as (word, text)."""
    about = task.describe()
    devices = trainer.world_size
    return [
        ("", f"{_title(task)} · {task.hparams['backbone']}"),
        ("trains", f"{_names(about['trains'])} ({_count(about['trained_parameters'])} parameters)"),
        ("frozen", f"{_names(about['frozen'])} (of {_count(about['total_parameters'])} in all)"),
        ("weights", _weights(trainer, task)),
        ("data", _data(trainer)),
        ("batch", _batch(trainer)),
        (
            "learning rate",
            f"{task.lr:g} per device x {devices} = {task.lr * devices:g}, {task.optimizer_name}; "
            f"{_schedule(trainer, task)}",
        ),
        ("batch norm", _norm_scope(trainer, task)),
        ("run folder", _folder(trainer)),
    ]


def _ends_by_epochs(trainer: pl.Trainer) -> bool:
    """Whether a number of epochs ends training, and neither one of steps nor the time."""
    return trainer.max_steps < 0 < (trainer.max_epochs or 0)


def _schedule(trainer: pl.Trainer, task: MotionTask) -> str:
    """Say how the learning rate rises and falls, in what the end of the run is given in."""
    steps, total = schedule_steps(trainer, task.warmup_epochs)
    if math.isinf(total):
        return f"warm-up {task.warmup_epochs:g} epochs, then as it is"
    if _ends_by_epochs(trainer):
        return f"warm-up {task.warmup_epochs:g} of {trainer.max_epochs} epochs, then half a cosine"
    return f"warm-up {steps} of {total} steps, then half a cosine"


def _weights(trainer: pl.Trainer, task: MotionTask) -> str:
    """Say where a stage starts from, loudly where what it freezes has learned nothing."""
    if trainer.ckpt_path is not None:
        return f"go on from {trainer.ckpt_path}"
    if task.init_from is not None:
        return f"from {task.init_from}"
    if task.describe()["frozen"] and isinstance(task, ContrastTask | ProbeTask):
        return (
            "UNTRAINED, and the frozen ones stay so: name the stage before with --model.init_from"
        )
    return "untrained"


def end_rows(task: MotionTask, command: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what came of a stage, as (word, text)."""
    epochs = f", {record['epochs']} epochs" if command == "fit" else ""
    rows = [
        ("", f"{_title(task)}: {command} {'ended' if record['finished'] else 'was interrupted'}"),
        ("time", f"{record['seconds']:.0f} s{epochs}"),
        ("metrics", format_metrics(record["metrics"])),
    ]
    if command == "fit" and record["checkpoint"]:
        rows.append(("checkpoint", record["checkpoint"]))
    return rows


def next_rows(task: MotionTask, command: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the command that goes on from a stage, as (word, text); none where it left no weights."""
    path = record["checkpoint"]
    if command != "fit" or not path:
        return []
    stage = NEXT.get((type(task).__name__, int(getattr(task, "level", -1))))
    if stage is None:
        text = f"hcml test -c {Path(path).parents[1] / 'config.yaml'} --ckpt_path {path}"
    else:
        text = f"hcml fit -c configs/stages/{stage}.yaml -c DATA.yaml --model.init_from {path}"
    return [("next", text)]


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print (word, text) lines below the first, which is the title."""
    print(f"── {rows[0][1]} ".ljust(WIDTH, "─"))
    for word, text in rows[1:]:
        print(f"{word:<14} {text}")
    print("─" * WIDTH, flush=True)


def _metrics(trainer: pl.Trainer) -> dict[str, float]:
    last = _last(trainer)
    # A training that was cut off after its last epoch trains nothing more, and has no others.
    before = last.metrics if last is not None and trainer.state.fn == "fit" else {}
    return before | {
        k: float(v) for k, v in trainer.callback_metrics.items() if torch.as_tensor(v).numel() == 1
    }


def _last(trainer: pl.Trainer) -> LastCheckpoint | None:
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
    return found[0] if found else None


def _title(task: MotionTask) -> str:
    level = getattr(task, "level", None)
    return type(task).__name__ + ("" if level is None else f" level {level}")


def _names(value: object, most: int = 8) -> str:
    names = [str(name).removeprefix("model.") for name in value] if isinstance(value, list) else []
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _count(number: object) -> str:
    return f"{float(str(number)) / 1e6:.3g} M"


def _data(trainer: pl.Trainer) -> str:
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return "the trainer's own loaders"
    loaders = {"training": trainer.train_dataloader, "validation": trainer.val_dataloaders}
    sizes = ", ".join(
        f"{len(loader.dataset)} {split}" for split, loader in loaders.items() if loader is not None
    )
    about = data.hparams
    clip = (
        f"clips of {about.get('clip_length')} frames, stride {about.get('frame_stride')}, "
        f"{about.get('crop_size')} px"
    )
    return f"{type(data).__name__}: {sizes} videos, {data.num_classes} classes; {clip}"


def _batch(trainer: pl.Trainer) -> str:
    size = getattr(getattr(trainer, "datamodule", None), "hparams", {}).get("batch_size")
    if size is None:
        return "the trainer's own loaders"
    devices, steps = trainer.world_size, trainer.accumulate_grad_batches
    total = size * devices * steps
    return f"{size} per device x {devices} devices x {steps} accumulated = {total} clips a step"


def _norm_scope(trainer: pl.Trainer, task: MotionTask) -> str:
    if any(isinstance(module, nn.SyncBatchNorm | CPUSyncBatchNorm) for module in task.modules()):
        return f"statistics over all {trainer.world_size} devices"
    return "statistics within the clips of each device"


def _folder(trainer: pl.Trainer) -> str:
    return str(run_folder(trainer) or trainer.default_root_dir)

"""[task, trainer → **what is printed** before a stage and after it]

Each screen is a list of (word, text) lines, of which the first holds the title.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pytorch_lightning as pl
from torch import nn

from hcml_lightning.naming import first_few
from hcml_lightning.optim import WarmupCosine
from hcml_lightning.sync_batch_norm import CPUSyncBatchNorm
from hcml_lightning.tasks import ContrastTask, FlowTask, MotionTask
from hcml_lightning.tasks.description import title
from hcml_lightning.tools.console.output import counted, format_metrics
from hcml_lightning.tools.run.layout import folder_of_run
from hcml_lightning.tools.run.run_folder import run_folder

WIDTH = 100
CONTRAST = {1: "2_contrast_level1", 2: "3_contrast_level2"}


def before(trainer: pl.Trainer, task: MotionTask) -> list[tuple[str, str]]:
    """Return the lines to print before a stage trains, as (word, text)."""
    about = task.describe()
    devices = trainer.world_size
    return [
        ("", f"{title(task)} · {task.hparams['backbone']}"),
        ("trains", f"{_names(about['trains'])} ({_count(about['trained_parameters'])} parameters)"),
        ("frozen", f"{_names(about['frozen'])} (of {_count(about['total_parameters'])} in total)"),
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


def _schedule(trainer: pl.Trainer, task: MotionTask) -> str:
    """Describe how the learning rate rises and falls, in epochs or steps, whichever the end of the run is given in."""
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    found = [schedule for schedule in schedules if isinstance(schedule, WarmupCosine)]
    if not found:
        return "custom schedule"
    steps = found[0].steps
    if math.isinf(steps.total):
        return f"warm-up {counted(task.warmup_epochs, 'epoch')}, then constant"
    if math.isfinite(steps.per_epoch):
        if steps.warmup >= steps.total > 0:
            return (
                f"only rises, because warmup_epochs={task.warmup_epochs:g} of {trainer.max_epochs} leaves no epoch "
                "for it to fall; lower it (--model.warmup_epochs)"
            )
        epochs = counted(trainer.max_epochs, "epoch")
        return f"warm-up {task.warmup_epochs:g} of {epochs}, then half a cosine"
    return f"warm-up {steps.warmup} of {counted(steps.total, 'step')}, then half a cosine"


def _weights(trainer: pl.Trainer, task: MotionTask) -> str:
    """Describe the weights that a stage starts from, in capitals if the modules that it freezes are untrained."""
    if trainer.ckpt_path is not None:
        return f"resumed from {trainer.ckpt_path}"
    if task.init_from is not None:
        return f"from {task.init_from}"
    if task.ON_FROZEN:
        return (
            "UNTRAINED, and the frozen ones stay so; pass the stage before with --model.init_from"
        )
    return "untrained"


def after(task: MotionTask, command: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines to print after a stage, as (word, text)."""
    epochs = f", {counted(record['epochs'], 'epoch')}" if command == "fit" else ""
    rows = [
        ("", f"{title(task)}: {command} {'ended' if record['finished'] else 'was interrupted'}"),
        ("time", f"{record['seconds']:.0f} s without start-up{epochs}"),
        ("metrics", format_metrics(record["metrics"])),
    ]
    if v := record.get("views"):
        views = f"{counted(v['clips'], 'clip')} x {counted(v['crops'], 'crop')}"
        frames = counted(v["frames"], "frame")
        rows.append(("views", f"{views}, {frames} of {v['size']} x {v['size']}"))
    if v := record.get("videos"):
        left_out = v["in_split"] - v["seen"]
        rest = f" of {v['in_split']}: a limit on batches skips {left_out}" if left_out else ""
        rows.append(("videos", f"{v['seen']}{rest}"))
    if command == "fit" and record["checkpoint"]:
        rows.append(("checkpoint", record["checkpoint"]))
    return rows


def onwards(task: MotionTask, command: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the command to run after a training stage, as (word, text); an empty list if it left no weights."""
    path = record["checkpoint"]
    if command != "fit" or not path:
        return []
    if not isinstance(task, FlowTask | ContrastTask):
        config = folder_of_run(Path(path).parent) / "config.yaml"
        text = f"hcml test -c {quote(str(config))} --ckpt_path {quote(path)}"
        return [("next", text)]
    levels = task.model.levels
    above = [level for level in levels if level > task.level]
    stage = CONTRAST[above[0]] if above else "4_recognition"
    text = f"hcml fit -c configs/stages/{stage}.yaml -c DATA.yaml --model.init_from {quote(path)}"
    if tuple(levels) != (0, 1, 2):
        text += f" --model.levels {list(levels)}".replace(", ", ",")
    return [("next", text)]


def show(rows: list[tuple[str, str]]) -> None:
    """Print (word, text) lines below a title, which is the text of the first."""
    print(f"── {rows[0][1]} ".ljust(WIDTH, "─"))
    for word, text in rows[1:]:
        print(f"{word:<14} {text}")
    print("─" * WIDTH, flush=True)


def _names(names: Sequence[str]) -> str:
    return first_few([name.removeprefix("model.") for name in names], most=8)


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M"


def _data(trainer: pl.Trainer) -> str:
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return "the trainer's own loaders"
    loaders = {"training": trainer.train_dataloader, "validation": trainer.val_dataloaders}
    sizes = ", ".join(
        counted(len(loader.dataset), f"{split} video")
        for split, loader in loaders.items()
        if loader is not None
    )
    about = data.hparams
    clip = (
        f"clips of {counted(about.get('clip_length'), 'frame')}, stride {about.get('frame_stride')}, "
        f"{about.get('crop_size')} px"
    )
    return f"{type(data).__name__}: {sizes}, {data.describe_classes()}; {clip}"


def _batch(trainer: pl.Trainer) -> str:
    size = getattr(getattr(trainer, "datamodule", None), "hparams", {}).get("batch_size")
    if size is None:
        return "the trainer's own loaders"
    devices, steps = trainer.world_size, trainer.accumulate_grad_batches
    total = size * devices * steps
    return (
        f"{size} per device x {counted(devices, 'device')} x {steps} accumulated = "
        f"{counted(total, 'clip')} per step"
    )


def _norm_scope(trainer: pl.Trainer, task: MotionTask) -> str:
    if any(isinstance(module, nn.SyncBatchNorm | CPUSyncBatchNorm) for module in task.modules()):
        return f"statistics over {counted(trainer.world_size, 'device')}"
    return "separate statistics on each device"


def _folder(trainer: pl.Trainer) -> str:
    return str(run_folder(trainer) or trainer.default_root_dir)

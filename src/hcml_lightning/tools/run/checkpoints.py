"""[checkpoint + task + data → **whether they belong together**]

Which checkpoint a run resumes from, and whether a checkpoint fits the run that resumes or evaluates it: a mismatch is
reported in a sentence, before PyTorch would list a thousand keys of the state dict.
"""

import os
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from hcml_lightning.checkpoint_files import newest_whole, read_checkpoint
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tasks.classes import first_difference
from hcml_lightning.tools.console.trouble import explain
from hcml_lightning.tools.run.wandb_runs import RUN_ID, folder_of_id

Task = TypeVar("Task", bound=MotionTask)

# Settings that determine the architecture of a network.
SHAPING = ("backbone", "level", "levels", "max_displacement", "stride", "max_offset", "hidden")
OTHER_STAGE = "--ckpt_path resumes or evaluates the same stage; to start another stage from it, use --model.init_from"
# Value of --ckpt_path for `hcml fit`: resume from the last checkpoint in the folder of this run, or begin if there is
# none yet. So the same command works at the first start and whenever a scheduler restarts it.
RESUME_KEYWORD = "last"


def state_to_resume(path: str, folder: str | None) -> str | None:
    """Find the checkpoint that training resumes from: the given one, or the one before it if that is broken.

    Args:
        path: of the checkpoint, or "last".
        folder: of the checkpoints of this run, if it was given.

    Returns:
        The path, unchanged if both files are broken or missing; None if "last" finds no intact checkpoint, so that
        training begins.

    Raises:
        ValueError: if the path is "last" and no folder is given.
    """
    follows = path == RESUME_KEYWORD
    if follows and not folder:
        raise ValueError(
            "--ckpt_path last resumes from the last checkpoint in a fixed folder; set it with --checkpoint.dirpath, "
            "because every start gets a new one otherwise"
        )
    wanted = Path(folder or "", "last.ckpt") if follows else Path(path)
    broken: list[str] = []
    found = newest_whole(wanted, broken.append)
    if found is None and not follows:
        return path
    if found is not None and found != wanted:
        broken.append(f"resuming from {found}")
    print("".join(f"hcml fit: {line}\n" for line in broken), end="", flush=True)
    return None if found is None else str(found)


def known_folder(dirpath: str | None, logger: Any, root: str | None) -> tuple[str | None, str]:
    """Return the folder of a run's checkpoints, if it is known before the run begins.

    Args:
        dirpath: `checkpoint.dirpath` of its config.
        logger: `trainer.logger` of its config.
        root: `trainer.default_root_dir` of its config.

    Returns:
        The folder, None if every start gets a new one; and advice on how to get a new one, for an error message.
    """
    if dirpath:
        return dirpath, "omit that option to get a new one"
    if logger is False:
        # Without a logger there are no version_N folders, so all runs share one.
        alone = "omit --trainer.logger false, so that each run has its own"
        return str(Path(root or "", "checkpoints")), alone
    otherwise = f"give each run its own id or version ({RUN_ID}, --trainer.logger)"
    folder = folder_of_id(logger)
    return (None if folder is None else str(folder)), otherwise


def refuse_used_folder(folder: str | None, otherwise: str) -> None:
    """Raise if a new run would replace the checkpoints of another.

    Args:
        folder: of the checkpoints of the new run, if it is known.
        otherwise: another remedy, for the message.

    Raises:
        ValueError: if the folder holds an intact last checkpoint.
    """
    last = Path(folder or "", "last.ckpt")
    if folder and newest_whole(last, lambda _: None) is not None:
        raise ValueError(
            f"{last} belongs to another run, which this one would overwrite. Resume that one (--ckpt_path last), "
            f"choose another folder (--checkpoint.dirpath), or {otherwise}"
        )


def no_file(path: str | os.PathLike[str]) -> str:
    """Return the message that a file is missing; if the path is the folder of a run, suggest a checkpoint in it."""
    folder = Path(path)
    if not folder.is_dir():
        return f"there is no file '{path}'; pass the path of a .ckpt"
    # Search no deeper than the folders of a run, because this may be the folder of a dataset.
    places = [f"{above}last.ckpt" for above in ("", "checkpoints/", "*/checkpoints/")]
    files = [file for place in places for file in folder.glob(place)]
    found = sorted(files, key=lambda file: file.stat().st_mtime)
    guess = f"; did you mean {found[-1]}?" if found else ""
    return f"'{path}' is a folder; pass a .ckpt in it{guess}"


def check_checkpoint(
    path: Path, task: MotionTask, class_names: Sequence[str], to_resume: bool = False
) -> None:
    """Raise if a checkpoint does not fit the run that resumes or evaluates it.

    Args:
        path: of the checkpoint.
        task: of the run.
        class_names: of the data of the run.
        to_resume: whether training resumes, which needs the state of the optimizer besides the weights.

    Raises:
        ValueError: if it cannot be read, comes from another stage, network or dataset, or lacks the state to resume.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    written_by = checkpoint.get("task", type(task).__name__)
    if written_by not in [base.__name__ for base in type(task).__mro__]:
        raise ValueError(
            f"{path} was written by {written_by}, but this run is {type(task).__name__}. {OTHER_STAGE}."
        )
    stored = checkpoint.get("hyper_parameters", {})
    _check_classes(path, checkpoint, class_names)
    for name in SHAPING:
        ours, theirs = _plain(task.hparams.get(name)), _plain(stored.get(name))
        if name in stored and name in task.hparams and ours != theirs:
            raise ValueError(
                f"{path} was written with {name} {theirs}, but this run has {ours}. Pass --model.{name} {theirs}, "
                f"or the config.yaml next to the checkpoints (-c). {OTHER_STAGE}."
            )
    _check_shapes(path, checkpoint["state_dict"], task.state_dict())
    if to_resume and "optimizer_states" not in checkpoint:
        raise ValueError(
            f"{path} holds weights but no training state, so no run can be resumed from it. To start a new run from "
            "the weights, use --model.init_from."
        )


def load_task(task: type[Task], path: str | os.PathLike[str]) -> Task:
    """Build the task that wrote a checkpoint, with its weights, on the CPU.

    Args:
        task: its class.
        path: of the checkpoint.

    Raises:
        ValueError: if it was written by another task, or another release.
    """
    try:
        return task.load_from_checkpoint(path, map_location="cpu")
    except (ValueError, RuntimeError, TypeError, ArgumentError) as error:
        if explain(error) is not None:
            raise
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} does not fit the model that this release builds from its settings ({said[:200]}); use an "
            "unmodified checkpoint that this release wrote"
        ) from error


def _check_classes(path: Path, checkpoint: Mapping[str, Any], class_names: Sequence[str]) -> None:
    number = checkpoint.get("hyper_parameters", {}).get("num_classes", len(class_names))
    known = checkpoint.get("class_names")
    if number != len(class_names):
        raise ValueError(
            f"{path} was written with num_classes {number}, but the data of this run has {len(class_names)} classes: "
            "another dataset, or another list of classes. Pass the data that it was trained on (--data.root, -c); to "
            "train a new classifier on this data, start from the checkpoint with --model.init_from."
        )
    if known is not None and (difference := first_difference(known, class_names)):
        raise ValueError(
            f"{path} was trained on classes other than those of this run's data: {difference}. Pass the data that "
            "it was trained on (--data.root, -c); to train a new classifier on this data, start from the checkpoint "
            "with --model.init_from."
        )


def _check_shapes(path: Path, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    differing = [
        name
        for name in sorted(stored.keys() | own.keys())
        if name not in stored or name not in own or stored[name].shape != own[name].shape
    ]
    if differing:
        raise ValueError(
            f"{path} does not fit the network of this run: {len(differing)} weights are missing, unexpected or of "
            f"another shape, the first of them {differing[0]}. Pass the config.yaml next to the checkpoints (-c). "
            f"{OTHER_STAGE}."
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value

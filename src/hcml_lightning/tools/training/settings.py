"""[words of the command line → **settings of one stage** → what runs]

Refuses settings with which a run would not do what was asked for, before anything is built, and chooses the checkpoint
that it resumes or evaluates.
"""

from pathlib import Path

from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_warn

from hcml_lightning.tools.run.checkpoints import (
    known_folder,
    no_file,
    refuse_used_folder,
    state_to_resume,
)
from hcml_lightning.tools.training.parser import BASES, MISSING


def check_named(settings: Namespace) -> None:
    """Check that the classes of model and data are named.

    A config of data may have settings of the model, which without a class are taken for those of the base class.

    Raises:
        ValueError: if one is missing.
    """
    for key, missing in MISSING.items():
        path = str(settings.get(f"{key}.class_path"))
        if path.rpartition(".")[2] == BASES[key].__name__:
            raise ValueError(f"--{key} is missing; pass {missing}")


def check_options(settings: Namespace, trains: bool) -> None:
    """Check options that the parser accepts one by one but that do not go together; warn if nothing is validated.

    Args:
        settings: of the stage.
        trains: whether the command is `fit`.

    Raises:
        ValueError: if a run with these options would leave nothing, or would fail later.
    """
    if settings.get("trainer.enable_checkpointing") is False:
        raise ValueError(
            "--trainer.enable_checkpointing false: without checkpoints a run can neither be resumed nor tested; "
            "remove it (--trainer.fast_dev_run true tries a few batches and writes none)"
        )
    if settings.get("model.init_args.recompute") and settings.get("compile"):
        raise ValueError("--compile and --model.recompute cannot be combined; remove one of them")
    every = settings.get("trainer.check_val_every_n_epoch") or 1
    epochs = settings.get("trainer.max_epochs") or 0
    # A trial run by `fast_dev_run` validates all the same.
    validates = settings.get("trainer.limit_val_batches") != 0
    if trains and validates and 0 < epochs < every and not settings.get("trainer.fast_dev_run"):
        rank_zero_warn(
            f"--trainer.check_val_every_n_epoch {every} is more than --trainer.max_epochs {epochs}, so nothing will "
            "be validated; lower it"
        )


def choose_checkpoint(settings: Namespace, command: str | None) -> str | None:
    """Return the checkpoint to resume or evaluate, if any, with its name replaced by its path in `settings` too.

    Args:
        settings: of the stage.
        command: `fit`, `validate` or `test`; None if nothing runs.

    Raises:
        FileNotFoundError: if a file with weights is missing.
        ValueError: if the run would replace checkpoints of another, or evaluate random weights.
    """
    trains = command == "fit"
    path: str | None = settings.get("ckpt_path")
    names = ("checkpoint.dirpath", "trainer.logger", "trainer.default_root_dir")
    folder, otherwise = known_folder(*(settings.get(name) for name in names))
    if trains and path:
        path = state_to_resume(path, folder)
        settings["ckpt_path"] = path
    own = path is not None and folder and Path(path).resolve().parent == Path(folder).resolve()
    if trains and not own and not settings.get("trainer.fast_dev_run"):
        refuse_used_folder(folder, otherwise)
    if path and not Path(path).is_file():
        raise FileNotFoundError(f"--ckpt_path: {no_file(path)}")
    source = settings.get("model.init_args.init_from")
    if trains and source and not path and not Path(source).is_file():
        raise FileNotFoundError(f"--model.init_from: {no_file(source)}")
    if command in ("validate", "test") and not path:
        raise ValueError(
            "the weights would be random; pass trained ones with --ckpt_path (--model.init_from is for training)"
        )
    return path

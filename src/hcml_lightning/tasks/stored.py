"""[checkpoint → **task** → checkpoint]

What a task stores in its checkpoints and restores from them: which task it was, its weights, and the classes they are
for.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Self

from hcml_lightning.checkpoint_files import read_checkpoint
from hcml_lightning.storage import plain
from hcml_lightning.tasks.classes import check_classes
from hcml_lightning.tasks.measured import MeasuredTask


class StoredTask(MeasuredTask):
    """A task that refuses checkpoints of other tasks, and data with other classes than those of its classifier."""

    # Whether labels matter, so that the classes of weights and data must be the same.
    CLASSIFIES: ClassVar[bool] = False
    # Whether the task learns without labels: it leaves the classifier unchanged, and its features can collapse, so its
    # batch norms should take their statistics over all devices (B.2).
    SELF_SUPERVISED: ClassVar[bool] = False
    num_classes: int

    def __init__(self) -> None:
        super().__init__()
        self.class_names: list[str] | None = None
        # Whether weights were loaded, from a checkpoint or by `init_from`, in place of the initial ones.
        self.has_weights = False
        # Path and sha256 of the checkpoint that `init_from` named when its weights were loaded.
        self.started_from: dict[str, str] | None = None
        # Warnings about the weights of `init_from`, issued when a run uses them.
        self.remarks: list[str] = []

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Load a task as Lightning does, but with `weights_only=True` by default.

        Lightning's own default lets a file from a URL run code.

        Raises:
            ValueError: if the file is not a checkpoint, or that of another task, if its weights do not fit the given
                settings, or if `init_from` is given.
        """
        if kwargs.get("init_from") is not None:
            raise ValueError(
                f"load_from_checkpoint uses the weights of {checkpoint_path}, so init_from={kwargs['init_from']} would "
                f"change nothing; to start from other weights, use {cls.__name__}(init_from=…, …)"
            )
        if isinstance(checkpoint_path, str | os.PathLike) and "://" not in str(checkpoint_path):
            # Lightning would first build the task, and fail on the settings of another one.
            cls._check_task(read_checkpoint(Path(checkpoint_path), mmap=True))
        try:
            return super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
            )
        except RuntimeError as error:
            if not kwargs or "loading state_dict" not in str(error):
                raise
            given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
            raise ValueError(
                f"the weights of {checkpoint_path} do not fit a {cls.__name__} with {given}; "
                f"to start from them (except for a classifier of other classes), use "
                f"{cls.__name__}(init_from={str(checkpoint_path)!r}, {given})"
            ) from error

    def classes_of_data(self) -> list[str] | None:
        """Return the names of the classes that this run trains or evaluates on, or None if its data has none."""
        trainer = self._trainer
        if trainer is None or trainer.predicting:
            return None
        names: list[str] | None = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        return names

    def check_classes(self, known: list[str] | None) -> None:
        """Raise an error if the classifier of a classification task is not for the classes of the data.

        Args:
            known: class names of the weights, if they were stored with them.

        Raises:
            ValueError: if numbers or names of the classes differ.
        """
        names = self.classes_of_data()
        if names is not None and self.CLASSIFIES:
            check_classes(self.num_classes, known, names)

    def check_labels(self, stage: str) -> None:
        """Raise an error if a video lacks a label that the loss needs; on a GPU the loss itself would not say why.

        Args:
            stage: Lightning's name of the stage, as in `setup`.

        Raises:
            ValueError: if a video of training or validation has no label.
        """
        find = getattr(getattr(self.trainer, "datamodule", None), "videos_without_label", None)
        if self.CLASSIFIES and stage in ("fit", "validate") and find and (without := find(stage)):
            raise ValueError(
                f"training or validation videos have no label ({len(without)}, first: {without[0]}), but "
                f"{type(self).__name__} needs a class for each; remove them from these splits, or add their labels"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the class names and the kind of task; convert everything to plain data, which can be loaded again."""
        checkpoint["class_names"] = self.class_names
        checkpoint["task"] = type(self).__name__
        checkpoint["self_supervised"] = self.SELF_SUPERVISED
        checkpoint["started_from"] = self.started_from
        # Also convert what data and optimizer store, because paths and NumPy numbers among their settings end up there.
        checkpoint.update({k: plain(v) for k, v in checkpoint.items() if k != "state_dict"})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the class names; refuse the checkpoint of another task or of other classes.

        Raises:
            ValueError: if the checkpoint is of another task, or of other classes than the data.
        """
        self._check_task(checkpoint)
        stored = checkpoint.get("class_names")
        self.check_classes(stored)
        self.class_names = stored
        self.started_from = checkpoint.get("started_from")

    @classmethod
    def _check_task(cls, checkpoint: dict[str, Any]) -> None:
        task = checkpoint.get("task", cls.__name__)
        # A subclass may load what its base class wrote.
        if task not in [base.__name__ for base in cls.__mro__]:
            raise ValueError(
                f"this checkpoint was made by {task}, not by {cls.__name__}, and ckpt_path only resumes or evaluates "
                f"the same stage; load it with {task}.load_from_checkpoint, or start a new stage from it with "
                "init_from (--model.init_from)"
            )

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights as PyTorch does; a later run does not replace them by those of `init_from`."""
        result = super().load_state_dict(*args, **kwargs)
        self.has_weights = True
        self.remarks.clear()
        return result

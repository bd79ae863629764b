"""[checkpoint → **task** → checkpoint]

What of a task goes into its checkpoints and comes out of them: which task it was, its weights, and the classes they are
for.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Self

from hcml_lightning.storage import plain
from hcml_lightning.tasks.checkpoint import read_checkpoint
from hcml_lightning.tasks.classes import check_classes
from hcml_lightning.tasks.measured import MeasuredTask


class StoredTask(MeasuredTask):
    """Reads no checkpoint of another task, and trains no classifier on the classes of another one."""

    # Whether labels matter, so that the classes of weights and data must be the same.
    CLASSIFIES: ClassVar[bool] = False
    # Whether it learns without labels: it leaves the classifier as it was, and its features can collapse, so that its
    # batch norms are to take their statistics over all devices (B.2).
    SELF_SUPERVISED: ClassVar[bool] = False
    num_classes: int

    def __init__(self) -> None:
        super().__init__()
        self.class_names: list[str] | None = None
        # Other than those that it was made with: of a checkpoint, or learned.
        self.has_weights = False
        # Path and sha256 of the checkpoint that `init_from` named when its weights were taken.
        self.started_from: dict[str, str] | None = None
        # What there is to say of the weights once they are used.
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
        """As Lightning's, which lets a file that comes from a URL run code where `weights_only` is not said.

        Raises:
            ValueError: if the file is no checkpoint, or that of another task; if `init_from` names other weights.
        """
        if kwargs.get("init_from") is not None:
            raise ValueError(
                f"load_from_checkpoint takes the weights of {checkpoint_path}, so that init_from={kwargs['init_from']} "
                f"would change nothing; for others, {cls.__name__}(init_from=…, …)"
            )
        if isinstance(checkpoint_path, str | os.PathLike) and "://" not in str(checkpoint_path):
            # Lightning would build the task first, and stumble over the settings of another one.
            cls._check_task(read_checkpoint(Path(checkpoint_path), mmap=True))
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
        )

    def classes_of_data(self) -> list[str] | None:
        """Names of the classes that this run trains or is measured on, where its data says them."""
        trainer = self._trainer
        if trainer is None or trainer.predicting:
            return None
        names: list[str] | None = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        return names

    def check_classes(self, known: list[str] | None) -> None:
        """Hold a task that classifies to the classes of the data.

        Args:
            known: those of the weights, where they came with them.

        Raises:
            ValueError: if they are not the same.
        """
        names = self.classes_of_data()
        if names is not None and self.CLASSIFIES:
            check_classes(self.num_classes, known, names)

    def check_labels(self, stage: str) -> None:
        """Hold the videos that a loss is to be taken of to their classes; on a device it would end without a word.

        Args:
            stage: as Lightning calls it.

        Raises:
            ValueError: if one of them has no label.
        """
        find = getattr(getattr(self.trainer, "datamodule", None), "videos_without_label", None)
        if self.CLASSIFIES and stage in ("fit", "validate") and find and (without := find(stage)):
            raise ValueError(
                f"videos of training and validation have no label ({len(without)}, the first {without[0]}), where "
                f"{type(self).__name__} needs a class for each: leave them out there, or give their labels"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names of the classes travel with the weights; nothing stays that would not be read again."""
        checkpoint["class_names"] = self.class_names
        checkpoint["task"] = type(self).__name__
        checkpoint["self_supervised"] = self.SELF_SUPERVISED
        checkpoint["started_from"] = self.started_from
        # Of data and optimizer too: a path or a number of NumPy that was given goes a long way.
        checkpoint.update({k: plain(v) for k, v in checkpoint.items() if k != "state_dict"})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another stage's checkpoint, in words."""
        self._check_task(checkpoint)
        stored = checkpoint.get("class_names")
        self.check_classes(stored)
        self.class_names = stored
        self.started_from = checkpoint.get("started_from")

    @classmethod
    def _check_task(cls, checkpoint: dict[str, Any]) -> None:
        task = checkpoint.get("task", cls.__name__)
        # A class that is made of another one may read what that wrote.
        if task not in [base.__name__ for base in cls.__mro__]:
            raise ValueError(
                f"this checkpoint was made by {task}, not by {cls.__name__}: {task}.load_from_checkpoint reads it; to "
                "start a new stage from it, give it as init_from (--model.init_from); ckpt_path only goes on with, or "
                "evaluates, the same stage"
            )

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As PyTorch's; a later fit does not replace these weights by `init_from`."""
        result = super().load_state_dict(*args, **kwargs)
        self.has_weights = True
        self.remarks.clear()
        return result

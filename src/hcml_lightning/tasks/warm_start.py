"""[checkpoint of a stage → **weights of the next**]

Every key must match, because a stage that silently started from random weights would waste days. Only the classifier
may differ, and a warning tells if a stage that would have trained levels in between was skipped.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from hcml_lightning.checkpoint_files import check_finite, read_checkpoint
from hcml_lightning.naming import first_few
from hcml_lightning.storage import sha256_of
from hcml_lightning.tasks.classes import first_difference

PREFIX = "model."
CLASSIFIER = ("network.fc.weight", "network.fc.bias")


class WarmStart(NamedTuple):
    """The origin of loaded weights.

    Attributes:
        path: path of the checkpoint.
        sha256: sha256 of the file.
        remarks: warnings for the user of the weights.
    """

    path: str
    sha256: str
    remarks: list[str]


def load_warm_start(
    model: nn.Module,
    path: str | os.PathLike[str],
    lower_level: int = -1,
    class_names: Sequence[str] | None = None,
) -> WarmStart:
    """Load all weights and buffers of the hierarchy from a checkpoint, without running any code that it contains.

    If the checkpoint's classifier has another size or is for other classes, the model's own stays as it was
    initialised; a remark says so if the one in the checkpoint was trained with labels.

    Args:
        model: the hierarchy to fill.
        path: a Lightning checkpoint of any stage with the same backbone and levels.
        lower_level: the highest level that the stages before this one train; the checkpoint of a self-supervised stage
            of a lower level is loaded with a remark.
        class_names: class names of the data that the stage trains on, if known.

    Returns:
        Path and sha256 of the file, and remarks about it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of a task, its weights are not finite, or its keys or shapes differ.
    """
    checkpoint = _checkpoint(Path(path))
    stored = _model_state(Path(path), checkpoint)
    own = model.state_dict()
    classifier = [k for k in CLASSIFIER if k in stored and k in own]
    if any(stored[k].shape != own[k].shape for k in classifier):
        difference: str | None = "has a different number of classes"
    else:
        difference = _other_classes(checkpoint.get("class_names"), class_names)
    if difference is not None:
        stored |= {key: own[key] for key in classifier}
    wrong = [k for k in stored.keys() & own.keys() if stored[k].shape != own[k].shape]
    missing, unexpected = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    if wrong or missing or unexpected:
        raise ValueError(
            f"init_from: {path} does not fit this model: "
            f"missing {first_few(missing)}, unexpected {first_few(unexpected)}, "
            f"different shapes {first_few(sorted(wrong))}; "
            "use the same backbone, levels, max_displacement, stride and max_offset in all stages"
        )
    remarks = []
    if difference is not None and not _self_supervised(checkpoint):
        remarks.append(
            f"init_from: the classifier of {path} {difference} and is not loaded: this stage's own starts untrained. "
            "All other weights are loaded."
        )
    reached = _level(checkpoint)
    if reached is not None and reached < lower_level:
        remarks.append(
            f"init_from: {path} is from {checkpoint['task']} at level {reached}, but this stage follows one at "
            f"level {lower_level}, so what is between is still untrained. Run the stages between unless you want this."
        )
    model.load_state_dict(stored)
    return WarmStart(str(Path(path).absolute()), sha256_of(Path(path)), remarks)


def _checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"init_from: there is no checkpoint {path}; run the previous stage first"
        )
    try:
        checkpoint = read_checkpoint(path)
        check_finite(path, checkpoint["state_dict"])
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error
    return checkpoint


def _other_classes(known: Sequence[str] | None, names: Sequence[str] | None) -> str | None:
    """Describe how the classes of two classifiers of the same size differ; None if they do not or are unknown."""
    if known is None or names is None or len(known) != len(names):
        return None
    difference = first_difference(known, names)
    return difference and f"is for other classes ({difference})"


def _level(checkpoint: Mapping[str, Any]) -> int | None:
    """Return the level that a self-supervised stage trained; None for other stages, whose levels count as trained."""
    if not _self_supervised(checkpoint):
        return None
    level: int | None = checkpoint.get("hyper_parameters", {}).get("level")
    return level


def _self_supervised(checkpoint: Mapping[str, Any]) -> bool:
    # Up to version 0.1 only the name of the task was stored.
    return bool(
        checkpoint.get("self_supervised", checkpoint.get("task") in ("FlowTask", "ContrastTask"))
    )


def _model_state(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint["state_dict"]
    model_state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    if not model_state:
        raise ValueError(
            f"init_from: {path} has no weights of a task (no key begins with {PREFIX!r}); pass the .ckpt file that a "
            "stage wrote"
        )
    return model_state

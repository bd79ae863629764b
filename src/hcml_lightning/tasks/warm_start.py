"""[checkpoint of a stage → **weights of the next**]

Strict on every key: a stage that silently started from random weights would waste days. Only the classifier may differ.
"""

import os
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from hcml_lightning.tasks.checkpoint import check_finite, read_checkpoint

PREFIX = "model."
CLASSIFIER = ("network.fc.weight", "network.fc.bias")


def load_warm_start(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Take all weights and buffers of the hierarchy from a checkpoint; runs nothing that the file holds.

    A classifier of another size stays as it was initialised, with a warning.

    Args:
        model: the hierarchy to fill.
        path: a Lightning checkpoint of any stage with the same backbone and levels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of a task, its weights are no numbers, or its keys or shapes differ.
    """
    stored = _model_state(Path(path))
    own = model.state_dict()
    differing = [
        k for k in CLASSIFIER if k in stored and k in own and stored[k].shape != own[k].shape
    ]
    for key in differing:
        stored[key] = own[key]
    wrong = [k for k in stored.keys() & own.keys() if stored[k].shape != own[k].shape]
    missing, unexpected = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    if wrong or missing or unexpected:
        raise ValueError(
            f"init_from: {path} does not fit this model; "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}, other shapes {_some(sorted(wrong))}. "
            "Give the stages the same backbone, levels, max_displacement, stride and max_offset."
        )
    if differing:
        rank_zero_warn(
            f"init_from: the classifier of {path} has another number of classes and is not taken: "
            "this stage's own starts untrained. All other weights are taken."
        )
    model.load_state_dict(stored)


def _model_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"init_from: there is no checkpoint {path}; run the stage before this one first"
        )
    try:
        state = read_checkpoint(path)["state_dict"]
        check_finite(path, state)
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error
    model_state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    if not model_state:
        raise ValueError(
            f"init_from: {path} holds no weights of a task (no key begins with {PREFIX!r})"
        )
    return model_state


def _some(keys: list[str]) -> str:
    if not keys:
        return "none"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

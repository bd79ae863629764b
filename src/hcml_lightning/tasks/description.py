"""[task → **what it trains, in words and numbers** → summary]

What the summary at the start of a stage reports.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import pytorch_lightning as pl
from torch import nn

if TYPE_CHECKING:
    from hcml_lightning.tasks.base import MotionTask


class Description(TypedDict):
    """What a stage trains.

    Attributes:
        task: name of its class.
        trains: names of the modules that train.
        frozen: names of the modules that do not.
        trained_parameters: number of parameters that train.
        total_parameters: number of all parameters.
    """

    task: str
    trains: list[str]
    frozen: list[str]
    trained_parameters: int
    total_parameters: int


def title(task: pl.LightningModule) -> str:
    """Return the name of a stage for messages: its class, and its level if it has one."""
    level = getattr(task, "level", None)
    return type(task).__name__ + ("" if level is None else f" level {level}")


def describe(task: "MotionTask", modules: Sequence[nn.Module]) -> Description:
    """Return which modules train, which are frozen, and how many parameters train.

    Args:
        task: the task.
        modules: those of its modules that train.
    """
    trained = {id(module) for module in modules}
    names = [name for name, module in task.named_modules() if id(module) in trained]
    parameters = {p: p.numel() for m in modules for p in m.parameters()}
    return {
        "task": type(task).__name__,
        "trains": names,
        "frozen": [
            name
            for name in _parts(task)
            if not any(_within(name, t) or _within(t, name) for t in names)
        ],
        "trained_parameters": sum(parameters.values()),
        "total_parameters": sum(p.numel() for p in task.parameters()),
    }


def _parts(module: nn.Module) -> Iterator[str]:
    """Yield module names at the depth of freezing: res stages, halves of motion blocks, single decoders and predictors.

    Modules without parameters, such as dropout, are left out.
    """
    for name, child in module.named_modules():
        depth = 2
        if name.startswith("model.network.motion"):
            depth = 4
        elif name.startswith("model.side"):
            depth = 3
        has_parameters = any(True for _ in child.parameters())
        if name.startswith("model.") and name.count(".") == depth and has_parameters:
            yield name


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")

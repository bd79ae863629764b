"""[task → **what it trains, in words and numbers** → summary]

What a summary at the start of a stage tells about it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from hcml_lightning.tasks.base import MotionTask


def describe(task: "MotionTask") -> dict[str, object]:
    """Task, names of what trains and of what is frozen, and how many parameters that is."""
    trained = {id(module) for module in task.trained_modules()}
    names = [name for name, module in task.named_modules() if id(module) in trained]
    parameters = {p: p.numel() for m in task.trained_modules() for p in m.parameters()}
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
    """Names at the depth at which stages are frozen: stages of the backbone, halves of motion blocks, predictors."""
    for name, child in module.named_modules():
        depth = name.count(".")
        if name.startswith("model.network.motion"):
            if depth == 4 and any(True for _ in child.children()):
                yield name
        elif depth == 2 and name.startswith("model."):
            yield name


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")

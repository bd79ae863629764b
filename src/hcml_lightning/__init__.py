"""Hierarchical contrastive motion learning for video action recognition.

Yang et al., *Hierarchical Contrastive Motion Learning for Video Action Recognition*. Public names are
imported when they are first used, so that `hcml --help` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hcml_lightning._version import __version__

if TYPE_CHECKING:
    from hcml_lightning.data import (
        KineticsDataModule,
        SomethingDataModule,
        UCF101DataModule,
        VideoDataModule,
        VideoFolderDataModule,
    )
    from hcml_lightning.models import MotionHierarchy, MotionNetwork
    from hcml_lightning.tasks import (
        ContrastTask,
        FlowTask,
        MotionTask,
        ProbeTask,
        RecognitionTask,
    )
    from hcml_lightning.tools.prediction.recognizer import Recognizer
    from hcml_lightning.tools.run.finished import Run, load_run

__all__ = [
    "ContrastTask",
    "FlowTask",
    "KineticsDataModule",
    "MotionHierarchy",
    "MotionNetwork",
    "MotionTask",
    "ProbeTask",
    "RecognitionTask",
    "Recognizer",
    "Run",
    "SomethingDataModule",
    "UCF101DataModule",
    "VideoDataModule",
    "VideoFolderDataModule",
    "__version__",
    "load_run",
]
_PACKAGES = ("data", "losses", "metrics", "models", "ops", "tasks")
# Modules of the public names whose suffix does not tell where they are defined.
_HOMES = {
    "Recognizer": "tools.prediction.recognizer",
    "Run": "tools.run.finished",
    "load_run": "tools.run.finished",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"hcml_lightning.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'hcml_lightning' has no attribute '{name}'")
    if name in _HOMES:
        home = _HOMES[name]
    elif name.endswith("Task"):
        home = "tasks"
    elif name.endswith("DataModule"):
        home = "data"
    else:
        home = "models"
    return getattr(import_module(f"hcml_lightning.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Hierarchical contrastive motion learning for video action recognition.

Yang et al., *Hierarchical Contrastive Motion Learning for Video Action Recognition*. The public
names load when they are first used, so that `hcml --help` does not wait for PyTorch.
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

__all__ = [
    "ContrastTask",
    "FlowTask",
    "KineticsDataModule",
    "MotionHierarchy",
    "MotionNetwork",
    "MotionTask",
    "ProbeTask",
    "RecognitionTask",
    "SomethingDataModule",
    "UCF101DataModule",
    "VideoDataModule",
    "VideoFolderDataModule",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hcml_lightning' has no attribute '{name}'")
    if name.endswith("Task"):
        home = "tasks"
    elif name.endswith("DataModule"):
        home = "data"
    else:
        home = "models"
    return getattr(import_module(f"hcml_lightning.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

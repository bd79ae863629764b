"""LightningModules, one for each training stage."""

from hcml_lightning.tasks.base import MotionTask
from hcml_lightning.tasks.classification import ClassificationTask
from hcml_lightning.tasks.contrast import ContrastTask
from hcml_lightning.tasks.flow import FlowTask
from hcml_lightning.tasks.probe import ProbeTask
from hcml_lightning.tasks.recognition import RecognitionTask

__all__ = [
    "ClassificationTask",
    "ContrastTask",
    "FlowTask",
    "MotionTask",
    "ProbeTask",
    "RecognitionTask",
]

"""[**video file → batch** → model → loss → metric]

A video file becomes a `VideoBatch`; nothing here knows what is trained on it.
"""

from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.ucf101 import UCF101DataModule

__all__ = ["UCF101DataModule", "VideoDataModule"]

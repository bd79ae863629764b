"""[**video file → batch** → model → loss → metric]

Everything from a video file to a `VideoBatch`; nothing here depends on what is trained on it.
"""

from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.dataset import collate
from hcml_lightning.data.kinetics import KineticsDataModule
from hcml_lightning.data.something import SomethingDataModule
from hcml_lightning.data.ucf101 import UCF101DataModule
from hcml_lightning.data.video_folder import VideoFolderDataModule

__all__ = [
    "KineticsDataModule",
    "SomethingDataModule",
    "UCF101DataModule",
    "VideoDataModule",
    "VideoFolderDataModule",
    "collate",
]

"""Plain PyTorch modules, without Lightning."""

from hcml_lightning.models.backbones import BACKBONES
from hcml_lightning.models.flow_decoder import FlowDecoder
from hcml_lightning.models.hierarchy import MotionHierarchy, SideBranch
from hcml_lightning.models.network import MotionNetwork
from hcml_lightning.models.predictor import Predictor
from hcml_lightning.models.prime_motion import PrimeMotionBlock

__all__ = [
    "BACKBONES",
    "FlowDecoder",
    "MotionHierarchy",
    "MotionNetwork",
    "Predictor",
    "PrimeMotionBlock",
    "SideBranch",
]

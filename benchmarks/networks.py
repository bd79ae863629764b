"""The networks that train_step.py and inference.py compare, each from a clip to logits."""

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from hcml_lightning.models import MotionHierarchy

NUM_CLASSES = 400


class FrameByFrame(nn.Module):
    """An image network applied to every frame of a clip: the same number of frames, but no motion.

    Args:
        images: image network, (N, 3, H, W) → (N, K).
    """

    def __init__(self, images: nn.Module) -> None:
        super().__init__()
        self.images = images

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean logits over frames, (B, 3, T, H, W) → (B, K)."""
        frames = clip.transpose(1, 2).flatten(0, 1)
        frames = frames.contiguous(memory_format=torch.channels_last)
        return self.images(frames).unflatten(0, (len(clip), -1)).mean(1)


class Scaled(nn.Module):
    """A network that takes uint8 clips, as ours do.

    Args:
        network: network that takes floating point clips.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Return the logits of a clip with RGB in 0..255, (B, 3, T, H, W) → (B, K)."""
        return self.network(clip.float() / 255)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ours": lambda: MotionHierarchy("r2d50", NUM_CLASSES).network,
    "ours without motion blocks": lambda: MotionHierarchy("r2d50", NUM_CLASSES, ()).network,
    "ours r2plus1d101": lambda: MotionHierarchy("r2plus1d101", NUM_CLASSES).network,
    "ours r2plus1d101 without motion blocks": lambda: (
        MotionHierarchy("r2plus1d101", NUM_CLASSES, ()).network
    ),
    "resnet50": lambda: Scaled(FrameByFrame(torchvision.models.resnet50(num_classes=NUM_CLASSES))),
    "r3d_18": lambda: Scaled(torchvision.models.video.r3d_18(num_classes=NUM_CLASSES)),
    "r2plus1d_18": lambda: Scaled(torchvision.models.video.r2plus1d_18(num_classes=NUM_CLASSES)),
}


def contiguous_(network: nn.Module) -> nn.Module:
    """Change the memory format of all weights to contiguous."""
    for parameter in network.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return network

"""[P^l → **optical flow**]

The decoder of the bootstrap (Sec. 3.3): five convolutions with dense connections, applied to each frame separately.
Used in training only.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models.backbones import fold_time, some_frames, unfold_time


class FlowDecoder(nn.Module):
    """Decode motion features into the flow from each frame to the next, in cells of the features' grid.

    Args:
        in_channels: C of P^l.
        growth: channels that each of the first four convolutions adds.
    """

    # Unstated in the paper: widths, kernel, activation. 3×3 and leaky ReLU as in PWC-Net [52]; this is a small version
    # of its estimator.
    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            nn.Conv2d(in_channels + i * growth, growth, 3, padding=1) for i in range(4)
        )
        self.flow = nn.Conv2d(in_channels + 4 * growth, 2, 3, padding=1)
        for conv in self.hidden:
            nn.init.kaiming_normal_(cast("Tensor", conv.weight), a=0.1)
        # Start at zero flow, the baseline to improve on, rather than at random flow.
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(cast("Tensor", self.flow.bias))

    def forward(self, motion: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to flow (B, 2, T − 1, H, W); the last frame has no successor."""
        num_frames = motion.shape[2] - 1
        features = some_frames(fold_time(motion), num_frames + 1, slice(num_frames))
        for conv in self.hidden:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.1)], dim=1)
        return unfold_time(self.flow(features), num_frames)

"""[P^l → **optical flow**]

The bootstrap's decoder (Sec. 3.3): five convolutions with dense connections, on every frame by itself. Training only.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models.backbones import fold_time, some_frames, unfold_time


class FlowDecoder(nn.Module):
    """Motion features → flow from each frame to the next, in cells of the features' own grid.

    Args:
        in_channels: C of P^l.
        growth: channels that each of the first four convolutions adds.
    """

    # Unstated in the paper: widths, kernel, activation. 3×3 and leaky ReLU as in PWC-Net [52], of whose estimator this
    # is a small form.
    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            nn.Conv2d(in_channels + i * growth, growth, 3, padding=1) for i in range(4)
        )
        self.flow = nn.Conv2d(in_channels + 4 * growth, 2, 3, padding=1)
        for conv in self.hidden:
            nn.init.kaiming_normal_(cast("Tensor", conv.weight), a=0.1)
        # Zero flow is the state to beat: start there rather than at random motion.
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(cast("Tensor", self.flow.bias))

    def forward(self, motion: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, 2, T − 1, H, W): the last frame has no successor."""
        num_frames = motion.shape[2] - 1
        features = some_frames(fold_time(motion), num_frames + 1, slice(num_frames))
        for conv in self.hidden:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.1)], dim=1)
        return unfold_time(self.flow(features), num_frames)

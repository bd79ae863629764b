"""[F^l → **cost volume and features → P^l → residual** → Z^l]

The prime motion block (Sec. 3.2, A.3, Figure 5): the motion features P^l of one level, and their projection back into
the backbone.

    F^l ─┬─ 1×1×1, C/β ─┬─ cost volume, M ─┐
         │              └──────────────────┴─ concat ─ 1×3×3, C/4 ─ P^l ─ g^l: 1×1×1, C ─┐
         └───────────────────────────────────────────────────────────────────────────── + ─ Z^l
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models.backbones import BackboneSpec, fold_time, unfold_time
from hcml_lightning.ops import cost_volume
from hcml_lightning.ops.cost_volume import check_displacements, num_displacements


class MotionExtractor(nn.Module):
    """F^l → P^l: reduce the channels, compare each frame with the next, and mix the costs with the reduced features.

    Args:
        in_channels: C of F^l.
        out_channels: C of P^l.
        reduction: β.
        max_displacement: d, cells of the map of F^l.
        stride: s, cells.

    Raises:
        ValueError: if `max_displacement` or `stride` is not an integer in range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reduction: int,
        max_displacement: int,
        stride: int,
    ) -> None:
        super().__init__()
        check_displacements(max_displacement, stride)
        # The operator refuses NumPy's numbers.
        self.max_displacement, self.stride = int(max_displacement), int(stride)
        reduced = in_channels // reduction
        costs = num_displacements(max_displacement, stride)
        self.reduce = nn.Conv2d(in_channels, reduced, 1, bias=False)
        self.reduce_bn = nn.BatchNorm2d(reduced)
        self.cost_bn = nn.BatchNorm2d(costs)
        # Unstated in the paper: the size of the "2D convolution" of A.3. It is 3×3.
        self.mix = nn.Conv2d(reduced + costs, out_channels, 3, padding=1, bias=False)
        self.mix_bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map F^l, (B, C, T, H, W), to P^l, (B, C', T, H, W)."""
        num_frames = features.shape[2]
        reduced = F.relu(self.reduce_bn(self.reduce(fold_time(features))))
        costs = cost_volume(unfold_time(reduced, num_frames), self.max_displacement, self.stride)
        costs = F.relu(self.cost_bn(fold_time(costs)))
        motion = F.relu(self.mix_bn(self.mix(torch.cat([costs, reduced], dim=1))))
        return unfold_time(motion, num_frames)


class MotionProjection(nn.Module):
    """g^l: P^l → the residual that is added to F^l.

    Args:
        in_channels: C of P^l.
        out_channels: C of F^l.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        # Departure: A.3 has a ReLU after each convolution. There is none here, as there is none at the end of a
        # residual branch: with the zero initialisation it would pass no gradient, and later it could only add to F^l,
        # never subtract.
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, motion: Tensor) -> Tensor:
        """Map P^l, (B, C, T, H, W), to the residual, (B, C', T, H, W)."""
        return unfold_time(self.bn(self.conv(fold_time(motion))), motion.shape[2])


class PrimeMotionBlock(nn.Module):
    """Motion features of one level and their projection back into the backbone, Z^l = F^l + g^l(P^l).

    Args:
        spec: hyperparameters of the backbone.
        level: l; the block follows res stage l + 2.
        max_displacement: d, cells; if None, that of the backbone.
        stride: s, cells; if None, that of the backbone.

    Raises:
        ValueError: if `max_displacement` or `stride` is not an integer in range.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        level: int,
        max_displacement: int | None = None,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        channels, motion_channels = spec.channels(level), spec.motion_channels(level)
        self.extract = MotionExtractor(
            channels,
            motion_channels,
            spec.reduction,
            spec.max_displacement if max_displacement is None else max_displacement,
            spec.stride if stride is None else stride,
        )
        self.project = MotionProjection(motion_channels, channels)

    @torch.no_grad()
    def start_as_identity_(self) -> None:
        """Initialise the block so that Z^l = F^l."""
        # Unstated in the paper: how g^l is initialised. The weight of its batch norm starts at zero, so that an
        # untrained block never disturbs the backbone above it.
        nn.init.zeros_(self.project.bn.weight)

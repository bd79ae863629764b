"""[clip → network → logits, and the **side branch** that teaches it motion]

All weights that any stage trains, in one module, so that the checkpoints of all stages have the same keys.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from hcml_lightning.models.backbones import backbone_spec, keep_channels_last_
from hcml_lightning.models.flow_decoder import FlowDecoder
from hcml_lightning.models.network import MotionNetwork
from hcml_lightning.models.predictor import Predictor


class SideBranch(nn.Module):
    """Flow decoders and predictors, which self-supervision needs and inference does not (Sec. 3.4).

    Every level has a flow decoder, although the method itself trains only that of the lowest level: this way any level
    can be bootstrapped by reconstruction (Table 1, Figure 3) while the checkpoints of all stages have the same keys.

    Args:
        backbone: name of the backbone.
        levels: levels that have a prime motion block, ascending.
        max_offset: Δ of the predictors.
    """

    def __init__(self, backbone: str, levels: tuple[int, ...], max_offset: int) -> None:
        super().__init__()
        spec = backbone_spec(backbone)
        self.flow_decoders = nn.ModuleDict(
            {
                str(level): FlowDecoder(spec.motion_channels(level), spec.flow_growth)
                for level in levels
            }
        )
        self.predictors = nn.ModuleDict(
            {
                str(upper): Predictor(
                    spec.motion_channels(upper),
                    spec.motion_channels(below),
                    max_offset,
                    ratio=2 ** (upper - below),
                )
                for below, upper in pairwise(levels)
            }
        )
        keep_channels_last_(self)

    def flow_decoder(self, level: int) -> FlowDecoder:
        """Return the flow decoder of a level."""
        return cast("FlowDecoder", self.flow_decoders[str(level)])

    def predictor(self, level: int) -> Predictor:
        """Return the predictor of a contrastive level."""
        return cast("Predictor", self.predictors[str(level)])


class MotionHierarchy(nn.Module):
    """The network that classifies clips, and the side branch that teaches it motion.

    Args:
        backbone: `r2d50`, `r2plus1d101` or `r2d_tiny`.
        num_classes: K.
        levels: levels (0, 1, 2: after res2, res3, res4) that have a prime motion block; any subset. The lowest one is
            bootstrapped by flow, each higher one predicts the next lower one of the list. `()` is the plain baseline.
        max_displacement, stride: as in `MotionNetwork`.
        max_offset: Δ, the largest δ of f_δ, frames of the level below.
        dropout, recompute: as in `MotionNetwork`.

    Raises:
        ValueError: if the backbone or a level is unknown, or a displacement, a stride or an offset is out of range.

    Example:
        >>> import torch
        >>> model = MotionHierarchy("r2d_tiny", num_classes=8)
        >>> clip = torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8)
        >>> model.network(clip).shape
        torch.Size([1, 8])
        >>> [tuple(motion.shape) for motion in model.network.motion_features(clip, up_to=1)]
        [(1, 24, 8, 8, 8), (1, 48, 4, 4, 4)]
    """

    def __init__(
        self,
        backbone: str = "r2d50",
        num_classes: int = 400,
        levels: Iterable[int] = (0, 1, 2),
        max_displacement: int | None = None,
        stride: int | None = None,
        max_offset: int = 4,
        dropout: float = 0.5,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.network = MotionNetwork(
            backbone=backbone,
            num_classes=num_classes,
            levels=levels,
            max_displacement=max_displacement,
            stride=stride,
            dropout=dropout,
            recompute=recompute,
        )
        self.levels = self.network.levels
        self.side: SideBranch | None = None
        if self.levels:
            self.side = SideBranch(backbone, self.levels, max_offset)

    def forward(self, clip: Tensor) -> Tensor:
        """Map RGB in 0..255, (B, 3, T, H, W), to logits (B, K)."""
        return cast("Tensor", self.network(clip))

    def level_below(self, level: int) -> int:
        """Return the level whose future `level` predicts.

        Raises:
            ValueError: if `level` has no motion block, or no level below it has one.
        """
        if level not in self.levels or level == self.levels[0]:
            raise ValueError(
                f"a contrastive level needs a motion block of its own and one below it, got level {level} "
                f"of {self.levels}; choose another level, or add one below it to levels"
            )
        return self.levels[self.levels.index(level) - 1]

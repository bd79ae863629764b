"""[clip → **logits**]

The part that inference uses: the backbone, its prime motion blocks and the classifier.
"""

from collections.abc import Iterable
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models.backbones import (
    ResStage,
    backbone_spec,
    fold_time,
    initialise_,
    keep_channels_last_,
    make_stage,
    unfold_time,
)
from hcml_lightning.models.prime_motion import PrimeMotionBlock
from hcml_lightning.models.recompute import recomputed

# Unstated in the paper: how pixels are normalised. We use ImageNet's mean and standard deviation, in 0..255, because
# published ResNet weights expect them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class MotionNetwork(nn.Module):
    """A residual network with a prime motion block after each of the chosen levels; with none, the plain baseline.

    Attribute names of the backbone are those of torchvision's ResNet: `network.load_state_dict(resnet50.state_dict())`
    works for `MotionNetwork("r2d50", 1000, levels=())`.

    Args:
        backbone: `r2d50`, `r2plus1d101` or `r2d_tiny`.
        num_classes: K.
        levels: levels (0, 1, 2: after res2, res3, res4) that have a prime motion block.
        max_displacement: d of the cost volumes, cells; if None, that of the backbone.
        stride: s of the cost volumes, cells; if None, that of the backbone.
        dropout: probability of the dropout before the classifier.
        recompute: whether residual blocks and motion blocks in training mode are run again in the backward pass instead
            of keeping their activations, which saves memory and costs time. Not for compiled networks.

    Raises:
        ValueError: if the backbone or a level is unknown, or a displacement or a stride is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "r2d50",
        num_classes: int = 400,
        levels: Iterable[int] = (0, 1, 2),
        max_displacement: int | None = None,
        stride: int | None = None,
        dropout: float = 0.5,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        spec = backbone_spec(backbone)
        self.levels = checked_levels(levels)
        self.conv1 = nn.Conv2d(3, spec.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.width)
        self.layer1, self.layer2, self.layer3, self.layer4 = (make_stage(spec, i) for i in range(4))
        for stage in self.stages:
            stage.recompute = recompute
        self.motion = nn.ModuleDict(
            {str(i): PrimeMotionBlock(spec, i, max_displacement, stride) for i in self.levels}
        )
        # Unstated in the paper: dropout. The default is 0.5, as in [9].
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.channels(3), num_classes)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        initialise_(self)
        for level in self.levels:
            self.block(level).start_as_identity_()
        keep_channels_last_(self)

    @property
    def stages(self) -> list[ResStage]:
        """The residual stages res2, res3, res4, res5."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def block(self, level: int) -> PrimeMotionBlock:
        """Return the prime motion block of a level."""
        return cast("PrimeMotionBlock", self.motion[str(level)])

    def forward(self, clip: Tensor) -> Tensor:
        """Map RGB in 0..255, uint8 or float, (B, 3, T, H, W), to logits (B, K)."""
        return self.classify(self.features(clip)[0])

    def features(self, clip: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the features of res5, (B, C, T', H', W'), and P^l by level, for all levels that have a block."""
        features, motion = self._run(clip, len(self.stages) - 1)
        return features, motion

    def motion_features(self, clip: Tensor, up_to: int) -> list[Tensor]:
        """Return the motion features of all levels with a block up to and including `up_to`; run no layer above.

        Args:
            clip: RGB in 0..255, uint8 or float, (B, 3, T, H, W).
            up_to: the last level wanted.

        Returns:
            P^l, each (B, C_l, ⌈T / 2^l⌉, H_l, W_l), lowest level first.

        Raises:
            ValueError: if level `up_to` has no block.
        """
        if up_to not in self.levels:
            raise ValueError(f"up_to must be one of the levels {self.levels}, got {up_to}")
        return list(self._run(clip, up_to)[1].values())

    def appearance(self, clip: Tensor, level: int) -> Tensor:
        """Return F^l, (B, C_l, T_l, H_l, W_l), the features of a residual stage before its motion block; 3 is res5.

        Raises:
            ValueError: if there is no such stage.
        """
        if level not in range(len(self.stages)):
            raise ValueError(f"level must be 0 to {len(self.stages) - 1}, got {level}")
        return self._run(clip, level)[0]

    def classify(self, features: Tensor, level: int = 3) -> Tensor:
        """Map F^l (B, C_l, T_l, H_l, W_l), by default of res5, to logits (B, K)."""
        top, _ = self._climb(features, level, len(self.stages) - 1)
        # Pool with the channels last, so that the gradient comes back in this memory format.
        pooled = rearrange(top, "b c t h w -> b t h w c").mean(dim=(1, 2, 3))
        return cast("Tensor", self.fc(self.dropout(pooled)))

    def _run(self, clip: Tensor, up_to: int) -> tuple[Tensor, dict[int, Tensor]]:
        return self._climb(self.layer1(self._stem(clip)), 0, up_to)

    def _climb(self, features: Tensor, start: int, up_to: int) -> tuple[Tensor, dict[int, Tensor]]:
        motion: dict[int, Tensor] = {}
        for level in range(start, up_to + 1):
            if level in self.levels:
                extract = self.block(level).extract
                repeat = self.recompute and extract.training
                motion[level] = recomputed(extract, features) if repeat else extract(features)
                if level < up_to:
                    features = features + self.block(level).project(motion[level])
            if level < up_to:
                features = self.stages[level + 1](features)
        return features, motion

    def _stem(self, clip: Tensor) -> Tensor:
        if clip.ndim != 5 or clip.shape[1] != 3:
            raise ValueError(f"clip must be RGB of shape (B, 3, T, H, W), got {tuple(clip.shape)}")
        frames = fold_time(clip).to(self.mean.dtype).contiguous(memory_format=torch.channels_last)
        frames = (frames - self.mean) / self.std
        frames = F.relu(self.bn1(self.conv1(frames)), inplace=True)
        return unfold_time(F.max_pool2d(frames, 3, 2, 1), clip.shape[2])


def checked_levels(levels: Iterable[int]) -> tuple[int, ...]:
    """Return the levels sorted; raise if one is invalid.

    Raises:
        ValueError: if a level is not 0, 1 or 2, or is named twice.
    """
    ordered = tuple(sorted(levels))
    if len(set(ordered)) < len(ordered) or not set(ordered) <= {0, 1, 2}:
        raise ValueError(
            f"levels must be distinct numbers from 0, 1, 2 (after res2, res3, res4), got {ordered}"
        )
    return ordered

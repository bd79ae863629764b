"""[clip → **residual stages** → prime motion blocks → logits]

R2D-50 and R(2+1)D-101 as in Table 5, and a tiny version for CPUs.

All 1×k×k convolutions are 2D convolutions on frames, (B·T, C, H, W): they give the same numbers as in 3D, are several
times faster on a CPU, and their weights have the shapes and names of torchvision's ResNet, so that `load_state_dict`
accepts those unchanged. Between stages features are (B, C, T, H, W); with channels-last memory, folding T into the
batch and back is a view.

Paper: Yang et al., Hierarchical Contrastive Motion Learning, Table 5 and Appendix A.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models.recompute import recomputed


@dataclass(frozen=True)
class BackboneSpec:
    """The hyperparameters of a backbone.

    Attributes:
        blocks: bottleneck blocks in res2, res3, res4, res5.
        width: channels of the stem and of res2's 3×3 convolutions; each later stage doubles it.
        temporal_stages: stages (0 = res2) whose blocks have a 3×1×1 convolution.
        reduction: β of the prime motion block, C → C/β.
        motion_divisor: P^l has C / motion_divisor channels.
        max_displacement: d of the cost volume, cells.
        stride: s of the cost volume, cells.
        flow_growth: channels that each layer of the flow decoder adds.
    """

    blocks: tuple[int, int, int, int]
    width: int = 64
    temporal_stages: tuple[int, ...] = ()
    reduction: int = 8
    motion_divisor: int = 4
    max_displacement: int = 6
    stride: int = 2
    flow_growth: int = 32

    def channels(self, level: int) -> int:
        """Return the number of channels of F^l, the output of res stage `level` + 2."""
        return int(self.width * 2**level * Bottleneck.EXPANSION)

    def motion_channels(self, level: int) -> int:
        """Return the number of channels of P^l."""
        return self.channels(level) // self.motion_divisor


# Unstated in the paper: how many channels P^l has and where the strides are. C/4, with spatial and temporal stride on
# the 3×3 convolution (temporal on the 3×1×1 if there is one), is the only reading found that gives the ratios of
# Tables 2 and 6, and also their costs if a batch norm counts as 4 operations for each element. Table 5 lists no pooling
# between conv1 and res2, though its sizes need one: the 3×3 max pooling of [22].
BACKBONES = {
    "r2d50": BackboneSpec(blocks=(3, 4, 6, 3)),
    "r2plus1d101": BackboneSpec(blocks=(3, 4, 23, 3), temporal_stages=(2, 3)),
    # Not in the paper: for CPUs and frames of 48 to 128 pixels. Objects move by only a few cells of its small maps, so
    # its cost volume compares with every cell within reach (s = 1).
    "r2d_tiny": BackboneSpec(
        blocks=(1, 1, 1, 1),
        width=12,
        reduction=4,
        motion_divisor=2,
        max_displacement=3,
        stride=1,
        flow_growth=8,
    ),
}


def backbone_spec(name: str) -> BackboneSpec:
    """Look up a backbone by name.

    Raises:
        ValueError: if there is no backbone with this name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name]


def fold_time(features: Tensor) -> Tensor:
    """Fold (B, C, T, H, W) into frames (B·T, C, H, W); a view if memory is channels last."""
    return rearrange(features, "b c t h w -> (b t) c h w")


def unfold_time(frames: Tensor, num_frames: int) -> Tensor:
    """Unfold frames (B·T, C, H, W) into (B, C, T, H, W); always a view."""
    return rearrange(frames, "(b t) c h w -> b c t h w", t=num_frames)


def some_frames(frames: Tensor, num_frames: int, which: slice) -> Tensor:
    """Select the same frames of every clip, channels last: (B·T, C, H, W) → (B·T', C, H, W)."""
    # Slice channels last, because the gradient of a slice gets the axis order of the tensor that was sliced.
    clips = rearrange(frames, "(b t) c h w -> b t h w c", t=num_frames)
    taken = rearrange(clips[:, which], "b t h w c -> (b t) h w c")
    return rearrange(taken, "n h w c -> n c h w")


def every_nth_frame(frames: Tensor, num_frames: int, step: int) -> Tensor:
    """Select frames 0, step, 2·step, … of every clip: (B·T, C, H, W) → (B·⌈T/step⌉, C, H, W)."""
    return frames if step == 1 else some_frames(frames, num_frames, slice(None, None, step))


class TemporalConv(nn.Module):
    """3×1×1 convolution, batch norm and ReLU over the frames of each clip.

    Args:
        channels: channels in and out.
        temporal_stride: stride along T.
    """

    def __init__(self, channels: int, temporal_stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels, channels, (3, 1, 1), (temporal_stride, 1, 1), (1, 0, 0), bias=False
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Map (B·T, C, H, W) to (B·⌈T/stride⌉, C, H, W)."""
        features = self.conv(unfold_time(frames, num_frames))
        return F.relu(self.bn(fold_time(features)), inplace=True)


class Bottleneck(nn.Module):
    """Convolutions 1×1×1, [3×1×1,] 1×3×3 and 1×1×1 with a shortcut; attributes are named as in torchvision.

    Args:
        in_channels: channels of the input.
        width: channels of the inner convolutions; the output has four times as many.
        spatial_stride: stride along H and W.
        temporal_stride: stride along T.
        temporal: whether the block has a 3×1×1 convolution.
    """

    EXPANSION = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        spatial_stride: int = 1,
        temporal_stride: int = 1,
        temporal: bool = False,
    ) -> None:
        super().__init__()
        out_channels = width * self.EXPANSION
        self.temporal_stride = temporal_stride
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.temporal = TemporalConv(width, temporal_stride) if temporal else None
        self.conv2 = nn.Conv2d(width, width, 3, spatial_stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels or spatial_stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, spatial_stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Map (B·T, C, H, W) to (B·T', 4·width, H', W')."""
        hidden = F.relu(self.bn1(self.conv1(frames)), inplace=True)
        if self.temporal is None:
            hidden = every_nth_frame(hidden, num_frames, self.temporal_stride)
        else:
            hidden = self.temporal(hidden, num_frames)
        hidden = F.relu(self.bn2(self.conv2(hidden)), inplace=True)
        hidden = self.bn3(self.conv3(hidden))
        shortcut = every_nth_frame(frames, num_frames, self.temporal_stride)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return F.relu(hidden + shortcut, inplace=True)


class ResStage(nn.Sequential):
    """One of res2 … res5: bottleneck blocks, of which the first has the strides."""

    recompute = False

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C', T', H', W')."""
        num_frames = features.shape[2]
        frames = fold_time(features)
        for block in cast("Iterator[Bottleneck]", iter(self)):
            if self.recompute and self.training:
                frames = recomputed(block, frames, num_frames)
            else:
                frames = block(frames, num_frames)
            num_frames = -(-num_frames // block.temporal_stride)
        return unfold_time(frames, num_frames)


def make_stage(spec: BackboneSpec, level: int) -> ResStage:
    """Build res stage `level` + 2 of a backbone: res3 and res4 halve T (Table 5), all but res2 halve H and W."""
    width = spec.width * 2**level
    in_channels = spec.width if level == 0 else spec.channels(level - 1)
    temporal = level in spec.temporal_stages
    stage = ResStage()
    for i in range(spec.blocks[level]):
        first = i == 0
        stage.append(
            Bottleneck(
                in_channels,
                width,
                spatial_stride=2 if first and level > 0 else 1,
                temporal_stride=2 if first and level in (1, 2) else 1,
                temporal=temporal,
            )
        )
        in_channels = width * Bottleneck.EXPANSION
    return stage


def keep_channels_last_(network: nn.Module) -> None:
    """Convert the weights of convolutions to channels last, the memory format of the features and of the gradients.

    Weights in another format are reordered at every use, and so are their gradients: one copy each on a single device.
    On several devices, DistributedDataParallel makes a second copy into its buckets and warns about it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            flat = isinstance(module, nn.Conv2d)
            layout = torch.channels_last if flat else torch.channels_last_3d
            weight = module.weight.data
            # A 1×1 weight satisfies both formats, so `contiguous` would not change it; only a new tensor gets strides
            # that are clearly channels last.
            module.weight.data = torch.empty_like(weight, memory_format=layout).copy_(weight)


@torch.no_grad()
def initialise_(network: nn.Module) -> None:
    """Apply He initialisation; the last batch norm of every residual block starts at zero ([14], Sec. 5.1)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)

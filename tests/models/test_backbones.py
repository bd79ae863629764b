"""The backbones against Table 5, row by row, and against torchvision's ResNet-50."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from hcml_lightning.models import MotionNetwork
from hcml_lightning.models.backbones import Bottleneck, backbone_spec, every_nth_frame


def kernels(block: Bottleneck) -> list[tuple[int, ...]]:
    """Kernel size and output channels of each convolution on the main path, in the order in which they run."""
    rows: list[tuple[int, ...]] = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not name.startswith("downsample"):
            kernel = module.kernel_size if module.weight.ndim == 5 else (1, *module.kernel_size)
            rows.append((*kernel, module.out_channels))
    return rows


@pytest.mark.parametrize(
    ("backbone", "blocks", "temporal"),
    [("r2d50", (3, 4, 6, 3), ()), ("r2plus1d101", (3, 4, 23, 3), (2, 3))],
)
def test_blocks_and_kernels_equal_table_5(
    backbone: str, blocks: tuple[int, ...], temporal: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        network = MotionNetwork(backbone, levels=())
    assert network.conv1.kernel_size == (7, 7)
    assert network.conv1.stride == (2, 2)
    assert network.conv1.out_channels == 64
    for i, stage in enumerate(network.stages):
        width = 64 * 2**i
        expected = [(1, 1, 1, width), (1, 3, 3, width), (1, 1, 1, 4 * width)]
        if i in temporal:
            expected.insert(1, (3, 1, 1, width))
        assert len(stage) == blocks[i]
        for block in stage:
            assert isinstance(block, Bottleneck)
            assert kernels(block) == expected


@pytest.mark.parametrize("backbone", ["r2d50", "r2plus1d101"])
def test_output_sizes_equal_table_5(backbone: str) -> None:
    with torch.device("meta"):
        network = MotionNetwork(backbone, levels=()).eval()
        sizes = []
        features = network._stem(torch.empty(1, 3, 16, 224, 224))
        for stage in network.stages:
            features = stage(features)
            sizes.append(tuple(features.shape[1:]))
    assert sizes == [(256, 16, 56, 56), (512, 8, 28, 28), (1024, 4, 14, 14), (2048, 4, 7, 7)]


def test_plain_r2d50_is_resnet50_frame_by_frame() -> None:
    torch.manual_seed(0)
    reference = resnet50(weights=None).eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    network = MotionNetwork("r2d50", num_classes=1000, levels=()).eval()
    network.load_state_dict(reference.state_dict())
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in reference.parameters()
    )

    clip = torch.randint(0, 256, (2, 3, 1, 64, 48), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        actual, expected = network(clip), reference((clip[:, :, 0] / 255 - mean) / std)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize(("num_frames", "temporal_stride"), [(5, 2), (4, 1), (1, 2)])
def test_bottleneck_equals_its_3d_form(
    num_frames: int, temporal_stride: int, temporal: bool
) -> None:
    """The reference writes every 1×k×k convolution as a 3D convolution that carries the stride itself."""
    torch.manual_seed(0)
    block = Bottleneck(8, 4, 2, temporal_stride, temporal).double().eval()
    clip = torch.randn(2, 8, num_frames, 7, 6, dtype=torch.float64)
    frames = clip.transpose(1, 2).flatten(0, 1)

    def conv3d(features: torch.Tensor, conv: nn.Conv2d, bn: nn.Module, stride: int) -> torch.Tensor:
        k = conv.kernel_size[0] // 2
        features = nn.functional.conv3d(
            features, conv.weight[:, :, None], stride=(stride, *conv.stride), padding=(0, k, k)
        )
        return bn(features.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1)).transpose(1, 2)

    hidden = conv3d(clip, block.conv1, block.bn1, 1).relu()
    if block.temporal is not None:
        hidden = block.temporal.conv(hidden)
        hidden = block.temporal.bn(hidden.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1))
        hidden = hidden.transpose(1, 2).relu()
    hidden = conv3d(hidden, block.conv2, block.bn2, 1 if temporal else temporal_stride).relu()
    hidden = conv3d(hidden, block.conv3, block.bn3, 1)
    assert block.downsample is not None
    conv, bn = block.downsample
    expected = (hidden + conv3d(clip, conv, bn, temporal_stride)).relu()
    actual = block(frames, num_frames).unflatten(0, (2, -1)).transpose(1, 2)
    torch.testing.assert_close(actual, expected)


def test_every_nth_frame_does_not_mix_clips() -> None:
    frames = torch.arange(10.0).view(10, 1, 1, 1)
    assert every_nth_frame(frames, 5, 2).flatten().tolist() == [0, 2, 4, 5, 7, 9]


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="one of r2d50, r2plus1d101, r2d_tiny, got 'r3d'"):
        backbone_spec("r3d")


def test_weights_have_he_initialisation_and_residual_paths_start_at_zero() -> None:
    """√(2 / fan_out), checked on a convolution whose fan_in is another number."""
    torch.manual_seed(0)
    network = MotionNetwork("r2d50")
    weight = network.layer2[0].conv1.weight
    assert weight.shape[0] != weight.shape[1]
    fan_out = weight.shape[0] * weight[0, 0].numel()
    assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 16
    assert not any(block.bn3.weight.any() for block in blocks)

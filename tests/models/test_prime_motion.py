"""The prime motion block against its description (A.3), written as 3D convolutions."""

import pytest
import torch
from torch.nn import functional as F

from hcml_lightning.models.backbones import BACKBONES
from hcml_lightning.models.prime_motion import PrimeMotionBlock
from hcml_lightning.ops import cost_volume_reference


def test_block_has_the_sizes_of_the_paper() -> None:
    block = PrimeMotionBlock(BACKBONES["r2d50"], level=1)
    assert block.extract.reduce.weight.shape == (64, 512, 1, 1)
    assert block.extract.cost_bn.num_features == 49
    assert block.extract.mix.weight.shape == (128, 64 + 49, 3, 3)
    assert block.project.conv.weight.shape == (512, 128, 1, 1)


@pytest.mark.parametrize("reach", [(0, 1), (3, 2), (6, 2)])
def test_block_expects_as_many_costs_as_the_cost_volume_has(reach: tuple[int, int]) -> None:
    block = PrimeMotionBlock(BACKBONES["r2d_tiny"], 0, *reach)
    costs = cost_volume_reference(torch.zeros(1, 1, 1, 2, 2), *reach)
    assert block.extract.cost_bn.num_features == costs.shape[1]


@pytest.mark.parametrize(
    ("reach", "message"), [((2, 0), "`stride`"), ((2, -1), "`stride`"), ((-1, 1), "`max_disp")]
)
def test_displacements_out_of_range_are_refused(reach: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrimeMotionBlock(BACKBONES["r2d_tiny"], 0, *reach)


def test_block_equals_its_3d_form() -> None:
    torch.manual_seed(0)
    block = (
        PrimeMotionBlock(BACKBONES["r2d_tiny"], level=0, max_displacement=2, stride=1)
        .double()
        .eval()
    )
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean)
    features = torch.randn(2, 48, 3, 5, 6, dtype=torch.float64)

    def normalise(x: torch.Tensor, bn: torch.nn.BatchNorm2d) -> torch.Tensor:
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)

    e = block.extract
    reduced = normalise(F.conv3d(features, e.reduce.weight[:, :, None]), e.reduce_bn).relu()
    costs = normalise(cost_volume_reference(reduced, 2, 1), e.cost_bn).relu()
    mixed = F.conv3d(torch.cat([costs, reduced], 1), e.mix.weight[:, :, None], padding=(0, 1, 1))
    expected = normalise(mixed, e.mix_bn).relu()
    torch.testing.assert_close(block.extract(features), expected)
    projected = normalise(
        F.conv3d(expected, block.project.conv.weight[:, :, None]), block.project.bn
    )
    torch.testing.assert_close(block.project(expected), projected)

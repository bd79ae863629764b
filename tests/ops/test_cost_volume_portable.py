import pytest
import torch
from tests.support import assert_close

from hcml_lightning.ops import cost_volume_reference
from hcml_lightning.ops.cost_volume_portable import cost_volume_portable


@pytest.mark.parametrize(
    ("shape", "max_displacement", "stride"),
    [
        ((2, 8, 3, 7, 5), 6, 2),
        ((1, 3, 1, 13, 9), 3, 1),
        ((2, 17, 2, 4, 6), 5, 2),
        ((1, 4, 2, 3, 3), 0, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_reference(
    shape: tuple[int, ...], max_displacement: int, stride: int, dtype: torch.dtype
):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator)
    features[0, :, 0, 1, 1] = 0.0
    features = features.to(dtype)
    expected = cost_volume_reference(features.float(), max_displacement, stride)
    assert_close("costs", cost_volume_portable(features, max_displacement, stride), expected)

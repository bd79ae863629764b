"""Batch norm over all processes, here over one, equals PyTorch's own."""

import copy
from collections.abc import Iterator

import pytest
import torch
from tests.support import assert_close
from torch import distributed, nn

from hcml_lightning.sync_batch_norm import CPUSyncBatchNorm, SyncEverywhere


@pytest.fixture
def _one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize(
    ("dtype", "of_weights"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        # As under autocast: only the features are of half precision.
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_synchronised_batch_norm_equals_batch_norm_in_any_precision(
    dtype: torch.dtype, of_weights: torch.dtype
) -> None:
    torch.manual_seed(0)
    own = nn.BatchNorm2d(3).to(of_weights)
    synchronised = nn.Sequential(copy.deepcopy(own))
    SyncEverywhere().apply(synchronised)
    assert isinstance(synchronised[0], CPUSyncBatchNorm)
    features = (5 + 2 * torch.randn(4, 3, 6, 6)).to(dtype)
    expected, actual = own(features), synchronised(features)
    assert actual.dtype == dtype
    assert_close("features", actual, expected)
    for name in ("running_mean", "running_var"):
        assert_close(name, synchronised[0].get_buffer(name), own.get_buffer(name))


@pytest.mark.parametrize(("on_cpu", "kind"), [(True, CPUSyncBatchNorm), (False, nn.SyncBatchNorm)])
def test_kind_of_batch_norm_depends_on_the_device_of_the_run(on_cpu: bool, kind: type) -> None:
    plugin = SyncEverywhere()
    plugin.on_cpu = on_cpu
    # Still on the CPU: a trainer moves it later.
    assert isinstance(plugin.apply(nn.Sequential(nn.BatchNorm2d(3)))[0], kind)


def test_batch_norm_that_cpus_cannot_synchronise_is_named() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(3, momentum=None))
    with pytest.raises(ValueError, match=r"1 is BatchNorm2d\(3, .*sync_batchnorm=false"):
        SyncEverywhere().apply(model)


def test_revert_restores_the_plain_batch_norm() -> None:
    layers, plugin = nn.Sequential(nn.BatchNorm2d(3)), SyncEverywhere()
    plugin.apply(layers)
    plugin.revert(layers)
    assert type(layers[0]) is nn.BatchNorm2d

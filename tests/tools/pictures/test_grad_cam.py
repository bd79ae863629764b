import sys

import pytest
import torch
from torch import Tensor

from hcml_lightning.models import MotionNetwork
from hcml_lightning.tools.pictures.grad_cam import grad_cam, moving_mass, moving_pixels

pytest.importorskip("pytorch_grad_cam")


@pytest.fixture(scope="module")
def network() -> MotionNetwork:
    torch.manual_seed(0)
    return MotionNetwork("r2d_tiny", num_classes=4).eval()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 8, 64, 96), dtype=torch.uint8, generator=generator)


def by_the_formula(
    network: MotionNetwork, clip: Tensor, classes: list[int], level: int = 3
) -> Tensor:
    """Grad-CAM++ at the cells of a stage by its Eq. 19, through the whole network, in float64."""
    kept: list[Tensor] = []
    hook = network.stages[level].register_forward_hook(
        lambda module, given, made: kept.append(made)
    )
    logits = network.double()(clip)
    hook.remove()
    score = logits[range(len(clip)), classes].sum()
    (gradient,) = torch.autograd.grad(score, kept)
    network.float()
    features = kept[0].detach()
    everywhere = features.sum(dim=(2, 3, 4), keepdim=True)
    # Where the gradient is zero, the weight is zero.
    alpha = (gradient**2 / (2 * gradient**2 + everywhere * gradient**3)).nan_to_num()
    weights = (alpha * gradient.relu()).sum(dim=(2, 3, 4), keepdim=True)
    heat = (weights * features).sum(dim=1).relu()
    heat = heat - heat.amin(dim=(1, 2, 3), keepdim=True)
    return (heat / heat.amax(dim=(1, 2, 3), keepdim=True)).float()


@pytest.mark.parametrize("level", [3, 1])
def test_grad_cam_equals_its_formula(network: MotionNetwork, clip: Tensor, level: int):
    expected = by_the_formula(network, clip, [1, 3], level)
    heat = grad_cam(network, clip, [1, 3], level)
    assert heat.shape == (2, 8, 64, 96)
    assert heat.dtype == torch.float32
    for one in heat:
        assert one.min() == 0
        assert one.max() == 1
    # The map is linear between the middles of the cells, at res5 32 pixels and 4 frames each.
    fine = torch.nn.functional.interpolate(expected[:, None], (8, 64, 96), mode="trilinear")[:, 0]
    fine = fine - fine.amin(dim=(1, 2, 3), keepdim=True)
    fine = fine / fine.amax(dim=(1, 2, 3), keepdim=True)
    assert (heat - fine).abs().max() < 2e-3
    assert heat[0].std() > 0.1


def test_grad_cam_explains_the_preferred_class_of_each_clip(network: MotionNetwork, clip: Tensor):
    preferred = network(clip).argmax(dim=1)
    heat = grad_cam(network, clip)
    assert torch.allclose(heat, grad_cam(network, clip, preferred), atol=1e-6)
    other = grad_cam(network, clip, (preferred + 1) % 4)
    assert (heat - other).abs().max() > 0.1
    assert torch.allclose(heat[1:], grad_cam(network, clip[1:]), atol=1e-4)


def test_grad_cam_finds_the_cells_that_speak_for_a_class(monkeypatch: pytest.MonkeyPatch):
    """Features known by hand: channel 0 lights up at one cell, channel 1 at another, each for its class."""
    network = MotionNetwork("r2d_tiny", num_classes=4)
    features = torch.zeros(2, network.fc.in_features, 2, 3, 4)
    features[:, 0, 0, 1, 2] = 1.0
    features[:, 0, 1, 0, 0] = 0.5
    features[:, 1, 1, 2, 3] = 1.0
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.weight[0, 0] = network.fc.weight[1, 1] = 1.0
    monkeypatch.setattr(network, "appearance", lambda clip, level: features)
    # The clip has a pixel for each cell, so that nothing lies between them.
    heat = grad_cam(network, torch.zeros(2, 3, 2, 3, 4, dtype=torch.uint8), [0, 1])
    expected = torch.zeros(2, 2, 3, 4)
    expected[0, 0, 1, 2], expected[0, 1, 0, 0], expected[1, 1, 2, 3] = 1.0, 0.5, 1.0
    assert torch.allclose(heat, expected, atol=1e-4)
    # No feature speaks for class 2.
    assert grad_cam(network, torch.zeros(2, 3, 2, 3, 4, dtype=torch.uint8), [2, 2]).max() == 0


def test_grad_cam_during_training_changes_no_state(network: MotionNetwork, clip: Tensor):
    network.train()
    network.layer1.eval()
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    network.conv1.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    mean = network.bn1.running_mean.clone()
    with torch.inference_mode():
        heat = grad_cam(network, clip.clone(), [0, 1])
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(network.fc.weight.grad, torch.ones_like(network.fc.weight))
    assert network.layer2[0].conv1.weight.grad is None
    assert torch.equal(network.bn1.running_mean, mean)
    network.conv1.requires_grad_(True)
    network.eval()
    assert torch.allclose(heat, grad_cam(network, clip, [0, 1]), atol=1e-6)


def test_training_mode_is_restored_after_an_error(network: MotionNetwork, clip: Tensor):
    network.train()
    with pytest.raises(ValueError, match="classes must be 2 numbers from 0 to 3"):
        grad_cam(network, clip, [0, 4])
    assert network.layer1.training
    network.eval()


def test_impossible_level_is_refused(network: MotionNetwork, clip: Tensor):
    with pytest.raises(ValueError, match="level must be 0 … 3, for res2 … res5, got 4"):
        grad_cam(network, clip, level=4)


def test_missing_package_is_reported_with_what_to_install(
    network: MotionNetwork, clip: Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match=r"pip install 'hcml-lightning\[explain\]'"):
        grad_cam(network, clip)


def test_moving_mass_is_the_share_of_heat_on_moving_pixels():
    """A 2 × 2 square moves two columns to the right: eight pixels change in both frames."""
    clip = torch.full((2, 3, 2, 6, 6), 100, dtype=torch.uint8)
    clip[:, :, 0, 1:3, 0:2] = 110
    clip[:, :, 1, 1:3, 2:4] = 110
    moving = torch.zeros(2, 2, 6, 6, dtype=torch.bool)
    moving[:, :, 1:3, 0:4] = True
    assert torch.equal(moving_pixels(clip), moving)
    assert not moving_pixels(clip, threshold=11).any()
    heat = torch.zeros(2, 2, 6, 6)
    heat[0, 0, 1, 0], heat[0, 1, 5, 5] = 3.0, 1.0
    assert moving_mass(heat, clip)[0] == 0.75
    assert moving_mass(heat, clip)[1].isnan()
    assert torch.allclose(moving_mass(torch.ones_like(heat), clip), torch.tensor(8 / 36))
    with pytest.raises(ValueError, match="heat must have the shape"):
        moving_mass(heat[:, :1], clip)
    with pytest.raises(ValueError, match="at least two frames"):
        moving_pixels(clip[:, :, :1])

"""The network as a whole: subsets of levels, formats of the clip, and that untrained blocks change nothing."""

import itertools

import pytest
import torch

from hcml_lightning.models import MotionHierarchy, MotionNetwork

SUBSETS = [s for n in range(4) for s in itertools.combinations((0, 1, 2), n)]


@pytest.fixture
def clip() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 8, 32, 48), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("levels", SUBSETS)
def test_network_runs_with_any_subset_of_levels(
    levels: tuple[int, ...], clip: torch.Tensor
) -> None:
    model = MotionHierarchy("r2d_tiny", num_classes=5, levels=levels)
    assert model.network(clip).shape == (2, 5)
    _, motion = model.network.features(clip)
    assert tuple(motion) == levels
    shapes = {0: (2, 24, 8, 8, 12), 1: (2, 48, 4, 4, 6), 2: (2, 96, 2, 2, 3)}
    assert [tuple(p.shape) for p in motion.values()] == [shapes[i] for i in levels]
    if levels:
        assert model.side is not None
        assert sorted(model.side.predictors) == [str(i) for i in levels[1:]]
    else:
        assert model.side is None


def test_motion_features_stop_at_their_level(clip: torch.Tensor) -> None:
    network = MotionNetwork("r2d_tiny", 5).eval()
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    motion = network.motion_features(clip, up_to=1)
    assert len(motion) == 2
    assert "layer2" in ran
    assert "motion.0.project" in ran
    assert not {"layer3", "layer4", "fc", "motion.1.project", "motion.2.extract"} & set(ran)
    _, everything = network.features(clip)
    for actual, expected in zip(motion, (everything[0], everything[1]), strict=True):
        assert torch.equal(actual, expected)


def test_untrained_blocks_do_not_change_the_output_of_the_backbone(clip: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = MotionNetwork("r2d_tiny", 5).eval()
    plain = MotionNetwork("r2d_tiny", 5, levels=()).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if "motion" not in k})
    assert torch.equal(network(clip), plain(clip))


def test_uint8_and_float_clips_agree(clip: torch.Tensor) -> None:
    network = MotionNetwork("r2d_tiny", 5).eval()
    expected = network(clip)
    assert torch.equal(network(clip.float()), expected)
    channels_last = clip.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(channels_last), expected)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
def test_clips_may_have_any_number_of_frames(num_frames: int) -> None:
    network = MotionNetwork("r2d_tiny", 5).eval()
    clip = torch.zeros(1, 3, num_frames, 33, 47, dtype=torch.uint8)
    assert network(clip).shape == (1, 5)
    assert [p.shape[2] for p in network.motion_features(clip, 2)] == [
        num_frames,
        -(-num_frames // 2),
        -(-num_frames // 4),
    ]


def test_every_parameter_has_a_gradient_from_the_logits(clip: torch.Tensor) -> None:
    """Layers behind a zero weight learn from the second step on; here no weight starts at zero."""
    network = MotionNetwork("r2d_tiny", 5, dropout=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    network(clip).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("backbone", ["r2d_tiny"])
def test_compiles_and_exports_as_one_graph(backbone: str, clip: torch.Tensor) -> None:
    network = MotionNetwork(backbone, 5).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(network, (clip,), dynamic_shapes=({0: batch},))
        expected = network(clip[:1])
        torch.testing.assert_close(program.module()(clip[:1]), expected)
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(clip[:1]), expected)


@pytest.mark.parametrize("shape", [(3, 8, 32, 32), (2, 1, 8, 32, 32), (2, 8, 3, 32, 32)])
def test_wrong_clips_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"RGB of shape \(B, 3, T, H, W\)"):
        MotionNetwork("r2d_tiny", 5)(torch.zeros(shape))


@pytest.mark.parametrize("levels", [(0, 0), (3,), (-1,)])
def test_wrong_levels_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="levels must be distinct numbers from 0, 1, 2"):
        MotionHierarchy("r2d_tiny", 5, levels=levels)


def test_level_below_follows_the_chosen_levels() -> None:
    model = MotionHierarchy("r2d_tiny", 5, levels=(0, 2))
    assert model.level_below(2) == 0
    with pytest.raises(ValueError, match="one below it, got level 0"):
        model.level_below(0)
    with pytest.raises(ValueError, match="got level 1"):
        model.level_below(1)
    with pytest.raises(ValueError, match="up_to must be one of the levels"):
        model.network.motion_features(torch.zeros(1, 3, 2, 32, 32), up_to=1)


@pytest.mark.parametrize("backbone", ["r2d_tiny", "r2plus1d101"])
def test_gradients_have_the_memory_format_of_their_weights(
    backbone: str, clip: torch.Tensor
) -> None:
    # 1×1 weights included: DistributedDataParallel warns of any difference, and copies.
    network = MotionNetwork(backbone, 5)
    network(clip).sum().backward()
    strides = {name: (p.stride(), p.grad.stride()) for name, p in network.named_parameters()}
    assert {name: pair for name, pair in strides.items() if pair[0] != pair[1]} == {}
    with torch.device("meta"):
        other = MotionNetwork(backbone, 5)
    assert [p.stride() for p in other.parameters()] == [own for own, _ in strides.values()]


@pytest.mark.parametrize("level", range(4))
def test_classify_continues_from_the_features_of_any_stage(level: int) -> None:
    torch.manual_seed(0)
    network = MotionNetwork("r2d_tiny", num_classes=5).eval()
    clip = torch.randint(0, 256, (1, 3, 4, 32, 32), dtype=torch.uint8)
    for block in network.motion.values():
        torch.nn.init.ones_(block.project.bn.weight)
    features = network.appearance(clip, level)
    assert torch.equal(network.classify(features, level), network(clip))


@pytest.mark.parametrize("level", [-1, 4])
def test_stage_that_does_not_exist_is_refused(level: int) -> None:
    network = MotionNetwork("r2d_tiny", num_classes=2)
    with pytest.raises(ValueError, match=f"level must be 0 to 3, got {level}"):
        network.appearance(torch.zeros(1, 3, 2, 32, 32), level)

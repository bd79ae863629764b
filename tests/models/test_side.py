"""The flow decoder and the predictor."""

import pytest
import torch

from hcml_lightning.models import FlowDecoder, MotionHierarchy, Predictor
from hcml_lightning.models.predictor import coarser_locations, gather_locations


def test_flow_decoder_starts_at_zero_flow_and_leaves_out_the_last_frame() -> None:
    decoder = FlowDecoder(6, growth=4)
    motion = torch.randn(2, 6, 5, 7, 9)
    flow = decoder(motion)
    assert flow.shape == (2, 2, 4, 7, 9)
    assert not flow.any()
    assert len(decoder.hidden) + 1 == 5  # five convolutions, Sec. 3.3


def test_flow_decoder_processes_each_frame_independently() -> None:
    torch.manual_seed(0)
    decoder = FlowDecoder(6, growth=4)
    torch.nn.init.normal_(decoder.flow.weight)
    motion = torch.randn(2, 6, 4, 5, 5)
    flow = decoder(motion)
    changed = motion.clone()
    changed[1, :, 2] += 1
    changed[:, :, 3] += 1
    differs = (decoder(changed) != flow).flatten(3).any(dim=3).any(dim=1)
    assert differs.tolist() == [[False, False, False], [False, False, True]]


def test_predictor_equals_a_loop_over_places() -> None:
    torch.manual_seed(0)
    predictor = Predictor(upper_channels=6, below_channels=4, max_offset=3)
    upper, below = torch.randn(2, 6, 2, 3, 4), torch.randn(2, 4, 4, 6, 8)
    locations = torch.tensor([[0, 47, 13], [8, 21, 30]])
    predictions, targets = predictor(upper, below, locations)
    assert predictions.shape == (2, 4, 3, 3, 4)
    for b in range(2):
        for t in range(4):
            for n in range(3):
                y, x = divmod(int(locations[b, n]), 8)
                here = below[b, :, t, y, x]
                assert torch.equal(targets[b, t, n], here)
                condition = torch.cat([upper[b, :, t // 2, y // 2, x // 2], here])
                expected = predictor.heads(predictor.hidden(condition).relu()).view(3, 4)
                torch.testing.assert_close(predictions[b, t, n], expected)


def test_coarser_locations_cover_grids_that_the_ratio_does_not_divide() -> None:
    cells = coarser_locations(torch.arange(35)[None], 5, 3, ratio=2)[0].view(7, 5)
    assert cells[:, 0].tolist() == [0, 0, 3, 3, 6, 6, 9]
    assert cells[0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("num_frames", range(2, 18))
@pytest.mark.parametrize(("below", "upper"), [(0, 1), (1, 2), (0, 2)])
def test_predictor_combines_each_frame_with_the_upper_frame_at_or_before_it(
    num_frames: int, below: int, upper: int
) -> None:
    """The upper frame itself does not lie after the frame; what its features have read may lie after."""
    times = torch.arange(num_frames)[:: 2**below]
    ratio = 2 ** (upper - below)
    features = torch.zeros(1, 1, len(times[::ratio]), 1, 1)
    features[0, 0, :, 0, 0] = times[::ratio].float()
    predictor = Predictor(1, 1, max_offset=1, ratio=ratio)
    with torch.no_grad():
        predictor.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        predictor.hidden.bias.zero_()
        predictor.heads.weight.copy_(torch.tensor([[1.0, 0.0]]))
        predictor.heads.bias.zero_()
    lower = torch.zeros(1, 1, len(times), 1, 1)
    predictions, _ = predictor(features, lower, torch.zeros(1, 1, dtype=torch.int64))
    read = predictions.flatten().detach()
    assert bool((read <= times).all())
    assert bool((times - read < 2**upper).all())


def test_predictor_has_already_read_the_frames_of_its_nearest_targets() -> None:
    """As docs/method.md says: P^l holds a comparison with the next frame of its level."""
    torch.manual_seed(0)
    network = MotionHierarchy("r2d_tiny", num_classes=4).double().eval().network
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # the weight of g^l starts at zero
    clip = 255 * torch.rand(1, 3, 8, 32, 32, dtype=torch.float64)
    motion = network.motion_features(clip, up_to=1)
    read: list[dict[int, set[int]]] = [{t: set() for t in range(p.shape[2])} for p in motion]
    for frame in range(8):
        other = clip.clone()
        other[:, :, frame] = 255 - other[:, :, frame]
        for level, changed in enumerate(network.motion_features(other, up_to=1)):
            differs = (changed != motion[level]).flatten(3).any(dim=3).any(dim=1)[0]
            for t in differs.nonzero().flatten().tolist():
                read[level][t].add(frame)
    below, upper = read
    assert below == {t: {t, min(t + 1, 7)} for t in range(8)}
    assert upper == {0: {0, 1, 2, 3}, 1: {2, 3, 4, 5}, 2: {4, 5, 6, 7}, 3: {6, 7}}
    known = {t: [k for k in (1, 2, 3, 4) if below[t + k] <= upper[t // 2]] for t in range(4)}
    assert known == {0: [1, 2], 1: [1], 2: [1, 2], 3: [1]}


def test_gradient_reaches_only_the_gathered_locations() -> None:
    features = torch.randn(1, 2, 1, 2, 2, requires_grad=True)
    gather_locations(features, torch.tensor([[3]])).sum().backward()
    assert features.grad is not None
    assert features.grad.flatten(3)[0, 0, 0].tolist() == [0, 0, 0, 1]

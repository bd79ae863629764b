"""Flow decoder and predictor."""

import pytest
import torch

from hcml_lightning.models import FlowDecoder, Predictor
from hcml_lightning.models.predictor import coarser_locations, gather_locations


def test_flow_decoder_starts_at_zero_flow_and_leaves_out_the_last_frame() -> None:
    decoder = FlowDecoder(6, growth=4)
    motion = torch.randn(2, 6, 5, 7, 9)
    flow = decoder(motion)
    assert flow.shape == (2, 2, 4, 7, 9)
    assert not flow.any()
    assert len(decoder.hidden) + 1 == 5  # five convolutions, Sec. 3.3


def test_flow_decoder_reads_every_frame_by_itself() -> None:
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


def test_coarser_locations_cover_grids_that_do_not_divide() -> None:
    cells = coarser_locations(torch.arange(35)[None], 5, 3, ratio=2)[0].view(7, 5)
    assert cells[:, 0].tolist() == [0, 0, 3, 3, 6, 6, 9]
    assert cells[0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("num_frames", range(2, 18))
@pytest.mark.parametrize(("below", "upper"), [(0, 1), (1, 2), (0, 2)])
def test_nothing_of_the_future_is_read(num_frames: int, below: int, upper: int) -> None:
    """Frame t of the level below meets the last frame of the upper level that does not lie after it."""
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


def test_gathered_features_keep_their_gradient_to_themselves() -> None:
    features = torch.randn(1, 2, 1, 2, 2, requires_grad=True)
    gather_locations(features, torch.tensor([[3]])).sum().backward()
    assert features.grad is not None
    assert features.grad.flatten(3)[0, 0, 0].tolist() == [0, 0, 0, 1]

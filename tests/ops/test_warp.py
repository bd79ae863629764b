import pytest
import torch
from tests.support import assert_close
from torch import Tensor

from hcml_lightning.ops import warp


def random(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def warp_by_loops(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    count, _, height, width = frames.shape
    warped, valid = torch.zeros_like(frames), torch.zeros(count, 1, height, width, dtype=torch.bool)
    for n in range(count):
        for y in range(height):
            for x in range(width):
                at_x, at_y = x + flow[n, 0, y, x].item(), y + flow[n, 1, y, x].item()
                valid[n, 0, y, x] = 0 <= at_x <= width - 1 and 0 <= at_y <= height - 1
                for j in range(height):
                    for i in range(width):
                        weight = max(0, 1 - abs(at_x - i)) * max(0, 1 - abs(at_y - j))
                        warped[n, :, y, x] += weight * frames[n, :, j, i]
    return warped, valid


@pytest.mark.parametrize("size", [(7, 5), (1, 6), (5, 1), (1, 1)], ids=str)
def test_agrees_with_loops(size: tuple[int, int]) -> None:
    frames, flow = random(2, 3, *size), random(2, 2, *size, scale=2.0)
    warped, valid = warp(frames, flow)
    expected, expected_valid = warp_by_loops(frames, flow)
    assert_close("warped", warped, expected)
    assert torch.equal(valid, expected_valid)


def test_flow_of_a_known_translation_restores_the_current_frame() -> None:
    scene = random(1, 3, 20, 24)
    this, following = scene[..., 4:16, 4:16], scene[..., 6:18, 1:13]
    flow = torch.tensor([3.0, -2.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 12, 12)
    warped, valid = warp(following, flow)
    assert valid.sum() == (12 - 3) * (12 - 2)
    assert valid[0, 0, 2:, :9].all()
    assert_close("warped", warped[..., 2:, :9], this[..., 2:, :9])


def test_zero_flow_changes_nothing_and_is_valid_everywhere() -> None:
    frames = random(2, 3, 6, 5)
    warped, valid = warp(frames, torch.zeros(2, 2, 6, 5, dtype=torch.float64))
    assert_close("warped", warped, frames)
    assert valid.all()


def test_half_precision_flow_addresses_the_right_pixel_of_wide_frames() -> None:
    ramp = (torch.arange(600) % 50).to(torch.bfloat16).expand(1, 1, 2, 600)
    flow = torch.zeros(1, 2, 2, 600, dtype=torch.bfloat16)
    flow[:, 0] = 1
    warped, _ = warp(ramp, flow)
    assert warped.dtype == torch.bfloat16
    assert (warped[..., :-1] - ramp[..., 1:]).abs().max() < 0.01


def test_gradients_reach_frames_and_flow() -> None:
    frames, flow = random(1, 2, 4, 5).requires_grad_(), random(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: warp(*inputs)[0], (frames, flow))


def test_runs_compiled_without_a_graph_break() -> None:
    frames, flow = random(1, 2, 4, 5), random(1, 2, 4, 5)
    warped, valid = torch.compile(warp, fullgraph=True, backend="aot_eager")(frames, flow)
    assert_close("warped", warped, warp(frames, flow)[0])
    assert torch.equal(valid, warp(frames, flow)[1])


def test_error_names_the_argument_of_wrong_shape() -> None:
    with pytest.raises(
        ValueError, match=r"`frames` must have shape \(N, C, H, W\), got \(3, 4, 5\)"
    ):
        warp(torch.zeros(3, 4, 5), torch.zeros(1, 2, 4, 5))
    with pytest.raises(
        ValueError, match=r"`flow` must have shape \(1, 2, 4, 5\) .* got \(1, 3, 4, 5\)"
    ):
        warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5))


def test_integer_frames_are_refused():
    with pytest.raises(ValueError, match="must be floating point"):
        warp(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, 4))

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from hcml_lightning.data.transforms import (
    View,
    apply_view,
    apply_view_to_flow,
    even_views,
    random_view,
)

SOURCES = [(240, 320), (256, 340), (64, 64), (320, 240), (48, 64), (112, 150)]


def slow_view(frames: torch.Tensor, view: View) -> torch.Tensor:
    """The same view frame by frame, in float64 and without rounding."""
    result = []
    for frame in frames:
        cut = frame[view.top : view.top + view.side, view.left : view.left + view.side]
        cut = cut.permute(2, 0, 1)[None].double()
        size = (view.size, view.size)
        scaled = interpolate(cut, size, mode="bilinear", align_corners=False, antialias=True)
        result.append((scaled.flip(-1) if view.flip else scaled)[0])
    return torch.stack(result, 1)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "view", [View(3, 5, 30, 20), View(0, 0, 20, 33, True), View(1, 2, 9, 9, True)]
)
def test_frames_equal_a_float64_reference_up_to_rounding(view):
    frames = noise(2, 40, 50, 3)
    video = apply_view(frames, view)
    assert video.shape == (3, 2, view.size, view.size)
    assert video.dtype == torch.uint8
    assert video.is_contiguous()
    assert (video.double() - slow_view(frames, view)).abs().max() < 1.01


@pytest.mark.parametrize(("height", "width"), SOURCES)
@pytest.mark.parametrize(
    ("short_side", "crop"), [((256, 320), 224), ((64, 72), 56), ((16, 16), 16)]
)
def test_random_views_lie_in_the_source_and_cover_the_scales(height, width, short_side, crop):
    rng = np.random.default_rng(0)
    views = [random_view(height, width, short_side, crop, True, rng) for _ in range(300)]
    for view in views:
        assert 0 <= view.top <= height - view.side
        assert 0 <= view.left <= width - view.side
        assert view.size == crop
    # The side of the crop in the source is a whole number of pixels.
    shortest = min(height, width)
    sides = [view.side for view in views]
    assert min(sides) == pytest.approx(crop * shortest / short_side[1], abs=1.01)
    assert max(sides) == pytest.approx(crop * shortest / short_side[0], abs=1.01)
    assert 100 < sum(view.flip for view in views) < 200
    assert not any(random_view(height, width, short_side, crop, False, rng).flip for _ in range(30))


def test_random_crops_reach_every_border():
    rng = np.random.default_rng(0)
    views = [random_view(24, 32, (24, 24), 20, False, rng) for _ in range(500)]
    assert {view.top for view in views} == set(range(5))
    assert {view.left for view in views} == set(range(13))


@pytest.mark.parametrize(("height", "width"), SOURCES)
def test_even_views_span_the_longer_side(height, width):
    views = even_views(height, width, 256, 256, num_crops=3)
    side = min(height, width)
    assert [view.side for view in views] == [side] * 3
    along = [view.top if height > width else view.left for view in views]
    assert along == [0, (max(height, width) - side) // 2, max(height, width) - side]


def test_even_views_of_a_square_go_from_left_to_right():
    views = even_views(64, 64, 64, 32, num_crops=3)
    assert [(view.top, view.left) for view in views] == [(16, 0), (16, 16), (16, 32)]


def test_the_side_of_a_crop_is_rounded_to_the_nearest():
    # 56 · 50 / 64 = 43.75
    (view,) = even_views(50, 70, 64, 56)
    assert view.side == 44


def test_one_view_is_centred():
    (view,) = even_views(240, 320, 256, 224)
    assert (view.top, view.left, view.side) == (15, 55, 210)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [20, 40, 80])
def test_flow_is_transformed_like_the_frames(flip, size):
    # A plane of brightness that moves by (2, 1) pixels: I(x, y, t) = x - 2 t + 3 (y - t).
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    view = View(6, 4, 40, size, flip)
    flow = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 60, 60)
    moved = apply_view_to_flow(flow, view)
    times = torch.arange(3.0).view(3, 1, 1)
    planes = (x - 2 * times + 3 * (y - times)).expand(3, 60, 60)
    picture = apply_view_to_flow(torch.stack([planes, planes]), view)[1] / view.scale
    # Brightness constancy: dI/dx u + dI/dy v + dI/dt = 0, inside, where resizing sees no border.
    inner = slice(2, -2)
    dx = (picture[:, :, 2:] - picture[:, :, :-2])[:, 1:-1] / 2
    dy = (picture[:, 2:] - picture[:, :-2])[:, :, 1:-1] / 2
    dt = (picture[1:] - picture[:-1])[:, 1:-1, 1:-1]
    u, v = moved[:, :-1, 1:-1, 1:-1]
    residual = (dx[:-1] * u + dy[:-1] * v + dt)[:, inner, inner]
    assert residual.abs().max() < 1e-3
    assert moved[0, 0, 0, 0].item() == pytest.approx(2 * size / 40 * (-1 if flip else 1))


def test_all_frames_of_a_clip_get_the_same_view():
    frames = noise(1, 40, 50, 3).expand(4, -1, -1, -1)
    video = apply_view(frames, View(2, 3, 31, 20, True))
    assert all(torch.equal(video[:, 0], video[:, t]) for t in range(4))

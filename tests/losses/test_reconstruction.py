"""Eq. 3 and 4 against loops over pixels."""

import itertools

import pytest
import torch

from hcml_lightning.losses import charbonnier, photometric_loss, reconstruct, smoothness_loss


def rho(z: float) -> float:
    return (z**2 + 1e-3**2) ** 0.45


def test_charbonnier_equals_its_formula() -> None:
    z = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(charbonnier(z), torch.tensor([rho(-2), rho(0), rho(0.5)]).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_charbonnier_of_half_precision_is_exact_near_zero(dtype: torch.dtype) -> None:
    z = (torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]) * 1e-3).to(dtype).requires_grad_()
    exact = z.detach().double().requires_grad_()
    penalty, expected = charbonnier(z), charbonnier(exact)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, expected.float())
    penalty.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(
        z.grad, exact.grad.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0
    )


def test_photometric_loss_equals_eq_3() -> None:
    torch.manual_seed(0)
    frames, warped = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    valid = torch.rand(2, 1, 4, 5) > 0.3
    total = 0.0
    for n, c, y, x in itertools.product(range(2), range(3), range(4), range(5)):
        if valid[n, 0, y, x]:
            total += rho(float(frames[n, c, y, x] - warped[n, c, y, x]))
    expected = total / (2 * 3 * 4 * 5)
    assert float(photometric_loss(frames, warped, valid)) == pytest.approx(expected, rel=1e-12)


def test_invalid_pixels_get_no_gradient() -> None:
    frames, warped = torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2, requires_grad=True)
    valid = torch.tensor([[[[True, False], [True, True]]]])
    photometric_loss(frames, warped, valid).backward()
    assert warped.grad is not None
    assert (warped.grad != 0).equal(valid)


def test_smoothness_loss_equals_eq_4() -> None:
    torch.manual_seed(0)
    flow = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    total = 0.0
    for c in range(2):
        dx = [
            rho(float(flow[n, c, y, x + 1] - flow[n, c, y, x]))
            for n, y, x in itertools.product(range(3), range(4), range(4))
        ]
        dy = [
            rho(float(flow[n, c, y + 1, x] - flow[n, c, y, x]))
            for n, y, x in itertools.product(range(3), range(3), range(5))
        ]
        total += sum(dx) / len(dx) + sum(dy) / len(dy)
    assert float(smoothness_loss(flow)) == pytest.approx(total, rel=1e-12)


def test_smoothness_ignores_axes_one_pixel_long() -> None:
    assert float(smoothness_loss(torch.zeros(1, 2, 1, 1))) == 0
    assert float(smoothness_loss(torch.zeros(1, 2, 1, 4))) == pytest.approx(2 * rho(0))


def test_wrong_shapes_are_refused() -> None:
    frame = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"valid \(N, 1, H, W\)"):
        photometric_loss(frame, frame, torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\)"):
        smoothness_loss(frame)


@pytest.mark.parametrize("step", [1, 2])
def test_true_flow_reconstructs_all_pixels_that_stay_visible(step: int) -> None:
    """A texture moves two pixels to the right from one used frame to the next; the frames between hold noise."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randint(0, 256, (1, 3, 16, 40), dtype=torch.uint8, generator=generator)
    clip = torch.randint(0, 256, (1, 3, 4 * step, 16, 32), dtype=torch.uint8, generator=generator)
    for t in range(4):
        clip[:, :, t * step] = texture[..., 8 - 2 * t : 40 - 2 * t]
    flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 16, 32)
    terms = reconstruct(flow, clip, step)
    assert float(terms.valid) == 30 / 32
    assert float(terms.photometric) == pytest.approx(rho(0) * 30 / 32, rel=1e-2)
    frames = clip[0, :, ::step].double() / 255
    difference = frames[:, :-1] - frames[:, 1:]
    zero = difference.square().add(1e-6).pow(0.45).mean()
    assert float(terms.photometric_zero) == pytest.approx(float(zero), rel=1e-5)
    with pytest.raises(ValueError, match=r"flow between 4 frames needs 4 frames, but \d+ of"):
        reconstruct(flow, clip[:, :, :-step], step)


def test_charbonnier_of_uint8_does_not_overflow() -> None:
    values = torch.tensor([0, 1, 200], dtype=torch.uint8)
    torch.testing.assert_close(charbonnier(values), charbonnier(values.float()))


def test_photometric_loss_refuses_integers_which_would_wrap_around() -> None:
    frames = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"must be floating point, got torch\.uint8"):
        photometric_loss(frames, frames, torch.ones(1, 1, 2, 2, dtype=torch.bool))

"""Eq. 3 and 4 against loops over pixels."""

import itertools

import pytest
import torch

from hcml_lightning.losses import charbonnier, photometric_loss, smoothness_loss


def rho(z: float) -> float:
    return (z**2 + 1e-3**2) ** 0.45


def test_charbonnier() -> None:
    z = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(charbonnier(z), torch.tensor([rho(-2), rho(0), rho(0.5)]).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_a_finite_gradient_at_zero(dtype: torch.dtype) -> None:
    z = torch.zeros(3, dtype=dtype, requires_grad=True)
    charbonnier(z).sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros(3, dtype=dtype))


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


def test_smoothness_of_maps_one_cell_wide() -> None:
    assert float(smoothness_loss(torch.zeros(1, 2, 1, 1))) == 0
    assert float(smoothness_loss(torch.zeros(1, 2, 1, 4))) == pytest.approx(2 * rho(0))


def test_wrong_shapes_are_refused() -> None:
    frame = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"valid \(N, 1, H, W\)"):
        photometric_loss(frame, frame, torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\)"):
        smoothness_loss(frame)

"""Metrics of motion features, on inputs whose answer is known."""

import math

import pytest
import torch

from hcml_lightning.metrics import effective_rank, efficacy_score, feature_spread


def test_spread_tells_collapsed_from_spread_features() -> None:
    torch.manual_seed(0)
    assert float(feature_spread(torch.randn(4, 64, 3, 5, 5))) == pytest.approx(1, abs=0.05)
    collapsed = torch.randn(1, 64, 1, 1, 1) + 1e-3 * torch.randn(4, 64, 3, 5, 5)
    assert float(feature_spread(collapsed)) < 0.01


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(16, 16))[0][:3]
    features = (torch.randn(2000, 3) @ directions).view(20, 100, 16).permute(0, 2, 1)
    assert float(effective_rank(features[..., None, None])) == pytest.approx(3, abs=0.05)
    assert float(effective_rank(torch.ones(2, 8, 3, 4, 4))) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_effective_rank_is_the_same_in_half_precision_training(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # Squares summed over a hundred thousand places overflow float16.
    features = torch.randn(10, 4, 10, 32, 32) * torch.tensor([2.0, 1, 0.5, 0.1]).view(4, 1, 1, 1)
    expected = effective_rank(features)
    with torch.autocast("cpu", dtype):
        assert effective_rank(features) == expected


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_effective_rank_of_non_finite_features_is_nan(value: float) -> None:
    features = torch.rand(2, 8, 3, 4, 4)
    features[1, 3, 0, 2, 2] = value
    assert effective_rank(features).isnan()


def test_effective_rank_is_computed_despite_dead_channels() -> None:
    # For about one in twenty of these, LAPACK in float32 fails or returns NaN.
    for seed in range(80):
        generator = torch.Generator().manual_seed(seed)
        live = torch.randperm(96, generator=generator)[:35]
        features = torch.zeros(1000, 96)
        drawn = torch.randn(1000, 35, generator=generator).relu()
        features[:, live] = drawn * torch.logspace(0, -3, 35) / math.sqrt(1000)
        assert 1 < float(effective_rank(features[..., None, None, None])) < 35


def test_efficacy_score_has_the_known_values() -> None:
    assert efficacy_score(0.8, 0.6) == pytest.approx(4)
    assert efficacy_score(0.5, 0.5) == math.inf
    assert efficacy_score(0.4, 0.5) == math.inf
    assert efficacy_score(0, 0) == efficacy_score(0, 0.1) == 0


def test_effective_rank_does_not_depend_on_scale() -> None:
    features = torch.randn(2, 8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = effective_rank(features)
    for scale in (1e-25, 1e20):
        torch.testing.assert_close(effective_rank(features * scale), expected, rtol=1e-3, atol=0)


def test_effective_rank_does_not_depend_on_the_mean() -> None:
    features = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(effective_rank(features + 30)) == pytest.approx(
        float(effective_rank(features)), rel=1e-3
    )


def test_efficacy_score_of_nan_is_nan() -> None:
    assert math.isnan(efficacy_score(math.nan, 0.5))
    assert math.isnan(efficacy_score(0.5, math.nan))

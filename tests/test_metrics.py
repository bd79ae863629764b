"""What is reported, against counting by hand."""

import math

import pytest
import torch

from hcml_lightning.metrics import (
    BatchMeans,
    EndPointError,
    VideoAccuracy,
    effective_rank,
    efficacy_score,
    feature_spread,
)


def test_accuracy_is_over_videos_and_not_over_classes() -> None:
    scores = torch.eye(3)[[0, 0, 0, 0]]
    accuracy = VideoAccuracy()
    accuracy.update(scores, torch.tensor([0, 0, 0, 1]), torch.arange(4))
    assert float(accuracy.compute()) == 0.75


def test_each_video_counts_once_whatever_the_batches() -> None:
    torch.manual_seed(0)
    scores, labels = torch.rand(10, 7), torch.randint(0, 7, (10,))
    expected = {
        k: sum(int(y) in s.topk(k).indices for s, y in zip(scores, labels, strict=True)) / 10
        for k in (1, 5)
    }
    for k, share in expected.items():
        accuracy = VideoAccuracy(top_k=k)
        for rows in ([3, 4, 5], [0, 1, 2, 9], [7, 8, 6], [0, 3, 9]):
            accuracy.update(scores[rows], labels[rows], torch.tensor(rows))
        assert float(accuracy.compute()) == pytest.approx(share)


def test_top_5_of_fewer_classes_is_everything() -> None:
    accuracy = VideoAccuracy(top_k=5)
    accuracy.update(torch.rand(2, 3), torch.tensor([0, 2]), torch.arange(2))
    assert float(accuracy.compute()) == 1


def test_end_point_error() -> None:
    error = EndPointError()
    error.update(torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 3), 2.0))
    error.update(torch.ones(3, 2, 3, 3), torch.ones(3, 2, 3, 3))
    assert float(error.compute()) == pytest.approx(math.sqrt(8) / 4)
    with pytest.raises(ValueError, match="same shape"):
        error.update(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))


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
    # Squares of a hundred thousand places are more than float16 can hold.
    features = torch.randn(10, 4, 10, 32, 32) * torch.tensor([2.0, 1, 0.5, 0.1]).view(4, 1, 1, 1)
    expected = effective_rank(features)
    with torch.autocast("cpu", dtype):
        assert effective_rank(features) == expected


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_effective_rank_of_what_is_not_finite_is_no_number(value: float) -> None:
    features = torch.rand(2, 8, 3, 4, 4)
    features[1, 3, 0, 2, 2] = value
    assert effective_rank(features).isnan()


def test_efficacy_score() -> None:
    assert efficacy_score(0.8, 0.6) == pytest.approx(4)
    assert efficacy_score(0.5, 0.5) == math.inf
    assert efficacy_score(0.4, 0.5) == math.inf


def test_means_do_not_depend_on_who_had_which_batch_nor_on_repeats():
    batches = [(torch.tensor(0.1 * i), torch.arange(3 * i, min(3 * i + 3, 10))) for i in range(4)]
    alone, shared = BatchMeans(), BatchMeans()
    for value, indices in batches:
        alone.update({"loss": value}, indices)
    for number in (2, 0, 3, 1, 0):
        value, indices = batches[number]
        shared.update({"loss": value}, indices)
    assert alone.compute() == shared.compute()
    assert float(alone.compute()["loss"]) == pytest.approx((0.3 + 0.6 + 0.3) / 10)
    with pytest.raises(ValueError, match="expected values named"):
        alone.update({"other": torch.tensor(0.0)}, torch.arange(3))

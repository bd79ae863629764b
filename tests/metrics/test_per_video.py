"""Metrics per video, checked against counts by hand."""

import pytest
import torch

from hcml_lightning.metrics import BatchMeans, VideoAccuracy


def test_accuracy_averages_over_videos_and_not_over_classes() -> None:
    scores = torch.eye(3)[[0, 0, 0, 0]]
    accuracy = VideoAccuracy()
    accuracy.update(scores, torch.tensor([0, 0, 0, 1]), torch.arange(4))
    assert float(accuracy.compute()) == 0.75


def test_accuracy_counts_each_video_once_despite_repeats() -> None:
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


def test_top_5_accuracy_is_1_with_fewer_than_5_classes() -> None:
    accuracy = VideoAccuracy(top_k=5)
    accuracy.update(torch.rand(2, 3), torch.tensor([0, 2]), torch.arange(2))
    assert float(accuracy.compute()) == 1


def test_batch_means_do_not_depend_on_order_or_repeats():
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


def test_videos_without_a_label_do_not_count() -> None:
    scores = torch.eye(3)
    for top_k in (1, 2):
        accuracy = VideoAccuracy(top_k)
        accuracy.update(scores, torch.tensor([0, -1, 2]), torch.arange(3))
        assert float(accuracy.compute()) == 1
    nobody = VideoAccuracy()
    nobody.update(scores, torch.full((3,), -1), torch.arange(3))
    assert nobody.compute().isnan()


def test_nan_scores_make_the_accuracy_nan_with_a_warning() -> None:
    accuracy = VideoAccuracy()
    scores = torch.eye(3)
    scores[0] = torch.nan
    accuracy.update(scores, torch.arange(3), torch.arange(3))
    with pytest.warns(UserWarning, match="of 1 of 3 videos are NaN"):
        assert accuracy.compute().isnan()


def test_accuracy_without_videos_is_nan() -> None:
    accuracy = VideoAccuracy()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert accuracy.compute().isnan()
    empty = torch.zeros(0, dtype=torch.int64)
    accuracy.reset()
    accuracy.update(torch.zeros(0, 3), empty, empty)
    assert accuracy.compute().isnan()


def test_unequal_numbers_of_videos_and_top_k_below_1_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3, 2 and 3"):
        VideoAccuracy().update(torch.zeros(3, 2), torch.zeros(2).long(), torch.arange(3))
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        VideoAccuracy(top_k=0)

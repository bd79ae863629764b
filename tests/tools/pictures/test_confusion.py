"""Confusions between classes, checked against counts by hand."""

import pytest

from hcml_lightning.tools.pictures.confusion import confusion
from hcml_lightning.tools.run.video_results import VideoResult


def test_confusion_counts_labelled_videos_only():
    videos = [
        VideoResult("1", "a", "a", 0.9),
        VideoResult("2", "a", "b", 0.8),
        VideoResult("3", "a", "b", 0.95),
        VideoResult("4", "c", "a", 0.5),
        VideoResult("5", "", "a", 0.7),
    ]
    table = confusion(videos)
    assert table.classes == ["a", "b", "c"]
    assert table.accuracy == [("c", 0.0, 1), ("a", pytest.approx(1 / 3), 3)]
    assert table.pairs == [("a", "b", 2, pytest.approx(2 / 3)), ("c", "a", 1, 1.0)]
    assert [video.video_id for video in table.mistakes] == ["3", "2", "4"]


def test_pairs_with_equal_counts_are_ordered_by_share_of_their_class():
    results = [
        VideoResult("1", "a", "b", 0.5),
        VideoResult("2", "a", "a", 0.5),
        VideoResult("3", "c", "b", 0.5),
    ]
    assert [pair[:2] for pair in confusion(results).pairs] == [("c", "b"), ("a", "b")]

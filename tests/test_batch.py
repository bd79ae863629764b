import torch

from hcml_lightning.batch import VideoBatch, middle_view


def test_the_middle_view_stands_for_all_of_them() -> None:
    views = torch.arange(2 * 3).view(2, 3, 1, 1, 1, 1).expand(2, 3, 3, 4, 5, 6)
    labels = torch.zeros(2, dtype=torch.int64)
    batch: VideoBatch = {"video": views, "label": labels, "index": labels, "video_id": ["a", "b"]}
    middle = middle_view(batch)
    assert torch.equal(middle["video"], views[:, 1])
    assert middle["label"] is labels
    assert batch["video"] is views
    assert middle_view(middle) is middle

import pytest
import torch

from hcml_lightning.batch import VideoBatch, check_batch, middle_view


def test_middle_view_replaces_the_video_in_a_copy_of_the_batch() -> None:
    views = torch.arange(2 * 3).view(2, 3, 1, 1, 1, 1).expand(2, 3, 3, 4, 5, 6)
    labels = torch.zeros(2, dtype=torch.int64)
    batch: VideoBatch = {"video": views, "label": labels, "index": labels, "video_id": ["a", "b"]}
    middle = middle_view(batch)
    assert torch.equal(middle["video"], views[:, 1])
    assert middle["label"] is labels
    assert batch["video"] is views
    assert middle_view(middle) is middle


@pytest.mark.parametrize(
    ("clips", "crops", "clip", "crop"),
    [(10, 3, 5, 1), (5, 3, 2, 1), (2, 3, 1, 1), (1, 3, 0, 1), (10, 1, 5, 0), (1, 1, 0, 0)],
)
def test_middle_view_is_the_centre_crop_of_the_middle_clip(
    clips: int, crops: int, clip: int, crop: int
) -> None:
    # As a dataset stacks them: the crops of a clip beside each other.
    views = torch.arange(clips * crops).view(1, -1, 1, 1, 1, 1)
    label = torch.zeros(1, dtype=torch.int64)
    batch: VideoBatch = {"video": views, "label": label, "index": label, "video_id": ["a"]}
    assert divmod(middle_view(batch)["video"].item(), crops) == (clip, crop)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (
            [torch.zeros(1)],
            TypeError,
            "the loader's batch is a list; expected a dict with 'video', 'index'",
        ),
        ({"video": torch.zeros(1)}, ValueError, r"has no 'index' \(only 'video'\); .*VideoBatch"),
        ({}, ValueError, r"has no 'video' \(it is empty\)"),
    ],
)
def test_batch_without_the_needed_entries_is_named(
    batch: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_batch(batch, ("video", "index"))


@pytest.mark.parametrize(
    "label", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64), torch.eye(2, 8)]
)
def test_labels_that_are_no_class_indices_are_refused(label: torch.Tensor) -> None:
    video = torch.zeros(2, 3, 4, 5, 6, dtype=torch.uint8)
    check_batch({"video": video, "label": torch.tensor([0, -1])}, ["video", "label"])
    check_batch({"video": video, "label": label}, ["video"])
    with pytest.raises(ValueError, match=r"one class index for each clip, int64 of shape \(2,\)"):
        check_batch({"video": video, "label": label}, ["video", "label"])


def test_clips_of_floats_up_to_1_warn() -> None:
    check_batch({"video": torch.ones(1, dtype=torch.uint8)}, ["video"])
    check_batch({"video": torch.full((1,), 255.0)}, ["video"])
    check_batch({"video": torch.zeros(1)}, ["video"])
    with pytest.warns(UserWarning, match="floats up to 1.*uint8, or multiply them by 255"):
        check_batch({"video": torch.tensor([0.0, 0.5])}, ["video"])


def test_clips_that_are_normalised_already_are_pointed_out() -> None:
    video = torch.tensor([-1.2, 0.3])
    with pytest.warns(UserWarning, match="negative values.*leave out your own normalisation"):
        check_batch({"video": video}, ["video"])

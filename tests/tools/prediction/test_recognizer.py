from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import hcml_lightning
from hcml_lightning import RecognitionTask, Recognizer, UCF101DataModule
from hcml_lightning.data.dataset import ClipRecipe
from hcml_lightning.data.decode import VideoError, probe, read_frames
from hcml_lightning.models import MotionNetwork
from hcml_lightning.tools.prediction import frame_times as frame_times_module
from hcml_lightning.tools.prediction.annotate import annotate
from hcml_lightning.tools.prediction.frame_times import frame_times
from hcml_lightning.tools.prediction.spans import Span, read_spans, sliding_windows


@pytest.fixture(scope="module")
def recognizer(checkpoints: dict[str, Path]) -> Recognizer:
    return Recognizer.from_checkpoint(checkpoints["recognition"], device="auto")


def test_recognizer_gives_the_views_and_probabilities_of_the_task(
    recognizer: Recognizer, checkpoints: dict[str, Path], synthetic_root: Callable[[str], Path]
):
    """The reference: the dataset of the data module, and the task's own step."""
    settings = torch.load(checkpoints["recognition"])["datamodule_hyper_parameters"]
    data = UCF101DataModule(**{k: v for k, v in settings.items() if not k.startswith("_")})
    data.setup("test")
    sample = data.dataset("test")[3]
    task = RecognitionTask.load_from_checkpoint(checkpoints["recognition"]).eval()
    assert sample is not None
    batch = {"video": sample.video[None], "video_id": [sample.video_id]}
    with torch.inference_mode():
        expected = task.predict_step(batch, 0)["probability"][0]
    path = data.dataset("test").records[3].path
    assert torch.equal(read_spans(path, None, recognizer.recipe)[0].views, sample.video)
    found = recognizer(path)
    assert torch.allclose(found.probability, expected, atol=1e-6)
    assert found.class_names == tuple(data.class_names)
    label = int(expected.argmax())
    assert found.top(1) == [(data.class_names[label], pytest.approx(float(expected[label])))]
    assert len(found.top(99)) == 8
    assert (found.start, found.end) == (0.0, 12 / 25)


def test_recognizer_drops_the_side_branch(recognizer: Recognizer, checkpoints: dict[str, Path]):
    state = torch.load(checkpoints["recognition"])["state_dict"]
    kept = {k.removeprefix("model.network.") for k in state if k.startswith("model.network.")}
    assert recognizer.network.state_dict().keys() == kept
    assert any(key.startswith("model.side.") for key in state)
    assert not recognizer.network.training
    again = MotionNetwork(**recognizer.architecture)
    again.load_state_dict(recognizer.network.state_dict())


def test_windows_have_the_times_and_probabilities_of_their_frames(
    recognizer: Recognizer, synthetic_root: Callable[[str], Path]
):
    path = next((synthetic_root("ucf101") / "videos" / "up").glob("*.avi"))
    found = list(recognizer.windows(path, window=0.32, hop=0.16))
    assert [(span.start, span.end) for span in found] == [(0.0, 0.32), (0.16, 0.48)]
    # By hand: four frames, every second one, in the middle of frames 4 to 11.
    clip = read_frames(path, [4, 6, 8, 10]).permute(3, 0, 1, 2)[None, :, :, :, 8:56]
    small = torch.nn.functional.interpolate(
        clip[0].transpose(0, 1), (32, 32), mode="bilinear", antialias=True
    ).transpose(0, 1)
    [_, seen] = read_spans(str(path), [Span(0, 8), Span(4, 12)], recognizer.recipe)
    # The middle one of three crops.
    assert torch.equal(seen.views[1], small)
    views = recognizer.network(seen.views).softmax(dim=1).mean(dim=0)
    assert torch.allclose(found[1].probability, views, atol=1e-6)


def test_windows_cover_the_video_and_never_leave_it():
    for frames, window, hop in ((100, 2.0, 1.0), (7, 2.0, 1.0), (1000, 0.5, 0.3), (51, 2.0, 2.0)):
        spans = sliding_windows(np.arange(frames + 1) / 25, window, hop)
        length = min(round(window * 25), frames)
        assert spans[0].first == 0
        assert spans[-1].end == frames
        assert {span.end - span.first for span in spans} == {length}
        assert all(0 < b.first - a.first <= round(hop * 25) + 1 for a, b in pairwise(spans))
    assert sliding_windows(np.arange(25) / 12, 1.0, 1.0) == [Span(0, 12), Span(12, 24)]
    with pytest.raises(ValueError, match="greater than 0 seconds"):
        sliding_windows(np.arange(25) / 12, 1.0, 0.0)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames in the first second and one in each of the five after it, as screen recorders write them."""
    path = tmp_path_factory.mktemp("uneven") / "screen.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, seconds in enumerate([*np.arange(10) / 10, *range(1, 6)]):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 16 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(10 * seconds), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_windows_over_uneven_frames_follow_their_times(recognizer: Recognizer, uneven: Path):
    times = frame_times(str(uneven))
    assert times[:-1].tolist() == [*(np.arange(10) / 10), *range(1, 6)]
    # The last frame lasts as long as the average, 0.4 s, and the last window ends with it.
    spans = sliding_windows(times, 1.0, 1.0)
    expected = [(0, 10), (10, 11), (11, 12), (12, 13), (13, 15)]
    assert spans == [Span(*span) for span in expected]
    found = list(recognizer.windows(uneven, 1.0, 1.0))
    assert [span.start for span in found] == [0, 1, 2, 3, 4]
    # Windows shorter than the gaps still have a frame each.
    assert all(span.end > span.first for span in sliding_windows(times, 0.25, 0.25))


def test_annotated_copy_keeps_the_times_of_the_frames(
    recognizer: Recognizer, uneven: Path, tmp_path: Path
):
    copy = tmp_path / "copy.mp4"
    annotate(str(uneven), list(recognizer.windows(uneven, 1.0, 1.0)), copy, 3)
    assert frame_times(str(copy))[:-1] == pytest.approx(frame_times(str(uneven))[:-1])


def test_a_whole_video_is_read_part_by_part(
    recognizer: Recognizer, synthetic_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    """Its clips are not all in memory at full size, and the views stay the same."""
    path = str(next((synthetic_root("ucf101") / "videos" / "up").glob("*.avi")))
    [whole] = read_spans(path, None, recognizer.recipe)
    sizes: list[int] = []

    def read(path: str, numbers: list[int]) -> torch.Tensor:
        sizes.append(len(numbers))
        return read_frames(path, numbers)

    monkeypatch.setattr("hcml_lightning.tools.prediction.spans.read_frames", read)
    length = recognizer.recipe.clip_length
    monkeypatch.setattr("hcml_lightning.tools.prediction.spans.FRAMES_AT_A_TIME", length)
    [parts] = read_spans(path, None, recognizer.recipe)
    assert sizes == [length] * recognizer.recipe.num_clips
    assert len(sizes) > 1
    assert torch.equal(parts.views, whole.views)


def test_clip_of_a_short_window_reaches_beyond_it(synthetic_root: Callable[[str], Path]):
    path = str(next((synthetic_root("ucf101") / "videos" / "up").glob("*.avi")))
    recipe = ClipRecipe(4, 2, (48, 48), 48)
    assert probe(path).num_frames == 12
    expected = {0: [0, 2, 4, 6], 5: [3, 5, 7, 9], 10: [5, 7, 9, 11]}
    for first, numbers in expected.items():
        [seen] = read_spans(path, [Span(first, first + 2)], recipe)
        frames = read_frames(path, numbers)[:, :, 8:56].permute(3, 0, 1, 2)
        assert torch.equal(seen.views[0], frames), first
    [seen] = read_spans(path, [Span(2, 6)], ClipRecipe(4, "spread", (48, 48), 48))
    assert torch.equal(
        seen.views[0], read_frames(path, [2, 3, 4, 5])[:, :, 8:56].permute(3, 0, 1, 2)
    )


def test_missing_video_and_wrong_number_of_names_are_refused(
    recognizer: Recognizer, tmp_path: Path
):
    with pytest.raises(VideoError, match=r"nothing\.mp4"):
        recognizer(tmp_path / "nothing.mp4")
    with pytest.raises(
        ValueError, match="expected 8 names, one for each class of the network, got 1"
    ):
        Recognizer(recognizer.network, ["one"], recognizer.recipe)
    assert "Recognizer" in dir(hcml_lightning)


def test_checkpoint_without_clip_settings_warns(tmp_path: Path):
    task = RecognitionTask(backbone="r2d_tiny", num_classes=3)
    state = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    names = {"task": "RecognitionTask", "class_names": list("abc")}
    torch.save({**state, **names, "pytorch-lightning_version": pl.__version__}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="does not say how clips are cut out"):
        Recognizer.from_checkpoint(tmp_path / "a.ckpt")


def test_crops_follow_the_test_settings_of_the_training_data(
    checkpoints: dict[str, Path], tmp_path: Path
):
    checkpoint = torch.load(checkpoints["recognition"])
    settings = checkpoint["datamodule_hyper_parameters"]
    size = min(settings["short_side"]) + 8
    checkpoint["datamodule_hyper_parameters"] = {**settings, "test_crop_size": size}
    torch.save(checkpoint, tmp_path / "other.ckpt")
    recipe = Recognizer.from_checkpoint(tmp_path / "other.ckpt").recipe
    assert (recipe.crop_size, recipe.short_side) == (size, (size, size))


def test_architecture_includes_displacement_and_stride(tmp_path: Path):
    options = {"backbone": "r2d_tiny", "num_classes": 3, "max_displacement": 2, "stride": 2}
    task = RecognitionTask(**options)
    state = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    names = {"task": "RecognitionTask", "class_names": list("abc")}
    data = {
        "datamodule_hyper_parameters": {"clip_length": 4, "short_side": (32, 32), "crop_size": 32}
    }
    version = {"pytorch-lightning_version": pl.__version__}
    torch.save({**state, **names, **data, **version}, tmp_path / "a.ckpt")
    recognizer = Recognizer.from_checkpoint(tmp_path / "a.ckpt")
    again = MotionNetwork(**recognizer.architecture)
    again.load_state_dict(recognizer.network.state_dict())


def test_window_starts_are_rounded_to_the_nearest_frame():
    """0.7 s is the middle of frame 17, which floating point puts a little earlier."""
    spans = sliding_windows(np.arange(101) / 25, 1.0, 0.1)
    assert [span.first for span in spans][:9] == [0, 2, 5, 7, 10, 12, 15, 17, 20]


def test_frame_times_of_a_sequential_file_follow_its_rate(
    synthetic_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    path = str(next(synthetic_root("ucf101").rglob("*.avi")))
    index = frame_times_module.find_index(path)
    stamps = np.arange(12) * 10
    monkeypatch.setattr(
        frame_times_module, "find_index", lambda _: replace(index, sequential=True, pts=stamps)
    )
    assert np.allclose(frame_times(path), np.arange(13) / 25)

"""The same checks for every layout: batches and their sources, settings, and broken videos."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from hcml_lightning.data import (
    KineticsDataModule,
    SomethingDataModule,
    UCF101DataModule,
    VideoDataModule,
    VideoFolderDataModule,
    datamodule,
    frame_cache,
)
from hcml_lightning.data.annotations import find_list, walk_videos
from hcml_lightning.data.decode import VideoError, read_frames
from hcml_lightning.data.frame_cache import FrameCache, usable_memory
from hcml_lightning.data.loading import EpochSampler
from hcml_lightning.data.moving_shapes import CLASSES
from hcml_lightning.data.synthetic import true_flow
from hcml_lightning.data.transforms import apply_view, even_views

LAYOUTS = {
    "ucf101": (UCF101DataModule, {"fold": 1}),
    "kinetics": (KineticsDataModule, {}),
    "something_v1": (SomethingDataModule, {"version": 1}),
    "something_v2": (SomethingDataModule, {"version": 2}),
    "folder": (VideoFolderDataModule, {}),
}
SMALL = {
    "clip_length": 4,
    "frame_stride": 2,
    "short_side": (40, 48),
    "crop_size": 32,
    "test_crop_size": 32,
    "test_clips": 2,
    "batch_size": 3,
    "num_workers": 0,
    "flip": "mirror",
}


def make(layout: str, root: Path, **changes) -> VideoDataModule:
    module, own = LAYOUTS[layout]
    return module(str(root), **(SMALL | own | changes))


def batches(data: VideoDataModule, split: str, epoch: int = 0) -> list[dict]:
    data.setup({"train": "fit", "val": "validate"}.get(split, split))
    loader = getattr(data, f"{split}_dataloader")()
    if split == "train":
        loader.sampler.set_epoch(epoch)
    return list(loader)


def with_flow_in_training(data: VideoDataModule) -> VideoDataModule:
    """No run needs true flow in training; here it shows how random crops and flips change the motion."""
    data.setup("fit")
    dataset = data.dataset("train")
    dataset.recipe = replace(dataset.recipe, true_flow=True)
    return data


def same(first: list[dict], second: list[dict]) -> bool:
    return all(
        torch.equal(a["video"], b["video"]) and torch.equal(a["label"], b["label"])
        for a, b in zip(first, second, strict=True)
    )


class Unusual(UCF101DataModule):
    """A dataset whose records come one by one, with paths that are no strings, and one label too high."""

    too_high = 0

    def records(self, split):
        for record in super().records(split):
            yield replace(record, path=Path(record.path), label=record.label + self.too_high)


def test_records_may_come_from_a_generator_with_paths(synthetic_root):
    data = Unusual(synthetic_root("ucf101"), flip="none")
    data.setup("fit")
    assert len(data.dataset("train")) == 8
    assert all(isinstance(record.path, str) for record in data.dataset("train").records)


def test_labels_that_are_none_of_the_classes_are_named(synthetic_root):
    data = Unusual(synthetic_root("ucf101"), flip="none")
    data.too_high = 1
    with pytest.raises(ValueError, match=r"\.avi \(train\) has label 8, but there are 8 classes"):
        data.setup("fit")


@pytest.mark.parametrize("stage", [None, "train"])
def test_unknown_stage_is_refused(stage, synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"))
    with pytest.raises(ValueError, match=r"stage must be 'fit' or .* 'predict', got"):
        data.setup(stage)


def test_numbers_of_numpy_reach_the_loaders(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"), batch_size=np.int64(2), seed=np.int64(3))
    assert len(batches(data, "train")[0]["video"]) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
class TestLayouts:
    def test_classes_are_known_before_setup(self, synthetic_root, layout):
        data = make(layout, synthetic_root(layout))
        assert data.num_classes == 8
        assert set(data.class_names) == set(CLASSES)
        pairs = {data.class_names[a]: data.class_names[b] for a, b in data.mirror_classes.items()}
        assert pairs == {
            "left": "right", "right": "left",
            "clockwise": "counterclockwise", "counterclockwise": "clockwise",
        }  # fmt: skip
        assert data.hparams["root"] == str(synthetic_root(layout))
        assert data.hparams["batch_size"] == 3

    def test_training_batches_have_the_expected_content(self, synthetic_root, layout):
        data = make(layout, synthetic_root(layout), true_flow=True)
        (first, second) = batches(data, "train")
        # Only validation uses true flow.
        assert "flow" not in first
        for batch in (first, second):
            assert batch["video"].shape == (3, 3, 4, 32, 32)
            assert batch["video"].dtype == torch.uint8
            assert batch["label"].shape == batch["index"].shape == (3,)
            assert batch["label"].dtype == batch["index"].dtype == torch.int64
            assert len(batch["video_id"]) == 3
        seen = torch.cat([first["index"], second["index"]])
        assert len(seen.unique()) == 6

    def test_validation_sees_each_video_once_in_the_same_clip(self, synthetic_root, layout):
        data = make(layout, synthetic_root(layout))
        once, again = batches(data, "val"), batches(data, "val")
        assert same(once, again)
        assert torch.cat([b["index"] for b in once]).tolist() == list(range(8))
        assert sorted(torch.cat([b["label"] for b in once]).tolist()) == list(range(8))
        assert "flow" not in once[0]
        data = make(layout, synthetic_root(layout), true_flow=True)
        flow = batches(data, "val")[0]["flow"]
        assert flow.shape == (3, 2, 4, 32, 32)
        assert flow.dtype == torch.float32

    @pytest.mark.parametrize("split", ["test", "predict"])
    def test_views_are_clips_times_crops(self, synthetic_root, layout, split):
        data = make(layout, synthetic_root(layout))
        found = batches(data, split)
        video = torch.cat([batch["video"] for batch in found])
        assert video.shape == (8, 6, 3, 4, 32, 32)
        # Views 0 to 2 are crops of one clip, from left to right; views 3 to 5 of another.
        assert all(not torch.equal(video[0, a], video[0, b]) for a in range(6) for b in range(a))
        labels = torch.cat([batch["label"] for batch in found]).tolist()
        withheld = split == "predict" and layout in ("kinetics", "something_v1", "something_v2")
        assert sorted(labels) == ([-1] * 8 if withheld else list(range(8)))

    def test_labels_belong_to_the_videos(self, synthetic_root, layout):
        data = make(layout, synthetic_root(layout))
        data.setup("fit")
        label_of = {name: i for i, name in enumerate(data.class_names)}
        for record in data.dataset("train").records:
            flow = true_flow(record.path, [0, 1])[:, 0]
            u, v = flow[:, flow.abs().sum(0) > 0].mean(1).tolist()
            if record.label == label_of["left"]:
                assert u < -0.5
            elif record.label == label_of["down"]:
                assert v > 0.5

    def test_workers_do_not_change_the_batches(self, synthetic_root, layout):
        if layout not in ("ucf101", "something_v1"):
            pytest.skip("one file format and one folder format suffice")
        alone = make(layout, synthetic_root(layout))
        helped = make(layout, synthetic_root(layout), num_workers=2)
        helped.setup("fit")
        loader = helped.train_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            assert same(batches(alone, "train", epoch), list(loader))

    def test_missing_videos_are_named(self, layout_copy, layout):
        root = layout_copy(layout)
        if layout == "folder":
            pytest.skip("the folders are the list")
        data = make(layout, root)
        for record in data.records("train")[:6]:
            shutil.rmtree(record.path) if layout == "something_v1" else Path(record.path).unlink()
        data = make(layout, root)
        name = Path(data.records("train")[0].path).name
        with pytest.raises(FileNotFoundError, match=rf"(?s)6 of 8 videos of the train .*{name}.*…"):
            data.setup("fit")
        data = make(layout, root, on_error="skip")
        with pytest.warns(UserWarning, match="6 of 8 videos of the train split"):
            data.setup("fit")
        assert len(data.dataset("train")) == 2

    def test_a_missing_root_is_named(self, tmp_path, layout):
        with pytest.raises(FileNotFoundError, match=f"root={tmp_path / 'none'}"):
            make(layout, tmp_path / "none")

    def test_an_empty_root_says_what_was_expected(self, tmp_path, layout):
        with pytest.raises(FileNotFoundError, match=f"root={tmp_path}.* expected"):
            make(layout, tmp_path)


def test_epochs_differ_and_are_reproducible(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"))
    first, second = batches(data, "train", 0), batches(data, "train", 1)
    assert not same(first, second)
    assert same(first, batches(data, "train", 0))
    other = make("ucf101", synthetic_root("ucf101"), seed=1)
    assert not same(first, batches(other, "train", 0))


def test_index_without_an_epoch_draws_another_clip_each_time(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"), clip_length=2, crop_size=24)
    data.setup("fit")
    dataset = data.dataset("train")
    torch.manual_seed(0)
    clips = [dataset[0].video for _ in range(8)]
    assert len({clip.numpy().tobytes() for clip in clips}) > 1
    torch.manual_seed(0)
    assert all(torch.equal(dataset[0].video, clip) for clip in clips)
    # With an epoch, the clip depends on that alone.
    assert torch.equal(dataset[(3, 0)].video, dataset[(3, 0)].video)
    fixed = data.dataset("val")
    assert torch.equal(fixed[0].video, fixed[0].video)


def test_batch_size_does_not_change_the_samples(synthetic_root):
    by_index = []
    for size in (2, 4):
        data = make("ucf101", synthetic_root("ucf101"), batch_size=size)
        found = batches(data, "train")
        by_index.append(
            {int(i): v for b in found for i, v in zip(b["index"], b["video"], strict=True)}
        )
    first, second = by_index
    assert len(first) == len(second) == 8
    assert all(torch.equal(first[i], second[i]) for i in first)


def test_mirror_flips_swap_the_label_of_left_and_right(synthetic_root):
    root = synthetic_root("ucf101")
    data = with_flow_in_training(make("ucf101", root, short_side=(48, 48), crop_size=48))
    flips = 0
    for epoch in range(6):
        for batch in batches(data, "train", epoch):
            for label, index, flow in zip(
                batch["label"], batch["index"], batch["flow"], strict=True
            ):
                name = data.class_names[data.dataset("train").records[index].label]
                flips += data.class_names[label] != name
                u, v = flow[:, 0][:, flow[:, 0].abs().sum(0) > 0].mean(1).tolist()
                moves = {"left": -u, "right": u, "up": -v, "down": v}
                assert moves.get(data.class_names[label], 1) > 0.5
    assert flips > 0


@pytest.mark.filterwarnings("ignore:flip='plain'")
def test_plain_flips_do_not_change_labels(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"), flip="plain")
    data.setup("fit")
    dataset = data.dataset("train")
    unflipped = make("ucf101", synthetic_root("ucf101"), flip="none")
    unflipped.setup("fit")
    flips = 0
    for epoch in range(4):
        for index, record in enumerate(dataset.records):
            sample, plain = (side[epoch, index] for side in (dataset, unflipped.dataset("train")))
            flips += not torch.equal(sample.video, plain.video)
            assert sample.label == record.label
    assert flips > 0


def test_the_seed_changes_order_and_crops(synthetic_root):
    orders, clips = [], []
    for seed in (0, 1):
        data = make("ucf101", synthetic_root("ucf101"), seed=seed)
        data.setup("fit")
        orders.append([index for _, index in data.train_dataloader().sampler])
        clips.append([data.dataset("train")[0, i].video for i in range(8)])
    assert orders[0] != orders[1]
    assert not all(torch.equal(a, b) for a, b in zip(*clips, strict=True))


def test_flow_of_a_batch_matches_its_frames(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"), frame_stride=1, batch_size=8)
    (batch,) = batches(with_flow_in_training(data), "train")
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for video, flow in zip(batch["video"].float().mean(1), batch["flow"], strict=True):
        place = torch.stack([x + flow[0], y + flow[1]], -1)[:-1]
        grid = (place + 0.5) / 16 - 1
        warped = grid_sample(video[1:, None], grid, align_corners=False)[:, 0]
        moving = (flow.abs().sum(0)[:-1] > 0.5) & (grid.abs() < 1).all(-1)
        along = (warped - video[:-1]).abs()[moving].median()
        still = (video[1:] - video[:-1]).abs()[moving].median()
        assert along < 0.6 * still


def test_plain_flips_of_left_and_right_warn(synthetic_root):
    with pytest.warns(UserWarning, match="'left' look like 'right'"):
        make("ucf101", synthetic_root("ucf101"), flip="plain").setup("fit")


def test_sample_equals_its_decoded_frames_under_its_view(synthetic_root):
    for stride, numbers in ((2, [2, 4, 6, 8]), ("spread", [1, 4, 7, 10])):
        data = make("ucf101", synthetic_root("ucf101"), frame_stride=stride)
        (batch, *_) = batches(data, "val")
        (view,) = even_views(48, 64, short_side=40, crop_size=32)
        frames = read_frames(data.dataset("val").records[0].path, numbers)
        assert torch.equal(batch["video"][0], apply_view(frames, view))


def test_folds_have_disjoint_test_videos(synthetic_root):
    tested = []
    for fold in (1, 2):
        data = make("ucf101", synthetic_root("ucf101"), fold=fold)
        data.setup("fit")
        tested.append({record.path for record in data.dataset("val").records})
        assert not tested[-1] & {record.path for record in data.dataset("train").records}
    assert not tested[0] & tested[1]


def break_videos(data: VideoDataModule, split: str, count: int) -> list[str]:
    paths = [record.path for record in data.records(split)[:count]]
    for path in paths:
        Path(path).write_bytes(Path(path).read_bytes()[:-3000])
    return paths


def test_a_broken_training_video_stops_training(layout_copy):
    data = make("ucf101", layout_copy("ucf101"), batch_size=8)
    break_videos(data, "train", 1)
    with pytest.raises(VideoError, match=r"v_left_g02_c01\.avi: .*cut short"):
        batches(data, "train")


def test_skipped_broken_training_video_is_reported_once(layout_copy):
    data = make("ucf101", layout_copy("ucf101"), batch_size=8, on_error="skip")
    break_videos(data, "train", 1)
    with pytest.warns(UserWarning, match="skipped in training: .*v_left_g02_c01"):
        (batch,) = batches(data, "train")
    # A second warning would be an error here.
    (again,) = batches(data, "train", epoch=1)
    assert batch["video"].shape[0] == again["video"].shape[0] == 7
    assert "v_left_g02_c01" not in batch["video_id"]


@pytest.mark.filterwarnings("ignore:skipped in training")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_broken_training_videos_stop_training(layout_copy, num_workers):
    data = make("ucf101", layout_copy("ucf101"), on_error="skip", num_workers=num_workers)
    break_videos(data, "train", 6)
    with pytest.raises(VideoError, match=r"more than 5%|none of the 3 videos"):
        batches(data, "train")


@pytest.mark.filterwarnings("ignore:skipped in training")
def test_the_second_of_eight_broken_training_videos_stops_training(layout_copy):
    data = make("ucf101", layout_copy("ucf101"), on_error="skip", batch_size=8)
    break_videos(data, "train", 2)
    with pytest.raises(VideoError, match=r"2 of 8 training videos cannot be read, more than 5%"):
        batches(data, "train")


def test_broken_videos_of_evaluation_are_left_out_before_the_start(layout_copy):
    data = make("ucf101", layout_copy("ucf101"), on_error="skip")
    break_videos(data, "val", 2)
    with pytest.warns(UserWarning, match=r"(?s)2 of 8 videos of the val split.*v_left_g01_c01"):
        found = batches(data, "val")
    assert sorted(torch.cat([b["index"] for b in found]).tolist()) == list(range(6))
    with pytest.raises(VideoError, match="v_left_g01_c01"):
        batches(make("ucf101", Path(data.root)), "val")


def test_damage_that_shows_in_an_evaluation_stops_it(synthetic_root, monkeypatch):
    """A measured split must not lose videos on the way."""
    data = make("ucf101", synthetic_root("ucf101"), on_error="skip")
    data.setup("fit")

    def broken(path, *_):
        raise VideoError(f"{path}: damaged")

    for split in ("train", "val"):
        monkeypatch.setattr(data.dataset(split), "read_frames", broken)
    with pytest.warns(UserWarning, match="skipped in training"):
        assert data.dataset("train")[0, 0] is None
    with pytest.raises(VideoError, match="damaged"):
        next(iter(data.val_dataloader()))


def test_a_split_smaller_than_a_batch_is_refused(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"), batch_size=9)
    with pytest.raises(ValueError, match=r"batch_size=9 .* 9 training videos, but the split has 8"):
        batches(data, "train")


def test_loaders_before_setup_are_refused(synthetic_root):
    with pytest.raises(RuntimeError, match="call setup"):
        make("ucf101", synthetic_root("ucf101")).val_dataloader()


def test_default_test_crop_is_the_smallest_short_side_of_training(synthetic_root):
    recipe = make("ucf101", synthetic_root("ucf101"), test_crop_size=None).recipe("test")
    assert (recipe.short_side, recipe.crop_size) == ((40, 40), 40)


def test_test_crop_above_the_short_side_enlarges_the_short_side(synthetic_root):
    recipe = make("ucf101", synthetic_root("ucf101"), test_crop_size=56).recipe("test")
    assert (recipe.short_side, recipe.crop_size) == ((56, 56), 56)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 48}, r"short_side=\(40, 48\) must .* crop_size=48"),
        ({"short_side": (48, 40)}, r"short_side=\(48, 40\)"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"test_crop_size": -1}, "test_crop_size must be at least 1"),
        ({"test_crop_size": 0}, "test_crop_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(synthetic_root, changes, message):
    with pytest.raises(ValueError, match=message):
        make("ucf101", synthetic_root("ucf101"), **changes)


def test_ranks_share_each_epoch(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"))
    data.setup("fit")
    orders = []
    for epoch in (0, 1):
        shares = []
        for rank in (0, 1):
            sampler = EpochSampler(data.dataset("train"), 0, num_replicas=2, rank=rank)
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
        assert {key[0] for share in shares for key in share} == {epoch}
        assert sorted(key[1] for share in shares for key in share) == list(range(8))
        orders.append([key[1] for key in shares[0]])
    assert orders[0] != orders[1]


class Collector(pl.LightningModule):
    """Trains nothing; remembers which videos each epoch brought."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[torch.Tensor]] = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch["video"])
        return self.weight * batch["video"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*validation_step")
@pytest.mark.filterwarnings("ignore:.*GPU available but not used")
# pytorch-lightning 2.6 uses a name that newer releases of torch deprecate.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_trainer_passes_the_epoch_to_the_sampler(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"))
    model = Collector()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    for epoch in (0, 1):
        expected = [b["video"] for b in batches(make("ucf101", Path(data.root)), "train", epoch)]
        assert all(torch.equal(a, b) for a, b in zip(model.seen[epoch], expected, strict=True))


class TestKinetics:
    @pytest.mark.parametrize(
        "place", ["{id}.mp4", "videos/{id}.mkv", "train/{name} it/{id}_000010_000020.mp4"]
    )
    def test_videos_are_found_in_any_folder(self, synthetic_root, tmp_path, place):
        rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
        source = sorted(synthetic_root("kinetics").glob("train/*/*.mp4"))
        for number, video in enumerate(source):
            name = CLASSES[number % 2]
            path = tmp_path / place.format(id=f"-_abc{number:05d}", name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, path)
            rows.append(f"{name} it,-_abc{number:05d},10,20,train,0")
        (tmp_path / "annotations").mkdir()
        for side in ("train", "val"):
            (tmp_path / "annotations" / f"kinetics-400_{side}.csv").write_text("\r\n".join(rows))
        data = make("kinetics", tmp_path)
        data.setup("fit")
        assert data.class_names == ["left it", "right it"]
        assert [r.label for r in data.dataset("train").records] == [0, 1] * 4
        assert data.dataset("train").records[0].video_id == "-_abc00000"

    def test_video_found_twice_is_named(self, layout_copy):
        root = layout_copy("kinetics")
        video = next(root.glob("train/left/*.mp4"))
        shutil.copy(video, root / "train" / "right" / video.name)
        with pytest.raises(ValueError, match="exists twice"):
            make("kinetics", root).setup("fit")

    def test_list_without_the_required_columns_is_named(self, tmp_path):
        (tmp_path / "train.csv").write_text("path label\na.mp4 0\n")
        with pytest.raises(ValueError, match=r"train\.csv: missing columns: .*youtube_id"):
            make("kinetics", tmp_path)

    def test_val_list_without_labels_is_named(self, layout_copy):
        root = layout_copy("kinetics")
        rows = (root / "val.csv").read_text().splitlines()
        (root / "val.csv").write_text("\n".join(row.partition(",")[2] for row in rows))
        with pytest.raises(ValueError, match=r"val\.csv: missing columns: label;"):
            make("kinetics", root).setup("fit")


class TestSomething:
    def test_version_2_may_be_stored_as_frames(self, layout_copy):
        root = layout_copy("something_v2")
        data = make("something_v2", root)
        first = Path(data.records("train")[0].path)
        frames = first.with_suffix("")
        frames.mkdir()
        Image.new("RGB", (32, 32)).save(frames / "000001.jpg")
        first.unlink()
        assert data.records("train")[0].path == str(frames)

    def test_paper_values_are_the_defaults(self, synthetic_root):
        data = SomethingDataModule(str(synthetic_root("something_v2")))
        assert data.hparams["clip_length"] == 32
        assert data.hparams["frame_stride"] == 1
        assert data.hparams["flip"] == "mirror"

    def test_an_unknown_class_is_named(self, layout_copy):
        root = layout_copy("something_v1")
        path = root / "something-something-v1-train.csv"
        path.write_text(path.read_text() + "99;Sneezing\n")
        with pytest.raises(ValueError, match=r"train\.csv: the class 'Sneezing' of video 99"):
            make("something_v1", root).setup("fit")

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_video_without_a_class_is_named(self, layout_copy, version):
        root = layout_copy(f"something_v{version}")
        suffix = "csv" if version == 1 else "json"
        path = root / f"something-something-v{version}-validation.{suffix}"
        path.write_text("3\n" if version == 1 else '[{"id": "3"}]')
        with pytest.raises(ValueError, match=rf"validation\.{suffix}: video 3 has no class"):
            make(f"something_v{version}", root).setup("fit")

    def test_a_missing_folder_is_named(self, layout_copy):
        root = layout_copy("something_v2")
        (root / "20bn-something-something-v2").rename(root / "elsewhere")
        with pytest.raises(
            FileNotFoundError, match=r"folder 20bn-something-something-v2 .*missing"
        ):
            make("something_v2", root).setup("fit")


class TestVideoFolder:
    def test_frames_beside_other_folders_are_refused_as_ambiguous(self, layout_copy):
        root = layout_copy("folder")
        clip = root / "train" / "up" / "frames"
        (clip / "flow_x").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32)).save(clip / f"{number}.jpg")
            Image.new("RGB", (32, 32)).save(clip / "flow_x" / f"{number}.jpg")
        data = make("folder", root)
        with pytest.raises(
            ValueError, match=r"frames: contains 2 images \(0\.jpg, …\) and also flow_x"
        ):
            data.records("train")
        # Thumbnails of videos, as downloaders save them.
        for video in sorted((root / "train" / "left").glob("*.*")):
            Image.new("RGB", (32, 32)).save(video.with_suffix(".jpg"))
        # Photographs next to videos, and next to folders of videos.
        for number in range(3):
            Image.new("RGB", (32, 32)).save(root / "train" / "left" / f"IMG_{number}.jpg")
            Image.new("RGB", (32, 32)).save(root / "train" / f"IMG_{number}.jpg")
        assert not [path for path in walk_videos(root / "train" / "left") if "IMG" in path]
        # A folder in which network drives keep thumbnails.
        (clip / "flow_x").rename(clip / "@eaDir")
        assert str(clip) in [record.path for record in data.records("train")]

    def test_folders_without_splits_are_split_the_same_each_time(self, synthetic_root, tmp_path):
        root = synthetic_root("folder")
        for name in ("up", "down"):
            (tmp_path / name).mkdir()
            for number in range(20):
                shutil.copy(root / "train" / name / "0001.mp4", tmp_path / name / f"{number}.mp4")
        data = make("folder", tmp_path)
        train, val = ({r.video_id for r in data.records(split)} for split in ("train", "val"))
        assert not train & val
        assert len(train | val) == 40
        assert 2 <= len(val) <= 20
        (tmp_path / "up" / "new.mp4").touch()
        assert val <= {record.video_id for record in data.records("val")}

    def test_class_folders_next_to_train_are_pointed_out(self, layout_copy):
        root = layout_copy("folder")
        shutil.copytree(root / "train" / "up", root / "bus")
        (root / "notes").mkdir()
        with pytest.warns(UserWarning, match="videos in bus are not used, .* next to them"):
            make("folder", root).setup("fit")

    def test_both_splits_keep_a_video_of_each_class(self, synthetic_root, tmp_path):
        for number in (1, 2):
            (tmp_path / "up").mkdir(exist_ok=True)
            shutil.copy(
                synthetic_root("folder") / "train/up/0001.mp4", tmp_path / "up" / f"{number}.mp4"
            )
        data = make("folder", tmp_path)
        assert len(data.records("train")) == len(data.records("val")) == 1

    @pytest.mark.parametrize("has_test", [False, True])
    def test_validation_takes_training_videos_if_there_is_no_val_folder(
        self, has_test, layout_copy
    ):
        root = layout_copy("folder")
        shutil.rmtree(root / "val")
        for path in list((root / "train").glob("*/*.mp4")):
            shutil.copy(path, path.with_name(f"again_{path.name}"))
        if has_test:
            shutil.copytree(root / "train", root / "test")
        data = make("folder", root)
        train, val, test = (
            {r.path for r in data.records(split)} for split in ("train", "val", "test")
        )
        assert train
        assert val
        assert not train & val
        everything = {str(path) for path in (root / "train").glob("*/*.mp4")}
        assert train | val == everything
        assert test == ({p.replace("/train/", "/test/") for p in everything} if has_test else val)

    @pytest.mark.parametrize(
        ("old", "new"),
        [("val", "validation"), ("val", "Val"), ("train", "training"), ("train", "left")],
    )
    def test_split_folder_of_another_name_is_refused(self, old, new, layout_copy):
        root = layout_copy("folder")
        shutil.move(root / old, root / new)
        with pytest.raises(ValueError, match="would not be used for any split"):
            make("folder", root)

    @pytest.mark.parametrize(
        ("layout", "config"),
        [
            ("ucf101", "ucf101"),
            ("something_v1", "something_v1"),
            ("something_v2", "something_v2"),
        ],
    )
    def test_dataset_with_lists_is_refused_with_its_config(self, layout, config, synthetic_root):
        with pytest.raises(
            ValueError, match=rf"not a class folder.* -c configs/data/{config}\.yaml"
        ):
            make("folder", synthetic_root(layout))

    @pytest.mark.parametrize("below", ["", "train"])
    @pytest.mark.parametrize("layout", ["ucf101", "kinetics", "something_v2"])
    def test_class_folders_read_with_lists_name_the_config_of_folders(
        self, layout, below, synthetic_root
    ):
        with pytest.raises(
            FileNotFoundError, match=r"expected .* use -c configs/data/video_folder\.yaml"
        ):
            make(layout, synthetic_root("folder") / below)

    def test_missing_lists_alone_do_not_suggest_folders(self, layout_copy):
        root = layout_copy("ucf101")
        shutil.rmtree(root / "ucfTrainTestlist")
        with pytest.raises(FileNotFoundError, match=r"or labels inside it$"):
            make("ucf101", root)

    def test_missing_root_does_not_suggest_predict_paths(self, tmp_path):
        with pytest.raises(FileNotFoundError) as refused:
            make("folder", tmp_path / "none")
        assert str(refused.value).endswith("or only videos, to learn without labels")

    def test_single_class_warns(self, layout_copy, tmp_path):
        shutil.move(layout_copy("folder") / "train", tmp_path / "higher" / "videos")
        with pytest.warns(UserWarning, match=r"one class, 'videos'.*one folder too high"):
            make("folder", tmp_path / "higher").setup("fit")

    @pytest.mark.parametrize("kind", ["files", "frames"])
    @pytest.mark.parametrize("splits", [("",), ("train",), ("train", "val")])
    def test_videos_outside_class_folders_are_unlabelled(
        self, kind, splits, synthetic_root, tmp_path
    ):
        for split in splits:
            (tmp_path / split).mkdir(exist_ok=True)
            for number in range(6):
                if kind == "files":
                    file = synthetic_root("folder") / "train/up/0001.mp4"
                    shutil.copy(file, tmp_path / split / f"{number}.mp4")
                else:
                    frames = synthetic_root("something_v1") / "20bn-something-something-v1/3"
                    shutil.copytree(frames, tmp_path / split / str(number))
        data = make("folder", tmp_path)
        assert (data.class_names, data.describe_classes()) == (["unlabelled"], "without labels")
        train, val = ({r.path for r in data.records(split)} for split in ("train", "val"))
        assert len(train | val) == 6 * len(splits)
        assert train
        assert val
        assert not train & val
        assert batches(data, "train")[0]["video"].shape == (3, 3, 4, 32, 32)

    def test_videos_beside_class_folders_are_refused(self, layout_copy):
        root = layout_copy("folder")
        shutil.copy(root / "train/up/0001.mp4", root / "train")
        with pytest.raises(
            ValueError, match=r"videos \(1, first: .*0001\.mp4\) are next to .* would be skipped"
        ):
            make("folder", root).setup("fit")
        shutil.move(root / "train" / "0001.mp4", root)
        with pytest.raises(ValueError, match=r"0001\.mp4 would not be used for any split"):
            make("folder", root)

    def test_a_class_may_be_called_train(self, layout_copy):
        root = layout_copy("folder") / "train"
        shutil.move(root / "up", root / "Train")
        assert "Train" in make("folder", root).class_names
        for folder in root.iterdir():
            if folder.name not in ("Train", "down"):
                shutil.rmtree(folder)
        shutil.move(root / "down", root / "Val")
        with pytest.raises(ValueError, match="Train and Val would not be used for any split"):
            make("folder", root)

    def test_frame_folder_beside_class_folders_is_refused(self, synthetic_root, layout_copy):
        root = layout_copy("folder")
        shutil.rmtree(root / "val")
        frames = synthetic_root("something_v1") / "20bn-something-something-v1/3"
        shutil.copytree(frames, root / "val" / "elsewhere")
        with pytest.raises(ValueError, match="folders are not named after a class: elsewhere"):
            make("folder", root).setup("fit")

    def test_hidden_and_thumbnail_folders_are_ignored(self, layout_copy):
        root = layout_copy("folder")
        before = make("folder", root).records("train")
        # Network drives keep thumbnails in @eaDir.
        for folder in ("up/.trash", ".trash", "@eaDir", "up/@eaDir"):
            (root / "train" / folder).mkdir()
            shutil.copy(root / "train/up/0001.mp4", root / "train" / folder)
        assert make("folder", root).records("train") == before

    def test_wrong_val_fraction_or_predict_paths_are_refused(self, synthetic_root):
        for share in (0, 1, -1, 2):
            with pytest.raises(
                ValueError, match="val_fraction must be greater than 0 and less than 1"
            ):
                make("folder", synthetic_root("folder"), val_fraction=share)
        with pytest.raises(ValueError, match="predict_paths must be a list"):
            make("folder", synthetic_root("folder"), predict_paths="a.mp4")
        with pytest.raises(ValueError, match="predict_paths must be a list"):
            make("folder", synthetic_root("folder"), predict_paths=Path("a.mp4"))

    def test_predict_paths_need_neither_root_nor_labels(self, synthetic_root):
        file = next(synthetic_root("ucf101").glob("videos/left/*.avi"))
        frames = next(synthetic_root("something_v1").glob("20bn*/3"))
        folder = synthetic_root("folder") / "val"
        data = make(
            "folder", "nowhere", predict_paths=[file, str(frames), str(folder)],
            class_names=["a", "b"],
        )  # fmt: skip
        found = batches(data, "predict")
        names = [name for batch in found for name in batch["video_id"]]
        assert names[:2] == [str(file), str(frames)]
        assert len(names) == 10
        assert found[0]["video"].shape == (3, 6, 3, 4, 32, 32)
        assert set(torch.cat([batch["label"] for batch in found]).tolist()) == {-1}
        assert data.class_names == ["a", "b"]

    def test_wrong_class_folders_and_predict_paths_are_named(self, layout_copy):
        root = layout_copy("folder")
        (root / "val" / "lefft").mkdir()
        with pytest.raises(ValueError, match="lefft"):
            make("folder", root).setup("fit")
        (root / "val" / "lefft").rmdir()
        shutil.rmtree(root / "val" / "left")
        (root / "val" / "left").mkdir()
        with pytest.raises(ValueError, match="left: the class folder contains no videos"):
            make("folder", root).setup("fit")
        with pytest.raises(FileNotFoundError, match=r"predict_paths: none\.mp4 does not exist"):
            make("folder", root, predict_paths=["none.mp4"]).setup("predict")


def test_cached_videos_give_the_same_batches_as_decoded_ones(synthetic_root, monkeypatch):
    root = synthetic_root("ucf101")
    decoded = [batches(make("ucf101", root), split, 1) for split in ("train", "val", "test")]
    data = make("ucf101", root, cache=True)
    for split, expected in zip(("train", "val", "test"), decoded, strict=True):
        assert same(batches(data, split, 1), expected)

    def refuse(*_):
        raise AssertionError("decoded once more")

    monkeypatch.setattr(frame_cache, "read_frames", refuse)
    assert same(batches(data, "train", 1), decoded[0])


def test_cache_refuses_workers_and_stops_before_memory_runs_out(synthetic_root):
    with pytest.raises(ValueError, match="cache=true needs num_workers=0"):
        make("ucf101", synthetic_root("ucf101"), cache=True, num_workers=1)
    data = make("ucf101", synthetic_root("ucf101"))
    record = data.records("train")[0]
    with pytest.raises(
        MemoryError, match=r"the first 1 videos take .* more than the .*--data.cache false"
    ):
        FrameCache(limit=1000).probe(record.path)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job/step", {"job/memory.max": "4096\n", "job/step/memory.max": "max\n"}, 4096),
        ("3:cpu:/\n2:memory:/job", {"memory/job/memory.limit_in_bytes": "8192\n"}, 8192),
        # Inside a container, its own group looks like the outermost one.
        ("0::/", {"memory.max": "2048\n"}, 2048),
        ("0::/", {"memory.max": "max\n"}, None),
        (None, {}, None),
    ],
)
def test_cache_respects_the_memory_limit_of_its_container(tmp_path, groups, files, expected):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    if groups is not None:
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups + "\n")
    for name, text in files.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert usable_memory(tmp_path) == (physical if expected is None else expected)


def test_cache_limit_is_divided_by_the_number_of_processes(monkeypatch):
    monkeypatch.setattr("hcml_lightning.data.frame_cache.usable_memory", lambda: 4096)
    assert [FrameCache().limit, FrameCache(processes=4).limit] == [2048, 512]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": None}, "flip must be 'none' or 'plain' or 'mirror', got None"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"test_crops": 2}, "test_crops must be 1 or 3, got 2"),
        ({"fold": 4}, "fold must be 1 or 2 or 3, got 4"),
        ({"frame_stride": 0}, "frame_stride must be a whole number"),
        ({"frame_stride": 1.5}, "frame_stride must be a whole number"),
        ({"clip_length": 4.5}, "clip_length must be a whole number, got 4.5"),
        ({"batch_size": "2"}, "batch_size must be a whole number, got '2'"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"frame_stride": "spreadd"}, "frame_stride must be a whole number"),
    ],
)
def test_settings_of_wrong_type_or_choice_are_refused(wrong, message, synthetic_root):
    with pytest.raises(ValueError, match=message):
        make("ucf101", synthetic_root("ucf101"), **wrong)


def test_data_module_can_be_pickled_after_setup(synthetic_root):
    data = make("ucf101", synthetic_root("ucf101"))
    data.setup("fit")
    first = next(iter(data.train_dataloader()))
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(next(iter(again.train_dataloader()))["video"], first["video"])


def test_loader_state_is_restored_in_fit_but_not_in_test(synthetic_root, monkeypatch):
    data = make("ucf101", synthetic_root("ucf101"))
    data.setup("fit")
    loader = data.train_dataloader()
    whole = len(list(loader))
    state = data.state_dict()
    for command, left in (("test", whole), ("fit", 0)):
        data.trainer = SimpleNamespace(
            state=SimpleNamespace(fn=command), world_size=1, global_rank=0
        )
        data.load_state_dict(state)
        assert len(list(data.train_dataloader())) == left


def classes_of_ucf101(root: Path) -> None:
    (root / "videos").mkdir()
    (root / "ucfTrainTestlist").mkdir()
    lines = (f"{number} C{number:02d}\n" for number in range(1, 12))
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("".join(lines))


def test_classes_are_ordered_by_their_numbers(tmp_path):
    classes_of_ucf101(tmp_path)
    expected = [f"C{number:02d}" for number in range(1, 12)]
    assert UCF101DataModule(tmp_path).class_names == expected
    numbers = {f"c{number}": str(number) for number in range(12)}
    (tmp_path / "labels.json").write_text(json.dumps(numbers))
    assert SomethingDataModule(tmp_path).class_names == list(numbers)


def test_ucf101_file_names_may_contain_spaces(tmp_path):
    classes_of_ucf101(tmp_path)
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_text("C01/my video 2.avi 1\n")
    (record,) = UCF101DataModule(tmp_path).records("train")
    assert record.video_id == "my video 2"


def test_kinetics_prefers_clips_and_the_folder_of_their_split(tmp_path):
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    (tmp_path / "train.csv").write_text(f"{header}a,x,10,20,train,1\n")
    (tmp_path / "val.csv").write_text(f"{header}a,y,10,20,val,1\n")
    for name in ("train/a/x", "train/a/x_000010_000020", "train/a/y_000010_000020"):
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "val" / "a" / "y_000010_000020.mp4").touch()
    data = KineticsDataModule(tmp_path)
    assert data.records("train")[0].path == str(tmp_path / "train/a/x_000010_000020.mp4")
    assert data.records("val")[0].path == str(tmp_path / "val/a/y_000010_000020.mp4")


def test_classes_of_one_video_each_leave_none_for_validation(tmp_path, synthetic_root):
    videos = sorted(synthetic_root("folder").rglob("*.mp4"))
    for name, video in zip(("run", "walk"), videos, strict=False):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").symlink_to(video)
    data = VideoFolderDataModule(tmp_path)
    assert len(data.records("train")) == 2
    with pytest.raises(
        FileNotFoundError, match=r"val split has no videos.*class of at least two videos"
    ):
        data.setup("fit")


def test_val_fraction_sets_the_share_of_validation_videos(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(40):
            (tmp_path / name / f"{number}.mp4").touch()
    few, half, most = (
        len(VideoFolderDataModule(tmp_path, val_fraction=share).records("val"))
        for share in (0.1, 0.5, 0.9)
    )
    assert few < 20 < half < 60 < most


@pytest.mark.parametrize("folder", ["", "annotations", "labels"])
def test_lists_are_found_in_their_own_folders(folder, tmp_path):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "train.csv").touch()
    assert find_list(str(tmp_path), ["train.csv"], "a list") == tmp_path / folder / "train.csv"


def test_cache_limit_counts_all_probed_videos(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "1.png")
    cache = FrameCache(limit=1000)
    cache.probe(str(tmp_path / "a"))
    with pytest.raises(MemoryError, match="first 2 videos"):
        cache.probe(str(tmp_path / "b"))


def test_cache_is_told_the_number_of_processes_of_the_machine(tmp_path, monkeypatch):
    classes_of_ucf101(tmp_path)
    asked = []
    monkeypatch.setattr(datamodule, "FrameCache", asked.append)
    monkeypatch.setattr(UCF101DataModule, "usable_records", lambda *_: {})
    data = UCF101DataModule(tmp_path, num_workers=0, cache=True)
    data.trainer = SimpleNamespace(num_devices=4)
    data.setup("validate")
    assert asked == [4]

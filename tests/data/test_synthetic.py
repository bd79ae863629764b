from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.mirror import mirror_classes
from hcml_lightning.data.moving_shapes import CLASSES, render
from hcml_lightning.data.synthetic import motion_path, true_flow, write_synthetic

LAYOUTS = {
    "ucf101": "**/*.avi",
    "kinetics": "**/*.mp4",
    "something_v1": "20bn*/*[0-9]",
    "something_v2": "**/*.webm",
    "folder": "**/*.mp4",
}


def files_of(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def warp_error(frames: torch.Tensor, flow: torch.Tensor, seen: torch.Tensor) -> tuple[float, float]:
    """Mean difference in grey levels where the shape is seen in both frames: along the flow, and without it."""
    height, width = frames.shape[1:3]
    video = frames.float().mean(-1, keepdim=True).permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x + flow[0], y + flow[1]], -1)[:-1]
    grid = (place + 0.5) / torch.tensor([width, height]) * 2 - 1
    warped = grid_sample(video[1:], grid, align_corners=False, padding_mode="border")
    inside = (grid.abs() < 1).all(-1)[:, None]
    landed = grid_sample(seen[1:, None].float(), grid, align_corners=False) > 0.99
    good = inside & landed & seen[:-1, None]
    error = (warped - video[:-1]).abs()[good].mean()
    return error.item(), (video[1:] - video[:-1]).abs()[good].mean().item()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_true_flow_maps_each_frame_onto_the_next(synthetic_root, layout):
    videos = sorted(synthetic_root(layout).glob(LAYOUTS[layout]))
    assert len(videos) == 16
    for video in videos:
        numbers = list(range(probe(video).num_frames))
        assert len(numbers) == 12
        frames, flow = read_frames(video, numbers), true_flow(video, numbers)
        assert flow.shape == (2, 12, 48, 64)
        assert flow.dtype == torch.float32
        assert torch.isfinite(flow).all()
        assert not flow[:, -1].any()
        moving = flow.abs().sum(0) > 0
        assert 0.15 < moving[0].float().mean() < 0.5
        moving[-1] = moving[-2]
        error, still = warp_error(frames, flow, moving)
        assert error < 6
        assert error < still / 2.5


@pytest.mark.parametrize("name", CLASSES)
def test_flow_between_any_two_frames_is_exact(name):
    _, motion = render(name, np.random.default_rng(3), num_frames=9)
    y, x = np.mgrid[:64, :64]
    there = motion.flow(2, 5)
    steps = np.zeros_like(there)
    # The position of each point, followed frame by frame with the pose alone.
    centre, linear = motion.pose[:, :, 2], motion.pose[:, :, :2]
    start = np.stack([x, y]).reshape(2, -1) - centre[2][:, None]
    start = (start + 32) % 64 - 32
    for t in (2, 3, 4):
        at = linear[t] @ np.linalg.inv(linear[2]) @ start
        after = linear[t + 1] @ np.linalg.inv(linear[2]) @ start
        steps += (after - at + (centre[t + 1] - centre[t])[:, None]).reshape(2, 64, 64)
    assert np.abs(there - steps * motion.mask[2]).max() < 1e-3
    assert np.abs(motion.flow(4, 4)).max() < 1e-6
    back = motion.flow(5, 2)
    mean = [
        flow[:, mask].mean(1) for flow, mask in ((there, motion.mask[2]), (back, motion.mask[5]))
    ]
    if name in ("left", "right", "up", "down"):
        assert np.allclose(mean[0], -mean[1])


def test_motion_of_each_class_matches_its_name():
    y, x = np.mgrid[:64, :64]
    for seed in range(8):
        for name in CLASSES:
            _, motion = render(name, np.random.default_rng(seed), num_frames=3)
            flow, mask = motion.flow(0, 1), motion.mask[0]
            u, v = flow[:, mask]
            dx = (x - motion.pose[0, 0, 2] + 32)[mask] % 64 - 32
            dy = (y - motion.pose[0, 1, 2] + 32)[mask] % 64 - 32
            amount = {
                "left": -u, "right": u, "up": -v, "down": v,
                "clockwise": dx * v - dy * u, "counterclockwise": dy * u - dx * v,
                "in": dx * u + dy * v, "out": -(dx * u + dy * v),
            }[name]  # fmt: skip
            assert (amount >= -1e-4).all()
            assert 0.9 < np.hypot(u, v).mean() < 3.5


def test_frames_without_order_do_not_reveal_the_class():
    """Ridge regression on what each frame shows, averaged over the frames, stays at chance (1/8)."""
    features, labels = [], []
    for label, name in enumerate(CLASSES):
        for number in range(30):
            rng = np.random.default_rng((7, label, number))
            frames, _ = render(name, rng, num_frames=6, height=32, width=32)
            grey = frames.mean(-1)
            spectrum = np.abs(np.fft.rfft2(grey))[:, :8, :8].reshape(len(grey), -1)
            slope = np.gradient(grey, axis=(1, 2))
            turned = np.arctan2(slope[0], slope[1]).reshape(len(grey), -1)
            turns = np.stack([np.histogram(t, 8, (-np.pi, np.pi))[0] for t in turned])
            values = np.concatenate([np.log(spectrum + 1), turns / 64], 1)
            features.append(np.concatenate([values.mean(0), grey.std((1, 2)).mean(keepdims=True)]))
            labels.append(label)
    x, y = np.array(features), np.array(labels)
    x = (x - x.mean(0)) / x.std(0)
    train = np.arange(len(y)) % 3 != 0
    weights = np.linalg.solve(
        x[train].T @ x[train] + 30 * np.eye(x.shape[1]), x[train].T @ np.eye(8)[y[train]]
    )
    right = ((x[~train] @ weights).argmax(1) == y[~train]).mean()
    # 80 videos: three standard deviations above chance.
    assert right < 0.125 + 3 * np.sqrt(0.125 * 0.875 / 80)


def test_the_same_seed_gives_the_same_files(tmp_path):
    for layout in ("something_v2", "ucf101"):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            root = tmp_path / name / layout
            write_synthetic(root, layout, 1, 1, num_frames=4, height=16, width=16, seed=seed)
    first, second, other = (files_of(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    videos = [name for name in first if name.endswith((".avi", ".webm"))]
    assert len(videos) == 32
    assert all(first[name] != other[name] for name in videos)
    assert not [name for name in first if Path(name).name.startswith(".")]


def test_another_dataset_in_the_folder_is_not_mixed_with(tmp_path):
    write = partial(write_synthetic, tmp_path, "folder", num_frames=2, height=16, width=16)
    write(num_train=2, num_val=0)
    write(num_train=2, num_val=0)
    for layout, num_train in (("folder", 1), ("ucf101", 2)):
        with pytest.raises(ValueError, match=r"e\.g\. train/.*0.\.motion\.npz.*a new folder"):
            write_synthetic(tmp_path, layout, num_train, 0)
    own = tmp_path / "own" / "kick.mp4"
    own.parent.mkdir()
    own.touch()
    with pytest.raises(ValueError, match=r"own holds .* e\.g\. kick\.mp4"):
        write_synthetic(own.parent)
    assert list(own.parent.iterdir()) == [own]


def test_true_motion_is_stored_beside_each_video(synthetic_root):
    for layout, pattern in LAYOUTS.items():
        for video in synthetic_root(layout).glob(pattern):
            assert motion_path(video).is_file()


def test_a_video_without_stored_motion_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"own\.motion\.npz.*own\.mp4"):
        true_flow(tmp_path / "own.mp4", [0, 1])


def test_left_and_right_and_the_two_turns_are_mirror_classes():
    assert mirror_classes(list(CLASSES)) == {0: 1, 1: 0, 4: 5, 5: 4}


def test_ambiguous_class_names_have_no_mirror_class():
    names = ["wave left", "WaveLeft", "wave right", "turn left", "turn right"]
    assert mirror_classes(names) == {3: 4, 4: 3}


def test_unknown_layout_odd_size_or_unknown_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layout must be one of ucf101"):
        write_synthetic(tmp_path, "imagenet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="height=15"):
        write_synthetic(tmp_path, height=15)
    with pytest.raises(ValueError, match="name must be one of left"):
        render("sideways", np.random.default_rng(0))


def test_true_flow_over_two_frames_is_the_sum_of_both_steps(tmp_path):
    write_synthetic(tmp_path, "folder", 1, 0, num_frames=5, height=32, width=32)
    video = tmp_path / "train" / "right" / "0000.mp4"
    one, two = (true_flow(video, [0, end])[0, 0] for end in (1, 2))
    moving = one.abs() > 0
    assert one[moving].mean() > 0.5
    assert torch.allclose(two[moving], 2 * one[moving], atol=0.3)

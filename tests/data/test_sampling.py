import numpy as np
import pytest

from hcml_lightning.data.sampling import clip_frames, jittered, spread, uniform

SIZES = [(n, t, s) for n in (1, 2, 3, 7, 8, 9, 24) for t in (1, 2, 4, 8) for s in (1, 2, 3)]


def fitting_starts(num_frames: int, clip_length: int, stride: int) -> list[int]:
    """All starts from which the clip lies within the video, found by trying; the first frame where none does."""
    last = (clip_length - 1) * stride
    return [start for start in range(num_frames) if start + last < num_frames] or [0]


@pytest.mark.parametrize(("num_frames", "clip_length", "stride"), SIZES)
def test_jittered_reaches_every_start_and_no_other(num_frames, clip_length, stride):
    rng = np.random.default_rng(0)
    clips = [jittered(num_frames, clip_length, stride, rng) for _ in range(400)]
    assert {clip[0] for clip in clips} == set(fitting_starts(num_frames, clip_length, stride))
    for clip in clips:
        wanted = [clip[0] + i * stride for i in range(clip_length)]
        assert clip == [min(number, num_frames - 1) for number in wanted]


@pytest.mark.parametrize(("num_frames", "clip_length", "stride"), SIZES)
@pytest.mark.parametrize("num_clips", [1, 2, 3, 10])
def test_uniform_goes_from_the_first_start_to_the_last(num_frames, clip_length, stride, num_clips):
    starts = fitting_starts(num_frames, clip_length, stride)
    clips = uniform(num_frames, clip_length, stride, num_clips)
    first = [clip[0] for clip in clips]
    assert len(clips) == num_clips
    if num_clips == 1:
        assert first == [starts[(len(starts) - 1) // 2]]
    else:
        assert (first[0], first[-1]) == (starts[0], starts[-1])
        gaps = np.diff(first)
        assert gaps.max() - gaps.min() <= 1
    assert all(0 <= number < num_frames for clip in clips for number in clip)


@pytest.mark.parametrize(("num_frames", "clip_length"), [(n, t) for n, t, s in SIZES if s == 1])
def test_spread_takes_one_frame_of_each_segment(num_frames, clip_length):
    rng = np.random.default_rng(0)
    drawn = np.array([spread(num_frames, clip_length, rng)[0] for _ in range(400)])
    (fixed,) = spread(num_frames, clip_length)
    for i in range(clip_length):
        low, high = i * num_frames / clip_length, (i + 1) * num_frames / clip_length
        segment = [n for n in range(num_frames) if int(low) <= n < int(high)] or [int(low)]
        assert set(drawn[:, i]) == set(segment)
        assert fixed[i] in segment
    if num_frames >= clip_length:
        assert set(drawn.ravel()) == set(range(num_frames))


def test_clip_of_a_short_video_repeats_the_last_frame():
    assert uniform(5, 4, 2, 1) == [[0, 2, 4, 4]]
    assert uniform(1, 4, 2, 2) == [[0, 0, 0, 0]] * 2


def test_clips_of_a_long_video_differ():
    clips = clip_frames(100, 8, "spread", num_clips=4)
    assert len({tuple(clip) for clip in clips}) == 4
    assert len({tuple(clip) for clip in clip_frames(100, 8, 2, num_clips=4)}) == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 8, 2), "num_frames"), ((9, 0, 2), "clip_length"), ((9, 8, 0), "frame_stride")],
)
def test_numbers_below_one_are_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=name):
        clip_frames(*arguments)

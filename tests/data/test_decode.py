"""Videos whose frames show their own number, in every format, whole and damaged."""

import io
import os
import random
import re
import struct
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from hcml_lightning.data import decode as decode_module
from hcml_lightning.data.decode import VideoError, check_video, probe, read_frames
from hcml_lightning.data.stored_index import StoredVideo
from hcml_lightning.data.video_index import VideoInfo
from hcml_lightning.tools.datasets.check import examine

NUM_FRAMES = 60
# Frames show their own number, as a pattern of black and white blocks that survives any codec.
BLOCK = 24


def paint(number: int) -> np.ndarray:
    bits = [(number >> bit) & 1 for bit in range(8)]
    return (
        np.kron(np.array(bits).reshape(2, 4), np.ones((BLOCK, BLOCK)))[..., None]
        .repeat(3, 2)
        .astype(np.uint8)
        * 255
    )


def numbers_of(frames) -> list[int]:
    blocks = np.asarray(frames).reshape(len(frames), 2, BLOCK, 4, BLOCK, 3).mean((2, 4, 5)) > 127
    return [int((frame.ravel() << np.arange(8)).sum()) for frame in blocks]


def encode(
    path: Path, codec: str, num_frames: int, fps: int = 25, first: int = 0, **options: str
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 4 * BLOCK, 2 * BLOCK, "yuv420p"
        stream.thread_count = 1
        for number in range(first, first + num_frames):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_only_frames_that_are_missing_count_as_lost(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", "libx264", 10)
    decode = decode_module._decode
    monkeypatch.setattr(
        decode_module,
        "_decode",
        lambda *words: (pair for i, pair in enumerate(decode(*words)) if i != 5),
    )
    with pytest.raises(VideoError, match=r"frame 5 cannot be decoded \(1 such"):
        check_video(path)


def test_known_size_of_a_folder_is_not_read_again(tmp_path, monkeypatch):
    path = str(jpeg_folder(tmp_path / "frames", 3))
    modified = os.stat(path).st_mtime_ns
    stored = StoredVideo(probe(path), 1, modified, "")
    expected = read_frames(path, [2, 0])
    monkeypatch.setattr(decode_module, "probe_images", None)
    assert probe(path, stored) == stored.info
    assert torch.equal(read_frames(path, [2, 0], stored), expected)
    monkeypatch.undo()
    # A folder that has changed is examined again.
    old = replace(stored, info=replace(stored.info, num_frames=1), modified=modified - 1)
    assert probe(path, old).num_frames == 3


def jpeg_folder(path: Path, num_frames: int) -> Path:
    path.mkdir()
    for number in range(num_frames):
        # Not padded with zeros: 10.jpg must come after 9.jpg.
        Image.fromarray(paint(number)).save(path / f"img_{number + 1}.jpg")
    (path / "DONE").touch()
    return path


def packed_avi(path: Path, num_frames: int) -> Path:
    """Pack each P-frame with the B-frame after it and follow it by an empty frame, as DivX did."""
    plain = encode(path.with_suffix(".plain.avi"), "mpeg4", num_frames, bf="1", g="300", b="2M")
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
        # I P B P B ... -> I [P B] nothing [P B] nothing ...
        packed = [packets[0]]
        for i in range(1, len(packets) - 1, 2):
            packed += [packets[i] + packets[i + 1], _empty_vop(i)]
        if len(packets) % 2 == 0:
            packed.append(packets[-1])
        for dts, data in enumerate(packed):
            packet = av.Packet(data)
            packet.dts = packet.pts = dts
            packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, out, dts == 0
            target.mux(packet)
    tag = re.search(rb"Lavc[\d.]+", path.read_bytes())
    path.write_bytes(
        path.read_bytes().replace(tag[0], b"DivX503b" + b"1" * (len(tag[0]) - 9) + b"p")
    )
    plain.unlink()
    return path


def cut_mp4(path: Path, num_frames: int) -> Path:
    """Cut by copying packets, as `ffmpeg -ss … -c copy`: an edit list hides the frames kept only to decode others."""
    hidden = 7
    whole = path.with_suffix(".whole.mp4")
    encode(whole, "libx264", hidden + num_frames, first=-hidden, bf="2", g="300")
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        shift = int(hidden / 25 / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, out
                target.mux(packet)
    whole.unlink()
    return path


def _empty_vop(number: int) -> bytes:
    # Type P, no whole second passed, marker, time in 5 bits (25 frames a second), marker, not coded, stuffing.
    bits = "01" + "0" + "1" + f"{number % 25:05b}" + "1" + "0" + "01111"
    return b"\x00\x00\x01\xb6" + int(bits, 2).to_bytes(2, "big")


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "h264.mp4": lambda path, n: encode(path, "libx264", n, bf="2", g="10", preset="veryfast"),
    "long_gop.mp4": lambda path, n: encode(path, "libx264", n, bf="3", g="300", preset="veryfast"),
    "h264.mkv": lambda path, n: encode(path, "libx264", n, bf="2", g="10", preset="veryfast"),
    "b_frames.avi": lambda path, n: encode(path, "mpeg4", n, bf="2", g="12", b="2M"),
    "no_b_frames.avi": lambda path, n: encode(path, "mpeg4", n, bf="0", g="12", b="2M"),
    "packed.avi": packed_avi,
    "h264.avi": lambda path, n: encode(path, "libx264", n, bf="2", g="10", preset="veryfast"),
    "no_b_frames_h264.avi": lambda path, n: encode(path, "libx264", n, bf="0", g="10"),
    "cut.mp4": cut_mp4,
    "av1.mp4": lambda path, n: encode(path, "libsvtav1", n, g="10", preset="10"),
    "vp9.webm": lambda path, n: encode(path, "libvpx-vp9", n, fps=12, g="10", deadline="realtime"),
    "vp8.webm": lambda path, n: encode(path, "libvpx", n, fps=12, g="10", deadline="realtime"),
    "frames": jpeg_folder,
}


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("coded")
    return {name: write(root / name, NUM_FRAMES) for name, write in WRITERS.items()}


def read_all(path: Path) -> np.ndarray:
    """The slow reference: decode everything, convert each frame on its own."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("name", WRITERS)
def test_every_frame_is_the_one_asked_for(coded, name):
    path = coded[name]
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == (NUM_FRAMES, 48, 96)
    assert info.fps == {"vp9.webm": 12, "vp8.webm": 12, "frames": 0}.get(name, 25)
    assert numbers_of(read_frames(path, range(NUM_FRAMES))) == list(range(NUM_FRAMES))
    for number in range(NUM_FRAMES):
        assert numbers_of(read_frames(path, [number])) == [number]


@pytest.mark.parametrize("name", WRITERS)
def test_numbers_may_be_unordered_and_repeated(coded, name):
    draw = random.Random(0)
    for _ in range(10):
        numbers = draw.choices(range(NUM_FRAMES), k=8)
        assert numbers_of(read_frames(coded[name], numbers)) == numbers


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "frames"])
def test_pixels_equal_those_of_a_full_decode(coded, name):
    numbers = list(range(7, 45, 3))
    frames = read_frames(str(coded[name]), numbers)
    assert frames.dtype == torch.uint8
    assert frames.shape == (len(numbers), 48, 96, 3)
    assert np.array_equal(frames.numpy(), read_all(coded[name])[numbers])


@pytest.mark.parametrize("name", WRITERS)
def test_whole_videos_pass_the_check(coded, name):
    assert check_video(coded[name]) == probe(coded[name])


def test_no_numbers_give_no_frames(coded):
    assert read_frames(coded["h264.mp4"], []).shape == (0, 48, 96, 3)
    assert read_frames(coded["frames"], []).shape == (0, 48, 96, 3)


@pytest.mark.parametrize("name", ["h264.mp4", "packed.avi", "frames"])
@pytest.mark.parametrize("number", [-1, NUM_FRAMES])
def test_a_number_out_of_range_is_refused(coded, name, number):
    with pytest.raises(VideoError, match=rf"{name}: frame {number} .* 0 to {NUM_FRAMES - 1}"):
        read_frames(coded[name], [0, number])


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "frames"])
def test_bytes_and_open_files_are_read_like_paths(coded, name):
    content, numbers = coded[name].read_bytes(), [50, 3, 3, 41]
    expected = read_frames(coded[name], numbers)
    stored = examine(str(coded[name])).stored()
    assert probe(content) == probe(coded[name])
    assert torch.equal(read_frames(content, numbers), expected)
    assert torch.equal(read_frames(content, numbers, stored), expected)
    with coded[name].open("rb") as file:
        assert probe(file) == probe(coded[name])
        assert torch.equal(read_frames(file, numbers), expected)
    # A stored index of another file is ignored.
    other = replace(stored, size=stored.size + 1, index="0;;0;0;0;0")
    assert torch.equal(read_frames(content, numbers, other), expected)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"words\n", "text"),
        (b"\xff" * 99, "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "playlist"),
    ],
)
def test_content_that_is_no_video_is_named_by_its_length(content, what):
    with pytest.raises(VideoError, match=f"given as {len(content)} bytes: .*{what}"):
        read_frames(content, [0])
    with pytest.raises(VideoError, match=f"given as {len(content)} bytes: .*{what}"):
        probe(io.BytesIO(content))


def test_truncated_bytes_are_named(coded):
    with pytest.raises(VideoError, match=r"given as .* bytes: .*cut short"):
        probe(half(coded["h264.mp4"]))
    with pytest.raises(VideoError, match=r"given as .* bytes: frame 60 was requested"):
        read_frames(coded["h264.mp4"].read_bytes(), [60])


def test_flipped_bits_in_vp9_are_found(coded, tmp_path):
    whole, draw = coded["vp9.webm"].read_bytes(), random.Random(0)
    truth, found = read_all(coded["vp9.webm"]).astype(int), []
    for _ in range(12):
        content = bytearray(whole)
        # After the headers, and before the index at the end.
        content[draw.randrange(1000, len(whole) - 600)] ^= 1 << draw.randrange(8)
        path = tmp_path / "flipped.webm"
        path.write_bytes(content)
        try:
            frames = read_frames(path, range(NUM_FRAMES)).numpy()
            found.append("same" if np.abs(frames - truth).max() <= 2 else "WRONG")
        except VideoError:
            found.append("named")
    assert found.count("named") >= 10
    assert "WRONG" not in found


def test_rewritten_file_is_read_afresh(tmp_path):
    path = encode(tmp_path / "video.mp4", "libx264", 10)
    assert probe(path).num_frames == 10
    encode(path, "libx264", 20)
    assert numbers_of(read_frames(path, [19])) == [19]


def test_a_rotated_video_is_shown_upright(tmp_path):
    path = encode(tmp_path / "upright.mp4", "libx264", 3)
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data[:track] + data[track:].replace(identity, clockwise, 1))
    assert (probe(turned).height, probe(turned).width) == (96, 48)
    frames = read_frames(turned, [2])
    assert numbers_of(torch.rot90(frames, 1, (1, 2))) == [2]


def test_files_are_closed(coded):
    before = len(os.listdir("/proc/self/fd"))
    for name in ("h264.mp4", "b_frames.avi", "frames"):
        for _ in range(10):
            read_frames(coded[name], [5])
    assert len(os.listdir("/proc/self/fd")) == before


def half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def test_missing_files_are_named(tmp_path):
    file = str(tmp_path / "none.mp4")
    stored = StoredVideo(VideoInfo(1, 1.0, 1, 1), 1, 1, "0;;0;0;0;0")
    for read in (probe, lambda path: read_frames(path, [0], stored)):
        with pytest.raises(FileNotFoundError, match=r"none\.mp4: cannot be opened \(No") as missing:
            read(file)
        assert isinstance(missing.value, VideoError)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"this is not a video\n", "text, not a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6\n", "git-LFS pointer"),
        (b"\x00\xff\x13" * 500, "not a video"),
    ],
)
def test_files_that_are_no_video_are_named(tmp_path, content, what):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"bad\.mp4: .*{what}"):
        read_frames(path, [0])


def test_a_file_with_sound_only_is_named(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "NONE"))
        file.writeframes(bytes(8000))
    with pytest.raises(VideoError, match=r"sound\.wav: the file has no video stream"):
        probe(tmp_path / "sound.wav")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "frames"])
def test_files_cut_in_half_are_named(coded, tmp_path, name):
    path = tmp_path / f"half_{name}"
    path.write_bytes(half(coded[name]))
    with pytest.raises(VideoError, match=f"half_{name}: .*cut short"):
        probe(path)


def test_an_unknown_codec_is_named(coded, tmp_path):
    path = tmp_path / "unknown.webm"
    path.write_bytes(coded["vp9.webm"].read_bytes().replace(b"V_VP9", b"V_XP9"))
    with pytest.raises(
        VideoError, match=r"unknown\.webm: the codec of the video stream is unknown"
    ):
        read_frames(path, [0])


@pytest.mark.parametrize("name", ["h264.mp4", "no_b_frames.avi", "h264.mkv"])
def test_damage_inside_a_file_is_found_by_check_and_read(coded, tmp_path, name):
    data = bytearray(coded[name].read_bytes())
    middle, noise = len(data) * 3 // 5, random.Random(0).randbytes(300)
    data[middle : middle + len(noise)] = noise
    path = tmp_path / f"noise_{name}"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=f"noise_{name}: .*(damaged|cut short)"):
        check_video(path)
    with pytest.raises(VideoError, match=f"noise_{name}: .*(damaged|cut short)"):
        read_frames(path, range(NUM_FRAMES))


def test_images_are_sorted_by_number_and_other_files_are_ignored(tmp_path):
    folder = jpeg_folder(tmp_path / "frames", 12)
    assert numbers_of(read_frames(folder, [1, 9, 10])) == [1, 9, 10]


def test_bad_images_are_named(tmp_path):
    folder = jpeg_folder(tmp_path / "frames", 4)
    (folder / "img_2.jpg").write_bytes((folder / "img_2.jpg").read_bytes()[:200])
    assert numbers_of(read_frames(folder, [2])) == [2]
    with pytest.raises(VideoError, match=r"img_2\.jpg: the image is damaged"):
        read_frames(folder, [0, 1])
    with pytest.raises(VideoError, match=r"img_2\.jpg: the image is damaged"):
        check_video(folder)


def test_images_of_other_size_are_named(tmp_path):
    folder = jpeg_folder(tmp_path / "frames", 4)
    Image.fromarray(paint(3)[:40]).save(folder / "img_4.jpg")
    with pytest.raises(VideoError, match=r"img_4\.jpg: the frame is 96×40 pixels"):
        read_frames(folder, [0, 3])
    with pytest.raises(VideoError, match=r"img_4\.jpg"):
        check_video(folder)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(VideoError, match="has no frames"):
        probe(tmp_path)


def test_images_of_16_bits_keep_their_range(tmp_path):
    for number, value in enumerate((0, 8000, 65535)):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / f"{number}.png")
    frames = read_frames(str(tmp_path), [0, 1, 2])
    assert frames[:, 0, 0].tolist() == [[0] * 3, [31] * 3, [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_by_their_exif_orientation(tmp_path: Path, orientation: int):
    note = Image.Exif()
    note[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(paint(3)[:48, :64])
    image.save(tmp_path / "1.jpg", exif=note, quality=95, subsampling=0)
    with Image.open(tmp_path / "1.jpg") as photograph:
        expected = np.asarray(ImageOps.exif_transpose(photograph))
    frames = read_frames(tmp_path, [0])
    assert torch.equal(frames[0], torch.from_numpy(expected.copy()))
    info = probe(tmp_path)
    assert (info.height, info.width) == frames.shape[1:3]


def test_image_with_damaged_exif_orientation_is_not_turned(tmp_path: Path):
    note = Image.Exif()
    note[ExifTags.Base.Orientation] = 6
    content = io.BytesIO()
    Image.fromarray(paint(3)[:48, :64]).save(content, "jpeg", exif=note)
    # The orientation is a short integer; here its entry claims to be text.
    damaged = content.getvalue().replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")
    assert damaged != content.getvalue()
    (tmp_path / "1.jpg").write_bytes(damaged)
    assert read_frames(tmp_path, [0]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize(
    ("matrix", "displayed"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_and_mirrored_by_the_display_matrix(matrix, displayed, tmp_path):
    file = tmp_path / "video.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(paint(number)[:64], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    stored = read_frames(str(file), [0, 2]).numpy()
    a, b, c, d = (value << 16 for value in matrix)
    content = bytearray(file.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content)
    frames = read_frames(str(turned), [0, 2]).numpy()
    assert probe(str(turned)).width == frames.shape[2]
    for seen, image in zip(frames, stored, strict=True):
        np.testing.assert_array_equal(seen, displayed(image))


def test_images_are_ordered_by_the_last_number_of_their_names(tmp_path):
    for number in range(1, 12):
        Image.new("RGB", (16, 16), (number * 20,) * 3).save(tmp_path / f"clip7_{number}.png")
    frames = read_frames(str(tmp_path), range(11))
    assert frames[:, 0, 0, 0].tolist() == [number * 20 for number in range(1, 12)]

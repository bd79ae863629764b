"""[manifest → **summary**]

The report of `hcml data check`: what the dataset holds, and what is wrong with it, by kind, with some cases of each.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from hcml_lightning.data import VideoDataModule, VideoFolderDataModule
from hcml_lightning.data.manifest import ManifestRow
from hcml_lightning.data.mirror import unpaired_classes
from hcml_lightning.data.sampling import clip_span
from hcml_lightning.tools.console.output import counted, print_group

# (kind, pattern): an error is of the first kind whose pattern occurs in its message.
KINDS = (
    ("missing", "there is no such file"),
    ("empty", "is empty|holds no frames|has no frames"),
    ("no video stream", "no video stream"),
    ("in an unknown codec", "codec of the video stream is unknown"),
    ("could not be compared", "^could not be read to compare"),
    ("not a video", "git-LFS|is text"),
    ("cut short", "cut short: |promises"),
    ("crashed or took too long", "^decoding it"),
    ("changed, with the same size and time", "is not the one that was checked"),
    ("damaged or cut short", ""),
)


def print_report(
    data: VideoDataModule,
    splits: Mapping[str, int],
    faults: Sequence[str],
    links: Sequence[str],
    rows: Sequence[ManifestRow],
) -> None:
    """Print the summary of a check.

    Args:
        data: the dataset.
        splits: number of videos of each split.
        faults: what is wrong with its lists.
        links: links that lead out of its folder, as "path -> target".
        rows: its manifest.
    """
    parts = ", ".join(f"{count} {split}" for split, count in splits.items())
    print(f"{data.root}: {counted(len(rows), 'video')} ({parts}), {data.describe_classes()}")
    print(f"  {describe([row for row in rows if not row.error])}")
    if data.num_classes == 1:
        print("  enough for the self-supervised stages; recognition needs two or more classes")
    for kind, broken in by_kind(rows).items():
        print_group(kind, [f"{row.path}: {row.error}" for row in broken])
    if any(row.error for row in rows):
        print(
            "  Re-encode, replace or remove these videos, or train without them: --data.on_error skip"
        )
    print_group("in the lists", faults, "error")
    print_group("outside the folder, reached by links", links)
    odd = [f"{row.path}: {row.note}" for row in rows if row.note]
    print_group("readable, but odd", odd)
    print_group(
        "with copies, which are harmless only within one class of one split",
        [" = ".join(row.path for row in same) for same in copies(rows)],
        "video",
    )
    recipe = data.recipe("val")
    needed = clip_span(recipe.clip_length, recipe.frame_stride)
    short = [
        f"{row.path}: {row.info.num_frames}"
        for row in rows
        if row.info is not None and row.info.num_frames < needed
    ]
    print_group(f"with fewer frames than a clip spans ({needed}), so some frames repeat", short)
    if isinstance(data, VideoFolderDataModule):
        print_group(
            "without the ending of a video (.mp4, .avi, …), so not used", data.other_files(), "file"
        )
    unpaired = [repr(name) for name in unpaired_classes(data.class_names)]
    if data.flip != "none":
        print_group(
            "of left or right without the mirrored class; flips give wrong labels",
            unpaired,
            "class",
        )
    listed = {row.label for row in rows}
    good = {row.label for row in rows if not row.error}
    spoilt = [repr(name) for name in data.class_names if name in listed - good]
    print_group("whose videos are all broken", spoilt, "class")
    # The folder of such a class is among the errors if it is empty.
    named = "\n".join(faults)
    unlisted = [n for n in data.class_names if n not in listed and f"/{n}: " not in named]
    print_group("without any listed videos", [repr(name) for name in unlisted], "class")


def describe(good: Sequence[ManifestRow]) -> str:
    """Describe the readable videos in one line.

    Example:
        >>> describe([])
        'no good videos'
    """
    infos = [row.info for row in good if row.info is not None]
    if not infos:
        return "no good videos"
    frames = sorted(info.num_frames for info in infos)
    # Folders of frames have none.
    rates = sorted(info.fps for info in infos if info.fps)
    speed = f"{rates[0]:g} to {rates[-1]:g} fps, " if rates else ""
    sizes = Counter((info.width, info.height) for info in infos)
    (width, height), most = sizes.most_common(1)[0]
    others = f", and {counted(len(sizes) - 1, 'other size')}" if len(sizes) > 1 else ""
    return (
        f"{len(good)} good: {counted(sum(frames), 'frame')} ({frames[0]} / {frames[len(frames) // 2]} / {frames[-1]} "
        f"min/median/max), {speed}{_size(sum(row.size for row in good))}, "
        f"{width}×{height} ({counted(most, 'video')}{others})"
    )


def _size(number: int) -> str:
    """Return a number of bytes in a unit that suits it.

    Example:
        >>> _size(35_149), _size(2_340_000_000)
        ('35.1 kB', '2.3 GB')
    """
    sizes = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
    unit = next((unit for unit, size in sizes.items() if number >= size), "kB")
    return f"{number / sizes[unit]:.1f} {unit}"


def copies(rows: Sequence[ManifestRow]) -> list[list[ManifestRow]]:
    """Group the readable videos that have the same content.

    Example:
        >>> rows = [ManifestRow("", path, "", digest=content) for path, content in ("ax", "by", "cx")]
        >>> [[row.path for row in same] for same in copies(rows)]
        [['a', 'c']]
    """
    found: dict[str, list[ManifestRow]] = {}
    for row in rows:
        if row.digest and not row.error:
            found.setdefault(row.digest, []).append(row)
    return [same for same in found.values() if len(same) > 1]


def by_kind(rows: Sequence[ManifestRow]) -> dict[str, list[ManifestRow]]:
    """Group the broken videos by kind of error."""
    found: dict[str, list[ManifestRow]] = {kind: [] for kind, _ in KINDS}
    for row in rows:
        if row.error:
            found[next(kind for kind, words in KINDS if re.search(words, row.error))].append(row)
    return found

"""[a dataset → **what is wrong with it, and its manifest**]

`hcml data check`: decodes every frame of every video of a dataset, says what is wrong, and writes the manifest that all
runs on this dataset use from then on. A second check looks only at what is new or has changed.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
from tqdm import tqdm

from hcml_lightning.data import VideoDataModule
from hcml_lightning.data.datamodule import Split
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.decode import VideoError, VideoInfo, check_video
from hcml_lightning.data.links import outside, refuse_links
from hcml_lightning.data.manifest import (
    COLUMNS,
    MANIFEST_NAME,
    ManifestRow,
    read_manifest,
    state_of,
    write_manifest,
)
from hcml_lightning.data.stored_index import find_index, pack_index
from hcml_lightning.data.usable import relative_names
from hcml_lightning.data.video_index import open_video
from hcml_lightning.tools.check_report import print_report
from hcml_lightning.tools.data_options import data_parser
from hcml_lightning.tools.journal import Journal
from hcml_lightning.tools.pool import Lost, run_each

SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")
# A longer one, of an hour with uneven time stamps, would not fit into a cell that every csv reader takes.
LONGEST_INDEX = 100_000


class Listing(NamedTuple):
    """All that the lists of a dataset say.

    Attributes:
        rows: one for each video, in the order of the lists, with nothing known yet.
        paths: where each of them is, in the same order.
        splits: number of videos in each split that has a list of its own.
        faults: what is wrong with the lists themselves.
        links: videos that lie outside of the folder, and are there by links.
    """

    rows: list[ManifestRow]
    paths: list[str]
    splits: dict[str, int]
    faults: list[str]
    links: list[str]


def list_videos(data: VideoDataModule) -> Listing:
    """Gather the videos of all splits, each once.

    Raises:
        FileNotFoundError: if not a single split has a list.
        ValueError: if links lead out of the folder, and are not to be followed.
    """
    data.list_faults = faults = []
    by_split = _own_lists(data)
    for split, records in by_split.items():
        faults += _repeated(split, records)
    faults += _shared(by_split.get("train", []), by_split.get("val", []))
    found: dict[str, VideoRecord] = {}
    for record in [record for records in by_split.values() for record in records]:
        # The lists of tests know no classes; another list may.
        if found.setdefault(record.path, record).label == -1:
            found[record.path] = record
    names = relative_names(data.root, list(found))
    rows = [
        ManifestRow(record.video_id, name, _class_name(data, record.label))
        for name, record in zip(names, found.values(), strict=True)
    ]
    counts = {str(split): len(records) for split, records in by_split.items()}
    if not data.follow_links:
        refuse_links(data.root, found)
    links = [f"{path} -> {target}" for path, target in outside(data.root, found)]
    return Listing(rows, list(found), counts, list(dict.fromkeys(faults)), links)


def examine(path: str) -> ManifestRow:
    """Decode a whole video, and give a row without its names."""
    size, modified = state_of(path)
    row = ManifestRow("", "", "", size, modified)
    if size == -1:
        return replace(row, error="there is no such file")
    try:
        info = check_video(path)
        if os.path.isdir(path):
            return replace(row, info=info)
        index = find_index(path)
        note = _odd_header(path, info)
    except VideoError as error:
        return replace(row, error=str(error).removeprefix(path).lstrip("/: "))
    packed = pack_index(index)
    return replace(row, info=info, note=note, index=packed if len(packed) < LONGEST_INDEX else "")


def _odd_header(path: str, info: VideoInfo) -> str:
    """What the header of a readable file says otherwise than its frames; files without a count may say how long."""
    with open_video(path) as (container, stream):
        promised = stream.frames
        alone = len(container.streams) == 1
        seconds = (container.duration or 0) / av.time_base
    # Files with packed B-frames, of which UCF-101 and HMDB-51 have hundreds, count one too many.
    if promised and abs(promised - info.num_frames) > 1:
        return f"the header promises {promised} frames, and there are {info.num_frames}"
    if (
        not promised
        and alone
        and info.fps
        and seconds - info.num_frames / info.fps > 1.5 / info.fps
    ):
        ends = info.num_frames / info.fps
        return f"the header promises {seconds:.2f} s, and the frames end after {ends:.2f} s"
    return ""


def scan(
    listing: Listing, file: Path, num_processes: int, limit_s: float
) -> tuple[list[ManifestRow], int]:
    """Look at all videos that neither the manifest nor the journal of a check that was cut off knows as they are now.

    Args:
        listing: the videos.
        file: the manifest, written at the end.
        num_processes: processes that decode.
        limit_s: seconds after which a video is given up.

    Returns:
        The rows of the manifest, and how many of the videos were looked at.
    """
    known = read_manifest(file) if file.is_file() else {}
    with Journal(file.with_name(f".{file.name}.journal"), len(COLUMNS)) as journal:
        known = known | {row.path: row for row in map(ManifestRow.from_cells, journal.rows)}
        rows: dict[str, ManifestRow] = {}
        unknown: dict[str, ManifestRow] = {}
        for row, path in zip(listing.rows, listing.paths, strict=True):
            old = known.get(row.path)
            if old is not None and (old.size, old.modified) == state_of(path):
                rows[row.path] = replace(old, video_id=row.video_id, label=row.label)
            else:
                unknown[path] = row
        results = run_each(examine, unknown, num_processes, limit_s)
        for path, result in tqdm(results, "check", len(unknown), unit=" videos", disable=None):
            row = unknown[path]
            if isinstance(result, Lost):
                size, modified = state_of(path)
                result = ManifestRow("", "", "", size, modified, error=result.reason)
            result = replace(result, video_id=row.video_id, path=row.path, label=row.label)
            journal.add(result.cells())
            rows[row.path] = result
        ordered = [rows[row.path] for row in listing.rows]
        write_manifest(file, ordered)
        journal.remove()
    return ordered, len(unknown)


def main(words: Sequence[str]) -> int:
    """Run `hcml data check`.

    Args:
        words: what stands after `hcml data check`.

    Returns:
        0 if nothing is wrong, else 1.
    """
    parser = data_parser(
        "check",
        "Decode every frame of every video, say what is wrong, and write the manifest that all later runs use. "
        "A check that was cut off goes on; a second one looks only at what is new or has changed.",
    )
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="processes that decode"
    )
    parser.add_argument(
        "--limit_s", type=float, default=900.0, help="seconds after which a video is given up"
    )
    data, options = parser.read(words)
    file = Path(data.root) / MANIFEST_NAME
    try:
        listing = list_videos(data)
        rows, scanned = scan(listing, file, max(1, options.num_workers), options.limit_s)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_report(data, listing.splits, listing.faults, listing.links, rows)
    print(f"\nlooked at {scanned} of {len(rows)} videos -> {file}")
    return int(bool(listing.faults) or any(row.error for row in rows))


def _own_lists(data: VideoDataModule) -> dict[Split, list[VideoRecord]]:
    """The videos of each split that has a list, without splits which are another one under a second name."""
    by_split: dict[Split, list[VideoRecord]] = {}
    missing: list[str] = []
    for split in SPLITS:
        try:
            records = data.records(split)
        except FileNotFoundError as error:
            missing.append(str(error))
            continue
        paths = [record.path for record in records]
        if paths not in [[record.path for record in other] for other in by_split.values()]:
            by_split[split] = records
    if not by_split:
        raise FileNotFoundError(missing[0])
    return by_split


def _class_name(data: VideoDataModule, label: int) -> str:
    return data.class_names[label] if label >= 0 else ""


def _repeated(split: str, records: Iterable[VideoRecord]) -> list[str]:
    """What a split lists twice; the same video under two names is the same file."""
    records = list(records)
    by_name = Counter(record.video_id for record in records)
    by_path = Counter(record.path for record in records)
    twice = [f"the id {name!r}" for name, count in by_name.items() if count > 1]
    named_twice = {r.path for r in records if by_name[r.video_id] > 1}
    twice += [path for path, count in by_path.items() if count > 1 and path not in named_twice]
    return [f"the {split} split lists {what} more than once" for what in twice]


def _shared(train: Iterable[VideoRecord], val: Iterable[VideoRecord]) -> list[str]:
    seen = {record.path for record in train}
    return [f"{r.path} is in training and in validation" for r in val if r.path in seen]

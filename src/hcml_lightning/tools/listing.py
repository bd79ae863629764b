"""[the lists of a dataset → **videos, each once** → what is wrong with them]

What the tools for data know before they open a single video, and what is wrong with the lists themselves.
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hcml_lightning.data import VideoDataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.links import outside, refuse_links
from hcml_lightning.data.listed import Split
from hcml_lightning.data.manifest import ManifestRow
from hcml_lightning.data.usable import relative_names

SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")


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
    with data.list_faults() as faults:
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


def raise_if_gone(root: str, video: str) -> None:
    """Stop where not a video is missing but the whole dataset: a disk that is not mounted leaves an empty folder.

    Args:
        root: of the dataset.
        video: the missing one.

    Raises:
        FileNotFoundError: if the dataset is gone.
    """
    if not os.path.isdir(root) or not os.listdir(root):
        raise FileNotFoundError(
            f"{root}: the dataset is gone, at {video}; when it is back, the same command resumes."
        )


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

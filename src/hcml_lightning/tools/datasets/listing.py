"""[the lists of a dataset → **videos, each once** → what is wrong with them]

What the tools for data know before they open a single video: the listed videos, and errors in the lists themselves.
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
    """The contents of the lists of a dataset.

    Attributes:
        rows: one for each video, in the order of the lists, with only id, path and label filled in.
        paths: path of each video, in the same order.
        splits: number of videos in each split that has a list of its own.
        faults: what is wrong with the lists themselves.
        links: links from videos to places outside the folder, as "path -> target".
    """

    rows: list[ManifestRow]
    paths: list[str]
    splits: dict[str, int]
    faults: list[str]
    links: list[str]


def list_videos(data: VideoDataModule) -> Listing:
    """Gather the videos of all splits, each once.

    Raises:
        FileNotFoundError: if no split has a list.
        ValueError: if links lead out of the folder and `follow_links` is not set.
    """
    with data.list_faults() as faults:
        by_split = _own_lists(data)
    for split, records in by_split.items():
        faults += _repeated(split, records)
    faults += _shared(by_split.get("train", []), by_split.get("val", []))
    found: dict[str, VideoRecord] = {}
    for record in [record for records in by_split.values() for record in records]:
        # The lists of test videos may give no classes, but another list may know the class of the same video.
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
    """Raise if the whole dataset is missing and not just a video: a disk that is not mounted leaves an empty folder.

    Args:
        root: of the dataset.
        video: the missing video, for the message.

    Raises:
        FileNotFoundError: if the dataset is gone.
    """
    if not os.path.isdir(root) or not os.listdir(root):
        raise FileNotFoundError(
            f"{root}: the dataset disappeared while {video} was read; once it is back, run the same command to resume"
        )


def _own_lists(data: VideoDataModule) -> dict[Split, list[VideoRecord]]:
    """Return the videos of each split that has a list, without splits that list the same videos as an earlier one."""
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
    """Report ids that a split lists more than once, and files that it lists under more than one id."""
    records = list(records)
    by_name = Counter(record.video_id for record in records)
    by_path = Counter(record.path for record in records)
    twice = [f"the id {name!r}" for name, count in by_name.items() if count > 1]
    named_twice = {r.path for r in records if by_name[r.video_id] > 1}
    twice += [path for path, count in by_path.items() if count > 1 and path not in named_twice]
    return [f"the {split} split lists {what} more than once" for what in twice]


def _shared(train: Iterable[VideoRecord], val: Iterable[VideoRecord]) -> list[str]:
    seen = {record.path for record in train}
    return [f"{r.path} is in both training and validation" for r in val if r.path in seen]

"""[**Something-Something → records** → batch → model → loss → metric]

Everything specific to Something-Something: version 1 has csv lists and folders of frames, version 2 has json lists and
webm files.
"""

import os
from pathlib import Path
from typing import Any, Literal

from hcml_lightning.data.annotations import VideoNames
from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.dataset import Flip, VideoRecord
from hcml_lightning.data.listed import Split
from hcml_lightning.data.lists import read_json, read_lines
from hcml_lightning.data.sampling import FrameStride
from hcml_lightning.ranges import check_one_of

_SIDES = {"train": "train", "val": "validation", "test": "validation", "predict": "test"}


class SomethingDataModule(VideoDataModule):
    """Something-Something V1 or V2.

    `root`, or its folder `annotations` or `labels`, holds the official lists:

    * version 1: `something-something-v1-labels.csv` (one class on each line; or `label_map.txt`),
      `something-something-v1-train.csv` and `-validation.csv` ("id;class"), `-test.csv` ("id"); the frames are
      `20bn-something-something-v1/<id>/00001.jpg` and so on;
    * version 2: `something-something-v2-labels.json` ({class: "number"}), `something-something-v2-train.json` and
      `-validation.json` ([{"id", "template"}], the placeholders of the template in brackets), `-test.json`
      ([{"id"}]), or all of them without the prefix; the videos are `20bn-something-something-v2/<id>.webm`.

    The videos may also lie in `videos/`. The labels of the test list are withheld: `test` is the validation list, as in
    the paper, and `predict` is the test list.

    Args:
        root: folder of the dataset.
        version: 1 or 2.
        clip_length: frames in a clip, T; longer here than for other datasets (Sec. B.2).
        frame_stride: frames from one frame of the clip to the next (Sec. B.2), or "spread".
        test_clips: clips of each video in test and prediction; 3 clips of 3 crops are the 9 views of the tables.
        flip: "mirror" swaps "left to right" and "right to left" when it flips; "plain" keeps the label, "none" flips
            nothing.
        **kwargs: see `VideoDataModule`.

    Raises:
        FileNotFoundError: if `root` or its list of classes is missing.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        version: Literal[1, 2] = 2,
        clip_length: int = 32,
        frame_stride: FrameStride = 1,
        test_clips: int = 3,
        # Departure: the paper flips without changing labels, so that half of the clips with the label "left to right"
        # actually show "right to left", and vice versa.
        flip: Flip = "mirror",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            clip_length=clip_length,
            frame_stride=frame_stride,
            test_clips=test_clips,
            flip=flip,
            **kwargs,
        )
        check_one_of("version", version, (1, 2))
        self.version = version
        if version == 1:
            path = self._list("labels.csv", "the class list", "label_map.txt")
            self.set_classes(read_lines(path))
        else:
            path = self._list("labels.json", "the class list", "labels.json")
            numbers = read_json(path, dict)
            for name, number in numbers.items():
                if not str(number).isdecimal():
                    raise ValueError(
                        f"{path}: expected a number for each class, got {number!r} for {name!r}; download the list "
                        "again"
                    )
            self.set_classes(sorted(numbers, key=lambda name: int(numbers[name])))

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split.

        Raises:
            FileNotFoundError: if the list is missing.
            ValueError: if an entry has no class, or an unknown one, or leads out of the folder.
        """
        side = _SIDES[split]
        suffix = "csv" if self.version == 1 else "json"
        path = self._list(f"{side}.{suffix}", f"the list of the {side} split", f"{side}.{suffix}")
        label = {name: i for i, name in enumerate(self.class_names)}
        folder = self._folder()
        extension = "" if self.version == 1 else ".webm"
        names = VideoNames()
        records = []
        for video, name in _entries(path):
            if name is None and side != "test":
                self.refuse(f"{path}: video {video} has no class; download the list again")
                continue
            if name is not None and name not in label:
                self.refuse(
                    f"{path}: the class {name!r} of video {video} is not in the class list; download both again"
                )
                continue
            number = -1 if name is None else label[name]
            if place := self.place(folder, f"{video}{extension}" if video else "", path):
                records.append(VideoRecord(str(names.find(place)), number, video))
        return records

    def _list(self, name: str, what: str, other: str) -> Path:
        return self.find_list([f"something-something-v{self.version}-{name}", other], what)

    def _folder(self) -> Path:
        root = Path(self.root)
        official = f"20bn-something-something-v{self.version}"
        for name in (official, official.removeprefix("20bn-"), "videos"):
            if (root / name).is_dir():
                return root / name
        raise FileNotFoundError(
            f"root={root}: the folder {official} (or videos) is missing; put the videos there"
        )


def _entries(path: Path) -> list[tuple[str, str | None]]:
    """Read (id, class) from a list of either version; the test lists have no class."""
    if path.suffix == ".csv":
        pairs = [line.split(";", 1) for line in read_lines(path)]
        return [(pair[0], pair[1] if len(pair) > 1 else None) for pair in pairs]
    entries = read_json(path, list)
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
            raise ValueError(
                f'{path}: expected entries like {{"id": "78687", "template": "…"}}, got {str(entry)[:100]}; '
                "download the list again"
            )
    return [(str(entry["id"]), _without_brackets(entry.get("template"))) for entry in entries]


def _without_brackets(template: object) -> str | None:
    return None if template is None else str(template).replace("[", "").replace("]", "")

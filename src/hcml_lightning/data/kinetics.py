"""[**Kinetics → records** → batch → model → loss → metric]

Everything specific to Kinetics: its csv lists, and the many ways in which its videos are stored on disk.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from hcml_lightning.data.annotations import walk_videos
from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.listed import Split
from hcml_lightning.data.lists import read_table

# The names that the archives of the authors, of CVDF and of Academic Torrents use.
_LISTS = {
    "train": ["train.csv", "*[_-]train.csv"],
    "val": ["val.csv", "validate.csv", "*[_-]val.csv", "*[_-]validate.csv"],
    "predict": ["test.csv", "*[_-]test.csv"],
}
_COLUMNS = {"youtube_id", "time_start", "time_end"}


class KineticsDataModule(VideoDataModule):
    """Kinetics-400, -600 or -700.

    `root`, or `root/annotations`, holds the official lists `train.csv`, `val.csv` (or `validate.csv`) and `test.csv`,
    also under names like `kinetics-400_val.csv`, with the columns `label,youtube_id,time_start,time_end,split,is_cc`.
    The videos may lie anywhere below `root`, in folders for splits or classes or in none, as
    `<youtube_id>_<time_start>_<time_end>.mp4` with times of six digits, or as `<youtube_id>` with .mp4, .mkv or .webm.

    Classes are ordered by name. The labels of the test list were not published: `test` is the validation list, as in
    the paper, and `predict` is the test list.

    Args:
        root: folder of the dataset.
        **kwargs: see `VideoDataModule`.

    Raises:
        FileNotFoundError: if `root` holds neither the training list nor the validation list.
    """

    def __init__(self, root: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        # The validation list has every class too, and is the only one that testing needs.
        path = self.find_list(_LISTS["train"] + _LISTS["val"], "the list of training videos")
        rows = read_table(path, {*_COLUMNS, "label"})
        self.set_classes(sorted({row["label"] for row in rows}))
        self._found: dict[str, list[str]] | None = None

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split; a missing video gets the path at which it was expected.

        Raises:
            FileNotFoundError: if the list is missing.
            ValueError: if the list has no classes, an unknown class or a time that is not in whole seconds, a video
                exists twice, or a name leads out of `root`.
        """
        side = "val" if split == "test" else split
        path = self.find_list(_LISTS[side], f"the list of the {side} split")
        label = {name: i for i, name in enumerate(self.class_names)}
        records = []
        for row in read_table(path, _COLUMNS if side == "predict" else {*_COLUMNS, "label"}):
            name = row.get("label")
            if name is not None and name not in label:
                self.refuse(
                    f"{path}: the class {name!r} is in no other list; download the lists again"
                )
                continue
            number = -1 if name is None else label[name]
            if video := self._video(row, side, path):
                records.append(VideoRecord(str(video), number, row["youtube_id"]))
        return records

    def _video(self, row: dict[str, str], side: str, source: Path) -> Path | None:
        if self._found is None:
            self._found = defaultdict(list)
            for file in walk_videos(self.root, None if self.follow_links else self.root):
                self._found[os.path.splitext(os.path.basename(file))[0]].append(file)
        video = row["youtube_id"]
        start, end = row["time_start"], row["time_end"]
        if not (start.isdecimal() and end.isdecimal()):
            self.refuse(
                f"{source}: video {video} is from {start!r} to {end!r}; expected whole seconds, as in the official list"
            )
            return None
        name = f"{video}_{int(start):06d}_{int(end):06d}"
        files = [Path(file) for file in self._found.get(name) or self._found.get(video) or []]
        if len(files) > 1:
            # The same id may be in the folders of several splits.
            names = {"val": ("val", "validate"), "predict": ("test",)}.get(side, (side,))
            files = [f for f in files if any(p.startswith(names) for p in f.parts[-3:-1])] or files
        if len(files) > 1:
            self.refuse(f"video {video} exists twice: {files[0]} and {files[1]}; keep one of them")
        return files[0] if files else self.place(Path(self.root), f"{name}.mp4", source)

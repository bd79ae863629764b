"""[**UCF-101 → records** → batch → model → loss → metric]

Everything specific to UCF-101: its lists, as the authors publish them, and its folders.
"""

import os
from pathlib import Path
from typing import Any, Literal

from hcml_lightning.data.annotations import VideoNames
from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.listed import Split
from hcml_lightning.data.lists import read_lines
from hcml_lightning.ranges import check_one_of


class UCF101DataModule(VideoDataModule):
    """UCF-101, or any dataset in its layout.

    `root` holds `videos/<Class>/<name>.avi` and `ucfTrainTestlist/` with the official files `classInd.txt`
    ("1 ApplyEyeMakeup"), `trainlist01.txt` ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1") and `testlist01.txt`
    ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"). The dataset has no validation split: validation and test are both
    the test split.

    Args:
        root: folder of the dataset.
        fold: which of the three official splits.
        **kwargs: see `VideoDataModule`.

    Raises:
        FileNotFoundError: if `root` or its class list is missing.
        ValueError: if there is no such fold, or a line of the class list is not a number and a class.
    """

    def __init__(
        self, root: str | os.PathLike[str], fold: Literal[1, 2, 3] = 1, **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        check_one_of("fold", fold, (1, 2, 3))
        self.fold = fold
        path = self.find_list(["ucfTrainTestlist/classInd.txt"], "the class list")
        lines = [line.split(maxsplit=1) for line in read_lines(path)]
        for line in lines:
            if len(line) != 2 or not line[0].isdecimal():
                raise ValueError(
                    f"{path}: expected a number and a class per line, as in '1 ApplyEyeMakeup', got "
                    f"{' '.join(line)[:100]!r}"
                )
        self.set_classes([name for _, name in sorted(lines, key=lambda line: int(line[0]))])

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of one side of the fold.

        Raises:
            FileNotFoundError: if the list is missing.
            ValueError: if a line names an unknown class, or leads out of the folder.
        """
        side = "train" if split == "train" else "test"
        label = {name: i for i, name in enumerate(self.class_names)}
        names = VideoNames()
        videos = Path(self.root) / "videos"
        source = self.find_list(
            [f"ucfTrainTestlist/{side}list{self.fold:02d}.txt"], f"the list of the {side} split"
        )
        records = []
        for line in read_lines(source):
            # Only lines of the training lists end with the number of the class.
            name = line.rsplit(" ", 1)[0] if side == "train" else line
            class_name, _, file = name.partition("/")
            if class_name not in label:
                self.refuse(
                    f"{source}: {line[:100]!r} names the class {class_name[:100]!r}, which is not in classInd.txt; "
                    "download both again"
                )
                continue
            if place := self.place(videos, name if file else "", f"{source}: {line[:100]!r}"):
                path = names.find(place)
                records.append(VideoRecord(str(path), label[class_name], path.stem))
        return records

"""[**UCF-101 → records** → batch → model → loss → metric]

All that is true of UCF-101 only: its lists, as the authors publish them, and its folders.
"""

from pathlib import Path
from typing import Any, Literal

from hcml_lightning.data.datamodule import Split, VideoDataModule
from hcml_lightning.data.dataset import VideoRecord


class UCF101DataModule(VideoDataModule):
    """UCF-101, or any dataset in its layout.

    `root` holds `videos/<Class>/<name>.avi` and `ucfTrainTestlist/` with the official files `classInd.txt`
    ("1 ApplyEyeMakeup"), `trainlist01.txt` ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1") and `testlist01.txt`
    ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"). The dataset has no validation split: validation is the test split.

    Args:
        root: folder of the dataset.
        fold: which of the three official splits, 1 to 3.
        **kwargs: see `VideoDataModule`.
    """

    def __init__(self, root: str, fold: Literal[1, 2, 3] = 1, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.fold = fold
        self.lists = Path(root) / "ucfTrainTestlist"
        pairs = [line.split(maxsplit=1) for line in self._lines("classInd.txt")]
        self._label = {name: int(number) - 1 for number, name in pairs}
        self.set_classes([name for name, _ in sorted(self._label.items(), key=lambda kv: kv[1])])

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of one side of the fold."""
        side = "train" if split == "train" else "test"
        return [
            self._record(line.rpartition(" ")[0] if side == "train" else line)
            for line in self._lines(f"{side}list{self.fold:02d}.txt")
        ]

    def _record(self, name: str) -> VideoRecord:
        path = Path(self.root) / "videos" / name
        return VideoRecord(str(path), self._label[name.split("/")[0]], Path(name).stem)

    def _lines(self, name: str) -> list[str]:
        file = self.lists / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: root must hold videos/<Class>/*.avi and ucfTrainTestlist/ with the official lists."
            )
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]

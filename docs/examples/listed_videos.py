"""Videos that are named in one csv, as a data module."""

import csv
from pathlib import Path
from typing import Any

from hcml_lightning import VideoDataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.listed import Split


class ListedVideos(VideoDataModule):
    """Videos of `root/videos.csv`: columns path (from `root` on), class, and split (train, val or test).

    Args:
        root: folder of the csv.
        **kwargs: see `VideoDataModule`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        with (Path(root) / "videos.csv").open(newline="") as file:
            self._rows = list(csv.DictReader(file))
        self.set_classes(sorted({row["class"] for row in self._rows}))

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split; those of the test split are also the ones to predict."""
        name = "test" if split == "predict" else split
        return [
            VideoRecord(
                path=str(Path(self.root) / row["path"]),
                label=self.class_names.index(row["class"]),
                video_id=row["path"],
            )
            for row in self._rows
            if row["split"] == name
        ]

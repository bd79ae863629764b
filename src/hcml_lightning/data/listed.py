"""[**lists → splits** → loaders → batch → model]

What a dataset says of itself: its classes, and the videos of each split, out of lists that somebody else may have
written.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl

from hcml_lightning.data.annotations import find_list
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.links import refuse_links
from hcml_lightning.data.lists import check_names, what_is_wrong_with
from hcml_lightning.data.mirror import mirror_classes
from hcml_lightning.data.usable import usable_records

Split = Literal["train", "val", "test", "predict"]


class ListedDataModule(pl.LightningDataModule):
    """The classes of a dataset and the videos of its splits.

    Args:
        root: folder of the dataset.
        on_error: "raise" stops at a video that is missing or broken, "skip" leaves it out by name.
        follow_links: whether symbolic links may lead out of `root`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        on_error: Literal["raise", "skip"],
        follow_links: bool,
    ) -> None:
        super().__init__()
        self.root = os.fspath(root)
        self.on_error = on_error
        self.follow_links = follow_links
        self.class_names: list[str] = []
        self.mirror_classes: dict[int, int] = {}
        self._list_faults: list[str] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def describe_classes(self) -> str:
        """How many classes there are, in words."""
        return "1 class" if self.num_classes == 1 else f"{self.num_classes} classes"

    def set_classes(self, class_names: list[str]) -> None:
        """Name the classes, in the order of their labels; a subclass calls this in its constructor.

        Raises:
            ValueError: if a name stands twice, or is none.
        """
        check_names(self.root, class_names)
        self.class_names = class_names
        self.mirror_classes = mirror_classes(class_names)

    def refuse(self, message: str) -> None:
        """Say that a list of the dataset is wrong in one place.

        Raises:
            ValueError: with the message, unless `list_faults` collects it.
        """
        if self._list_faults is None:
            raise ValueError(message)
        self._list_faults.append(message)

    @contextmanager
    def list_faults(self) -> Iterator[list[str]]:
        """Collect what is wrong with the lists, and leave out what it concerns, instead of stopping at the first."""
        self._list_faults = []
        try:
            yield self._list_faults
        finally:
            self._list_faults = None

    def find_list(self, names: Iterable[str], what: str) -> Path:
        """Find a list of the dataset; see `annotations.find_list`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a link leads to it out of the folder, and links are not followed.
        """
        path = find_list(self.root, names, what)
        if not self.follow_links:
            refuse_links(self.root, [str(path)])
        return path

    def place(self, folder: Path, name: str, source: object) -> Path | None:
        """Where the video is that a list calls `name`; None, and refused, where that leads out of the folder.

        Args:
            folder: of the videos.
            name: what the list says, `/` between folders.
            source: the list, and the line where that helps, for the message.

        Raises:
            ValueError: as `refuse` does.
        """
        wrong = what_is_wrong_with(name)
        if not wrong:
            return folder / name
        shown = name if len(name) < 100 else f"{name[:100]}…"
        self.refuse(f"{source}: the name {shown!r} {wrong}.")
        return None

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split; each dataset has its own."""
        raise NotImplementedError

    def usable_records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split that can be read, as far as is known; evaluation looks into each that is not.

        Raises:
            FileNotFoundError: as `usable.usable_records` does.
        """
        probe_unknown = self.on_error == "skip" and split != "train"
        records = self.records(split)
        if not self.follow_links:
            refuse_links(self.root, [record.path for record in records])
        return usable_records(self.root, split, records, self.on_error, probe_unknown)

"""[**lists → splits** → loaders → batch → model]

The description of a dataset: its classes and the videos of each split, read from lists that somebody else may have
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
        on_error: "raise" raises an error for a video that is missing or broken, "skip" leaves it out and names it in a
            warning.
        follow_links: whether symbolic links may lead out of `root`.
    """

    # What to do if a split has no videos, for the error.
    IF_EMPTY = "check its list or folder"

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
        """Return the number of classes in words."""
        return "1 class" if self.num_classes == 1 else f"{self.num_classes} classes"

    def set_classes(self, class_names: list[str]) -> None:
        """Set the names of the classes, in the order of their labels; a subclass calls this in its constructor.

        Raises:
            ValueError: if a name occurs twice or is invalid.
        """
        check_names(self.root, class_names)
        self.class_names = class_names
        self.mirror_classes = mirror_classes(class_names)

    def refuse(self, message: str) -> None:
        """Report a fault in a list of the dataset.

        Raises:
            ValueError: with the message, unless `list_faults` collects it.
        """
        if self._list_faults is None:
            raise ValueError(message)
        self._list_faults.append(message)

    @contextmanager
    def list_faults(self) -> Iterator[list[str]]:
        """Collect the faults of the lists and leave out the faulty entries, instead of raising at the first fault."""
        self._list_faults = []
        try:
            yield self._list_faults
        finally:
            self._list_faults = None

    def find_list(self, names: Iterable[str], what: str) -> Path:
        """Find a list of the dataset; see `annotations.find_list`.

        Raises:
            FileNotFoundError: if the list is missing.
            ValueError: if the list lies outside of `root`, behind a link, and `follow_links` is False.
        """
        path = find_list(self.root, names, what)
        if not self.follow_links:
            refuse_links(self.root, [str(path)])
        return path

    def place(self, folder: Path, name: str, source: object) -> Path | None:
        """Return the path of the video that a list calls `name`, below `folder`; refuse an invalid name.

        Args:
            folder: folder of the videos.
            name: name in the list, with `/` between folders.
            source: the list, with the line if that helps, for the message.

        Returns:
            The path; None if the name was refused and `list_faults` collects the fault.

        Raises:
            ValueError: as `refuse` does.
        """
        wrong = what_is_wrong_with(name)
        if not wrong:
            return folder / name
        shown = name if len(name) < 100 else f"{name[:100]}…"
        self.refuse(f"{source}: the name {shown!r} {wrong}")
        return None

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split; each dataset overrides this."""
        raise NotImplementedError

    def usable_records(self, splits: Iterable[Split]) -> dict[Split, list[VideoRecord]]:
        """List the videos of some splits that can be read, as far as is known.

        If broken videos are skipped, evaluation opens each video that the manifest does not know.

        Raises:
            FileNotFoundError: as `usable.usable_records` does.
            ValueError: if a label is none of the classes; on a GPU the loss would not say which.
        """
        listed = {split: list(self.records(split)) for split in splits}
        for split, records in listed.items():
            beyond = (r for r in records if r.label >= self.num_classes > 0)
            if (wrong := next(beyond, None)) is not None:
                raise ValueError(
                    f"{wrong.path} ({split}) has label {wrong.label}, but there are {self.describe_classes()}, whose "
                    f"labels are 0 to {self.num_classes - 1}; correct `records`, or the names in `set_classes`"
                )
        if not self.follow_links:
            refuse_links(self.root, [r.path for records in listed.values() for r in records])
        probe_unknown = [s for s in listed if self.on_error == "skip" and s != "train"]
        return usable_records(self.root, listed, self.on_error, self.IF_EMPTY, probe_unknown)

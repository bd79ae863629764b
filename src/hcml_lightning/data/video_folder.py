"""[**class folders → records** → batch → model → loss → metric]

The user's own videos: one folder for each class, or no classes at all, for learning without labels and for prediction.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from hcml_lightning.data.annotations import HIDDEN, copy_of, is_video, walk_others, walk_videos
from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.listed import Split
from hcml_lightning.naming import first_few
from hcml_lightning.storage import plain

SPLITS = ("train", "val", "test")
# Other common names of splits. They are refused, because such a folder would silently be taken for a class or left out.
OTHER_NAMES = ("training", "validation", "valid", "testing")
# Folders that only datasets with lists have, and the config that reads those.
WITH_LISTS = {
    "ucfTrainTestlist": "ucf101.yaml",
    "20bn-something-something-v1": "something_v1.yaml",
    "20bn-something-something-v2": "something_v2.yaml",
}
# The only class if the videos do not lie in class folders.
UNLABELLED = "unlabelled"


class VideoFolderDataModule(VideoDataModule):
    """Videos in class folders, or raw videos without labels.

    `root` holds `train/<class>/`, `val/<class>/` and `test/<class>/`, or just `<class>/`. If there is no `val`, a fixed
    part of the training videos is used for it; if there is no `test`, `test` is `val`. A video is a file, or a folder
    of JPEG or PNG frames. Classes are ordered by name.

    If videos lie directly in `root` (or in `train/` and `val/`), without class folders, they have no labels: all belong
    to the single class "unlabelled", which is enough for the self-supervised stages.

    Args:
        root: folder of the class folders; ignored in prediction if `predict_paths` and `class_names` are given.
        val_fraction: share of each class used for validation if `root` has no `val` folder; chosen by the names of the
            videos, so that the choice stays the same when others are added.
        class_names: names of the classes in the order of their labels; None for the names of the folders.
        predict_paths: videos to predict, and folders of videos; None for the test split.
        **kwargs: see `VideoDataModule`.

    Raises:
        FileNotFoundError: if there are neither class folders nor videos, and no `predict_paths` either.
        ValueError: if an argument is out of range, a folder has the name of a split but would not be used as one, or
            `root` has the layout of a dataset with lists.
    """

    IF_EMPTY = "check its folder (without a folder val, a part of each class of at least two videos is used for it)"

    def __init__(
        self,
        root: str | os.PathLike[str],
        val_fraction: float = 0.2,
        class_names: list[str] | None = None,
        predict_paths: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if not 0 < val_fraction < 1:
            raise ValueError(
                f"val_fraction must be greater than 0 and less than 1, got {val_fraction}; it has no effect if there "
                "is a folder val"
            )
        if isinstance(predict_paths, str | os.PathLike):
            raise ValueError(f"predict_paths must be a list of paths, got {predict_paths!r}")
        self.val_fraction = val_fraction
        self.predict_paths = plain(predict_paths)
        if not class_names or predict_paths is None:
            self._check_names()
        train = self._folder("train")
        names = class_names or self._class_folders(train)
        if not class_names and all(_is_video(train / name) for name in names):
            names = []
        self._has_labels = bool(names) or not _holds_videos(train)
        self.set_classes(names if self._has_labels else [UNLABELLED])
        if not self.class_names and not predict_paths:
            there = (
                "it contains neither videos nor class folders"
                if os.path.isdir(root)
                else "there is no such folder"
            )
            raise FileNotFoundError(
                f"root={root}: {there}; expected train/<class>/ and val/<class>/, or <class>/, with videos or folders "
                "of frames inside; or only videos, to learn without labels"
            )

    def setup(self, stage: str) -> None:
        """Set up the splits as every data module does; warn if there is only one class, or of folders not used."""
        super().setup(stage)
        root = Path(self.root)
        if stage == "fit" and (root / "train").is_dir():
            beside = [name for name in self._class_folders(root) if name not in SPLITS]
            if beside := [name for name in beside if _holds_videos(root / name)]:
                rank_zero_warn(
                    f"root={root}: the videos in {first_few(beside)} are not used, because there is a folder train "
                    "next to them; if these are classes and train is one too, rename it, or else put them into it"
                )
        if stage == "fit" and len(self.class_names) == 1 and self._has_labels:
            rank_zero_warn(
                f"root={self.root}: there is only one class, {self.class_names[0]!r}. That is enough for the "
                "self-supervised stages; to recognise classes, put a folder for each directly in root (is root one "
                "folder too high?)."
            )

    def describe_classes(self) -> str:
        """Return the number of classes in words."""
        return super().describe_classes() if self._has_labels else "without labels"

    def records(self, split: Split) -> list[VideoRecord]:
        """List the videos of a split.

        Raises:
            FileNotFoundError: if a path to predict does not exist.
            ValueError: if a folder has the name of no class or holds no videos, or videos lie next to class folders.
        """
        if split == "predict" and self.predict_paths:
            return [record for path in self.predict_paths for record in _to_predict(path)]
        if split in ("test", "predict"):
            split = "test" if (Path(self.root) / "test").is_dir() else "val"
        folder = self._folder(split)
        unknown = sorted(set(self._class_folders(folder)) - set(self.class_names))
        if unknown and self._has_labels:
            self.refuse(
                f"{folder}: folders are not named after a class: {', '.join(unknown)}; rename or remove them"
            )
        if self._has_labels and (loose := _videos_right_in(folder)):
            self.refuse(
                f"{folder}: videos ({len(loose)}, first: {loose[0]}) are next to the class folders "
                f"{first_few(self.class_names)} and would be skipped; move the videos into one of these or elsewhere, "
                "or, if there are no classes, move the folders elsewhere"
            )
        records: list[VideoRecord] = []
        for label, name in enumerate(self.class_names):
            place = self._place_of(folder, name)
            if not place.is_dir():
                continue
            videos = [
                VideoRecord(path, label, os.path.relpath(path, folder))
                for path in walk_videos(place, None if self.follow_links else self.root)
            ]
            if not videos:
                what = "class folder" if self._has_labels else "folder"
                self.refuse(f"{place}: the {what} contains no videos; add some or remove it")
            records += self._share(videos, split) if folder == self._folder("both") else videos
        return records

    def other_files(self) -> list[str]:
        """List the files in `root` that are not taken for videos."""
        classes = [
            self._place_of(self._folder(split), name)
            for split in SPLITS
            for name in self.class_names
        ]
        # A walk through the root does not follow links, which the folder of a class or split may be.
        linked = [folder for folder in classes if folder.is_symlink() or folder.parent.is_symlink()]
        folders = [Path(self.root), *linked]
        found = (path for folder in folders for path in walk_others(folder))
        return sorted({os.path.normpath(path) for path in found})

    def _place_of(self, folder: Path, class_name: str) -> Path:
        return folder / class_name if self._has_labels else folder

    def _folder(self, split: str) -> Path:
        """Return the folder of a split; "both" stands for training and validation together."""
        root = Path(self.root)
        if not (root / "train").is_dir():
            return root
        if split == "both":
            return root if (root / "val").is_dir() else root / "train"
        return root / split if (root / split).is_dir() else root / "train"

    def _check_names(self) -> None:
        root = Path(self.root)
        for name, config in WITH_LISTS.items():
            if (root / name).is_dir():
                raise ValueError(
                    f"root={root}: {name} is not a class folder, but part of a dataset with lists; use "
                    f"-c configs/data/{config}"
                )
        has_train = (root / "train").is_dir()
        odd = OTHER_NAMES if has_train else (*SPLITS, *OTHER_NAMES)
        there = self._class_folders(root)
        like = [name for name in there if name.lower() in (*SPLITS, *OTHER_NAMES)]
        names = [name for name in like if name in odd]
        # A folder `Val` is not used as `val`, so it is refused. But classes may be `Train` and `Bus`.
        if has_train or like == there:
            names = [name for name in like if name in odd or name not in SPLITS]
        if has_train and (loose := _videos_right_in(root)):
            names += loose[:1]
        if names:
            alone = "" if has_train else " because there is no train next to it"
            raise ValueError(
                f"root={root}: {' and '.join(names)} would not be used for any split{alone}; name the folders train, "
                "val and test (the last two if any), and put the classes inside them"
            )

    def _class_folders(self, folder: Path) -> list[str]:
        if not folder.is_dir():
            return []
        return sorted(
            path.name
            for path in folder.iterdir()
            if path.is_dir() and not path.name.startswith(HIDDEN)
        )

    def _share(self, videos: list[VideoRecord], split: str) -> list[VideoRecord]:
        """Return the videos of one class that belong to a split."""
        chosen = {
            video
            for video in videos
            # The name of the .mp4 copy is hashed, so that a copy stays on the same side.
            if int(hashlib.sha1(os.fsencode(copy_of(video.video_id))).hexdigest(), 16) % 10_000
            < self.val_fraction * 10_000
        }
        if not chosen or len(chosen) == len(videos):
            # Each side needs a video of every class that has at least two.
            chosen = set(videos[:1]) if len(videos) > 1 else set()
        return [video for video in videos if (video in chosen) == (split != "train")]


def _is_video(folder: Path) -> bool:
    """Return whether a folder is itself a video, made of frames, and therefore not a class folder."""
    return next(walk_videos(folder), None) == os.fspath(folder)


def _holds_videos(folder: Path) -> bool:
    first = next(walk_videos(folder), None) if folder.is_dir() else None
    return first not in (None, os.fspath(folder))


def _videos_right_in(folder: Path) -> list[str]:
    return sorted(filter(is_video, os.listdir(folder))) if folder.is_dir() else []


def _to_predict(path: str) -> list[VideoRecord]:
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"predict_paths: {path} does not exist; name videos or folders of videos"
        )
    videos = list(walk_videos(path)) if os.path.isdir(path) else [path]
    if not videos:
        raise FileNotFoundError(
            f"predict_paths: {path} contains no videos and no frames; name videos or folders of videos"
        )
    return [VideoRecord(video, -1, video) for video in videos]

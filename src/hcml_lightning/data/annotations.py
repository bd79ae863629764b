"""[**folder of a dataset → records** → batch → model → loss → metric]

Find the lists and the videos of any dataset on disk.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from hcml_lightning.data.image_folder import is_image
from hcml_lightning.data.links import outside

_SUFFIXES = (
    ".mp4",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".3gp",
)
_FOLDERS = ("", "annotations", "labels")
# Some network drives keep thumbnails in folders named `@eaDir`.
HIDDEN = (".", "@eaDir")


def is_video(name: str) -> bool:
    """Return whether a file is a video, judging by its name."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def find_list(root: str, names: Iterable[str], what: str) -> Path:
    """Find an annotation file in `root`, `root/annotations` or `root/labels`.

    Args:
        root: folder of the dataset.
        names: possible names of the file, in order of preference; `*` and `?` are wildcards.
        what: description of the file, for the error message.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: if `root` or the file is missing; the message says which names were looked for, and where.
    """
    names = list(names)
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"root={root}: there is no such folder; set root (--data.root) to the one that contains {what}"
        )
    for name in names:
        for folder in _FOLDERS:
            found = sorted((Path(root) / folder).glob(name))
            if found:
                return found[0]
    folders = ". If its folders are the classes, use -c configs/data/video_folder.yaml"
    raise FileNotFoundError(
        f"root={root}: {what} is missing; expected {' or '.join(names)} in this folder, or in annotations or labels "
        f"inside it{folders if _may_have_class_folders(Path(root)) else ''}"
    )


def _may_have_class_folders(root: Path) -> bool:
    files = [*root.glob("*/*"), *root.glob("train/*/*")]
    return len({file.parent for file in files if is_video(file.name)}) > 1


class VideoNames:
    """Look up the names under which videos are stored: as in the lists, as an .mp4 copy, or as a folder of frames.

    Each folder is read only once, however many videos it holds.
    """

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, path: Path) -> Path:
        """Return the path if it exists, else that of its .mp4 copy or folder of frames, else the path unchanged.

        Args:
            path: path of a video file or of a folder of frames, as named in the lists.
        """
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
        there = self._names[folder]
        names = (path.name, copy_of(path.name), path.stem)
        return folder / next((name for name in names if name in there), path.name)


def copy_of(name: str) -> str:
    """Return the name of the .mp4 that `hcml data prepare` makes of a video file or a folder of frames.

    Example:
        >>> copy_of("v_Surfing_g01_c01.avi"), copy_of("1093"), copy_of("Dr. Who")
        ('v_Surfing_g01_c01.mp4', '1093.mp4', 'Dr. Who.mp4')
    """
    return (os.path.splitext(name)[0] if is_video(name) else name) + ".mp4"


def walk_others(folder: str | Path) -> Iterator[str]:
    """Yield the files below a folder that, by their names, are not videos, images, hidden or written by this package.

    Args:
        folder: folder to search; symbolic links are not followed, and hidden folders are skipped.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        for name in sorted(names):
            # The motion of synthetic videos lies next to them.
            ours = name.startswith((".", "hcml_")) or name.endswith(".motion.npz")
            if not (ours or is_video(name) or is_image(name)):
                yield os.path.join(place, name)


def walk_videos(
    folder: str | Path, root: str | None = None, above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield all videos below a folder, sorted: files with the suffix of a video, and folders of images.

    Hidden files and folders are skipped. Links are followed, except those to a folder that holds the link itself.
    Images that lie next to videos, or next to other folders, are not taken for a video.

    Args:
        folder: folder to search.
        root: links to folders outside of it are yielded instead of followed, so that the caller can refuse them; None
            follows all links.
        above: real paths of the folders that hold this one; found out if empty.

    Raises:
        ValueError: if a folder with images holds another folder with images of the same names, because either may be
            the video.
    """
    place = os.path.realpath(folder)
    above = above or frozenset(map(str, Path(place).parents))
    if place in above:
        return
    above |= {place}
    shown = (entry for entry in os.scandir(folder) if not entry.name.startswith(HIDDEN))
    entries = sorted(shown, key=lambda entry: entry.name)
    others = [entry.name for entry in entries if entry.is_dir() or is_video(entry.name)]
    images = [entry.name for entry in entries if is_image(entry.name)]
    if images and not others:
        yield os.fspath(folder)
        return
    for entry in entries if images else []:
        # Equal names suggest optical flow or depth of the same frames. Photographs next to folders of videos are fine.
        if entry.is_dir() and not set(images).isdisjoint(os.listdir(entry.path)):
            raise ValueError(
                f"{folder}: contains {len(images)} images ({images[0]}, …) and also {entry.name} with images of the "
                f"same names, so either could be the frames of the video; move the others (for instance {entry.name}) "
                "elsewhere"
            )
    for entry in entries:
        if entry.is_dir():
            if root is not None and entry.is_symlink() and any(outside(root, [entry.path])):
                yield entry.path
            else:
                yield from walk_videos(entry.path, root, above)
        elif is_video(entry.name):
            yield entry.path

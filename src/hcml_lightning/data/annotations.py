"""[**folder of a dataset → records** → batch → model → loss → metric]

How the lists and the videos of a dataset are found on disk, whatever the dataset.
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
# Network drives keep thumbnails in folders of the second name.
HIDDEN = (".", "@eaDir")


def is_video(name: str) -> bool:
    """Whether a file is a video, by its name."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def find_list(root: str, names: Iterable[str], what: str) -> Path:
    """Find an annotation file in `root`, `root/annotations` or `root/labels`.

    Args:
        root: folder of the dataset.
        names: the names that the file may have, best first; `*` and `?` stand for any characters.
        what: what the file is, for the message.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is none; the message says which names were looked for, and where.
    """
    names = list(names)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"root={root}: there is no such folder; {what} was expected in it.")
    for name in names:
        for folder in _FOLDERS:
            found = sorted((Path(root) / folder).glob(name))
            if found:
                return found[0]
    raise FileNotFoundError(
        f"root={root}: {what} is missing; expected {' or '.join(names)} in it, or in its folder annotations or labels."
    )


class VideoNames:
    """Tells under which name each video lies: the one in the lists, that of its copy as .mp4, or of its frames.

    Every folder is read once, whatever the number of videos in it.
    """

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, path: Path) -> Path:
        """The path itself if it is there, or if neither its copy nor a folder of its frames is.

        Args:
            path: of a video file, or of a folder of frames, as the lists call it.
        """
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
        there = self._names[folder]
        names = (path.name, copy_of(path.name), path.stem)
        return folder / next((name for name in names if name in there), path.name)


def copy_of(name: str) -> str:
    """Name of the .mp4 that `hcml data prepare` makes of a video file or a folder of frames.

    Example:
        >>> copy_of("v_Surfing_g01_c01.avi"), copy_of("1093"), copy_of("Dr. Who")
        ('v_Surfing_g01_c01.mp4', '1093.mp4', 'Dr. Who.mp4')
    """
    return (os.path.splitext(name)[0] if is_video(name) else name) + ".mp4"


def walk_others(folder: str | Path) -> Iterator[str]:
    """List the files below a folder that are neither videos nor images by their names, nor hidden or of this package.

    Args:
        folder: where to look; links are not followed.
    """
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            if not (name.startswith((".", "hcml_")) or is_video(name) or is_image(name)):
                yield os.path.join(place, name)


def walk_videos(
    folder: str | Path, root: str | None = None, above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Find all videos below a folder, sorted: files by their suffix, and folders of images; nothing that is hidden.

    Links are followed, but for those to a folder in which they lie themselves. Images beside videos, or
    beside folders of these, are no video.

    Args:
        folder: where to look.
        root: links to folders outside of it are not entered but given as they are, to be refused; None enters all.
        above: folders that hold this one, without links.

    Raises:
        ValueError: if a folder of images holds another one, with images of the same names: either may be the video.
    """
    place = os.path.realpath(folder)
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
        # Optical flow, say, or depth. Photographs beside folders of videos are neither.
        if entry.is_dir() and not set(images).isdisjoint(os.listdir(entry.path)):
            raise ValueError(
                f"{folder}: holds {len(images)} images ({images[0]}, …) and also {entry.name}, with images of the same "
                f"names: which are the frames of the video? Move the others away, {entry.name} where they are these"
            )
    for entry in entries:
        if entry.is_dir():
            if root is not None and entry.is_symlink() and any(outside(root, [entry.path])):
                yield entry.path
            else:
                yield from walk_videos(entry.path, root, above)
        elif is_video(entry.name):
            yield entry.path

"""[**folder of a dataset → what its links lead to** → records → batch → model → loss → metric]

Find symbolic links that lead out of the folder of a dataset: useful if the user has set them, a risk if the dataset is
of untrusted origin.
"""

import os
from collections.abc import Iterable, Iterator

from hcml_lightning.naming import first_few


def outside(root: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the files, folders of images and single images that lie outside of a folder once links are resolved.

    Args:
        root: the folder; may be a link itself.
        paths: paths of files and of folders of images.

    Yields:
        (path, where it leads).
    """
    top = os.path.join(os.path.realpath(root), "")
    folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(top):
            yield path, real
        elif os.path.isdir(real):
            with os.scandir(real) as entries:
                links = [entry.path for entry in entries if entry.is_symlink()]
            yield from ((p, t) for p in links if not (t := os.path.realpath(p)).startswith(top))


def refuse_links(root: str, paths: Iterable[str]) -> None:
    """Refuse links that lead out of a folder.

    Raises:
        ValueError: if there are any; the message names some of them and says what to do.
    """
    found = [f"{path} -> {target}" for path, target in outside(root, paths)]
    if found:
        raise ValueError(
            f"root={root}: links point outside the dataset folder: {first_few(found)}; if you created them, allow them "
            "with follow_links=True (--data.follow_links true)"
        )

"""[content → **file**]

Files are written completely or not at all, and hold plain data.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Write to a temporary file next to `path`, then sync and rename it, so that a reader never sees half a file.

    Args:
        path: path of the file; its folder is created if missing.
        suffix: suffix of the temporary name; needed if an encoder derives the format from it, or if several processes
            write the same file.

    Yields:
        Path of the temporary file. If writing fails, it is removed and an existing file at `path` is kept.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{suffix}")
    # A link of this name must not redirect the writing.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write the content of a file completely or not at all, by `whole`.

    Raises:
        OSError: if it cannot be written; an existing file is kept.
    """
    with whole(path) as partial:
        partial.write_bytes(content)


def plain(value: Any) -> Any:
    """Convert paths to text, NumPy's numbers to Python's and ranges to lists, also inside lists, tuples and dicts.

    A checkpoint that holds anything but tensors and plain data is refused when it is loaded.

    Example:
        >>> plain({"root": Path("videos"), "sizes": (1, [Path("a")])})
        {'root': 'videos', 'sizes': (1, ['a'])}
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, range):
        return list(value)
    if type(value) is dict:
        return {key: plain(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    # Recognised by the name of the module, so that code that writes files does not wait for NumPy.
    return value.tolist() if type(value).__module__ == "numpy" else value


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    try:
        sync(folder)
    except OSError as error:
        # Some network and FUSE mounts cannot sync folders; the file itself is on the disk.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise

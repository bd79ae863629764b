"""[state of a run → **file** → state of a run]

Files are written completely or not at all, and a replaced checkpoint is kept beside the new one. A run can therefore be
resumed whatever ended it, such as a full disk or a power failure.
"""

import errno
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_ASKED_FOR = re.compile(r"(?:Unsupported global: GLOBAL|Trying to load unsupported GLOBAL) (\S+)")


@contextmanager
def whole(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Write to a temporary file beside `path`, then sync and rename it, so that a reader never sees half a file.

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
        _sync(partial)
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


def previous_of(path: Path) -> Path:
    """Return the path at which a checkpoint is kept after another one of the same name replaced it.

    Example:
        >>> previous_of(Path("run/last.ckpt")).as_posix()
        'run/last.previous.ckpt'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write_checkpoint(path: Path, content: bytes | memoryview) -> None:
    """Write a checkpoint completely or not at all, and keep the one that it replaces at `previous_of(path)`.

    Raises:
        OSError: if it cannot be written; the message says what to do, and an intact earlier checkpoint remains.
    """
    try:
        with whole(path) as partial:
            partial.write_bytes(content)
            # Sync before the existing checkpoint is moved. If that one is broken, keep the intact one before it.
            _sync(partial)
            if fault_of(path) is None:
                path.replace(previous_of(path))
    except OSError as error:
        raise OSError(
            error.errno,
            f"the checkpoint {path} cannot be written ({error.strerror}). The checkpoint before it is intact; fix "
            "this and run the same command again to resume from there.",
        ) from error


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


def asked_for(error: Exception) -> str | None:
    """Return what a checkpoint asked for besides tensors and plain data; None if torch failed for another reason."""
    found = _ASKED_FOR.search(str(error))
    return found[1].rstrip(".") if found else None


def fault_of(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint file, or return None; reads all of it and compares its checksums.

    Raises:
        PermissionError: if the file may not be read.
    """
    if not path.is_file():
        return "there is no such file"
    # Imported late, so that code that writes files does not wait for it.
    import torch

    try:
        damaged = damaged_part(path)
        # torch.load compares no checksums, but is stricter about the structure of the archive.
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except PermissionError:
        raise
    # If the directory of an archive is damaged, reading it can raise any kind of error.
    except Exception as error:
        if asked := asked_for(error):
            return f"it asks for {asked}, which is neither a tensor nor plain data"
        said = str(error).partition("\n")[0].partition(". ")[0]
        return f"cut short or damaged ({type(error).__name__}: {said})"
    return None if damaged is None else f"damaged in {damaged}"


def damaged_part(path: Path) -> str | None:
    """Compare all checksums of a checkpoint, which torch does not, and return the first damaged part or None.

    Raises:
        zipfile.BadZipFile: if the file is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_whole(path: Path, tell: Callable[[str], None]) -> Path | None:
    """Return the newest intact checkpoint to resume from: the one at `path`, or else the one that it replaced.

    Args:
        path: path of the checkpoint.
        tell: called with a message for each file that exists but is broken.

    Returns:
        The path, or None if neither is intact.
    """
    for candidate in (path, previous_of(path)):
        fault = fault_of(candidate)
        if fault is None:
            return candidate
        if candidate.is_file():
            tell(f"{candidate} is broken and will not be used: {fault}")
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        # Some network and FUSE mounts cannot sync folders; the file itself is on the disk.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def folder_of_run(checkpoints: Path) -> Path:
    """Return the folder of a run from that of its checkpoints: the parent of `checkpoints`, else the folder itself.

    Example:
        >>> folder_of_run(Path("run/checkpoints")).as_posix(), folder_of_run(Path("runs/first")).as_posix()
        ('run', 'runs/first')
    """
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def checkpoint_near(folder: Path, noted: Path) -> Path | None:
    """Find the checkpoint that a run recorded, even if its folder was moved or copied since.

    Another run may by now be stored at the recorded path, so the run's own folder is searched first.

    Args:
        folder: folder of the run.
        noted: path that the run recorded.

    Returns:
        The path in the run's own folder; else the recorded path; else the path in another run that was moved together
        with this one (before the recorded path, if that is relative); None if there is no such file.
    """
    own = folder / "checkpoints" / noted.name
    if not own.is_file() and noted.parent.name != "checkpoints":
        own = folder / noted.name
    beside = folder.parent.joinpath(*noted.parts[-3:])
    # A relative path may now lead to runs in another folder, so it is tried last.
    order = (own, noted, beside) if noted.is_absolute() else (own, beside, noted)
    return next((path for path in order if path.is_file()), None)

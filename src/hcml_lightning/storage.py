"""[state of a run → **file** → state of a run]

A file is written whole or not at all, and a checkpoint that is replaced is kept beside the new one. So whatever ends a
run, a full disk or the power, there is a state to go on from.
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
    """Let a file be written under another name beside its own, which it gets when the disk has it.

    Args:
        path: of the file; its folder is made where it is missing.
        suffix: of the temporary name; needed where an encoder goes by it, or several processes write the same file.

    Yields:
        Where to write. Whatever ends the writing, this is gone then, and what stood at `path` stands there still.

    Raises:
        OSError: if the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{suffix}")
    # Never through a link that lies there under this name.
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
    """Write a file at once, as `whole` does.

    Raises:
        OSError: if it cannot be written; what stood there before stands there still.
    """
    with whole(path) as partial:
        partial.write_bytes(content)


def previous_of(path: Path) -> Path:
    """Where the checkpoint is kept that another one of the same name has replaced.

    Example:
        >>> previous_of(Path("run/last.ckpt")).as_posix()
        'run/last.previous.ckpt'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write_checkpoint(path: Path, content: bytes | memoryview) -> None:
    """Write a checkpoint whole, and keep the one of the same name as `previous_of` it.

    Raises:
        OSError: if it cannot be written, with what to do; the one before is untouched.
    """
    try:
        with whole(path) as partial:
            partial.write_bytes(content)
            # Before the one that stands there is moved; where that is broken, the whole one before it stays.
            _sync(partial)
            if fault_of(path) is None:
                path.replace(previous_of(path))
    except OSError as error:
        raise OSError(
            error.errno,
            f"the checkpoint {path} cannot be written ({error.strerror}). What was saved before it is whole: mend "
            "that, and start the same command again to resume from there",
        ) from error


def plain(value: Any) -> Any:
    """Turn paths into text and NumPy's numbers into Python's, inside of lists and dicts too.

    A checkpoint that holds anything but tensors and plain data is refused when it is read again.

    Example:
        >>> plain({"root": Path("videos"), "sizes": (1, [Path("a")])})
        {'root': 'videos', 'sizes': (1, ['a'])}
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is dict:
        return {key: plain(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    # By its name, since what writes files need not wait for NumPy.
    return value.tolist() if type(value).__module__ == "numpy" else value


def asked_for(error: Exception) -> str | None:
    """What a checkpoint asked for, besides tensors and plain data, when torch refused to read it; None otherwise."""
    found = _ASKED_FOR.search(str(error))
    return found[1].rstrip(".") if found else None


def fault_of(path: Path) -> str | None:
    """Say in words what is wrong with a checkpoint file, or None: all of it is read, and its checksums compared.

    Raises:
        PermissionError: if it may not be read.
    """
    if not path.is_file():
        return "there is no such file"
    # Late, since what writes files need not wait for it.
    import torch

    try:
        damaged = damaged_part(path)
        # It compares no checksums, but is stricter in how an archive must look.
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except PermissionError:
        raise
    # A damaged directory of an archive can lead its reader into errors of any kind.
    except Exception as error:
        if asked := asked_for(error):
            return f"it asks for {asked}, which is neither a tensor nor plain data"
        said = str(error).partition("\n")[0].partition(". ")[0]
        return f"cut short or damaged ({type(error).__name__}: {said})"
    return None if damaged is None else f"damaged in {damaged}"


def damaged_part(path: Path) -> str | None:
    """Read all of a checkpoint and compare its checksums, which torch does not; name the first part that is damaged.

    Raises:
        zipfile.BadZipFile: if it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_whole(path: Path, tell: Callable[[str], None]) -> Path | None:
    """Find the newest state that can be gone on from: a checkpoint, or else the one before it.

    Args:
        path: of the checkpoint.
        tell: is told of each file that is there and broken.

    Returns:
        The path, or None where there is none.
    """
    for candidate in (path, previous_of(path)):
        fault = fault_of(candidate)
        if fault is None:
            return candidate
        if candidate.is_file():
            tell(f"{candidate} is broken, {fault}: not taken")
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
        # Some network and FUSE mounts do not offer it for folders; the file itself is on the disk.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def folder_of_run(checkpoints: Path) -> Path:
    """The folder of the run whose checkpoints lie in a folder: the one above, or the same where it has another name.

    Example:
        >>> folder_of_run(Path("run/checkpoints")).as_posix(), folder_of_run(Path("runs/first")).as_posix()
        ('run', 'runs/first')
    """
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def checkpoint_near(folder: Path, noted: Path) -> Path | None:
    """Where the checkpoint is that a run noted: folders are moved and copied, and others come to where they were.

    Args:
        folder: of the run.
        noted: what the run wrote down.

    Returns:
        That of the run's own folder; else where it was; else that of another run moved with this one; None if it is
        nowhere.
    """
    own = folder / "checkpoints" / noted.name
    if not own.is_file() and noted.parent.name != "checkpoints":
        own = folder / noted.name
    beside = folder.parent.joinpath(*noted.parts[-3:])
    # One that is not absolute may now lead to the runs of another folder.
    order = (own, noted, beside) if noted.is_absolute() else (own, beside, noted)
    return next((path for path in order if path.is_file()), None)

"""[state of a run → **checkpoint file** → state of a run]

The one place where this package reads checkpoints, as tensors and plain data. A pickle may ask for any function to be
called, but here none is, so an untrusted checkpoint may be wrong but cannot run code.

A checkpoint that is replaced is kept next to the new one. A run can therefore be resumed whatever ended it, such as a
full disk or a power failure.
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcml_lightning.storage import sync, whole

_ASKED_FOR = re.compile(r"(?:Unsupported global: GLOBAL|Trying to load unsupported GLOBAL) (\S+)")


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
            sync(partial)
            if fault_of(path) is None:
                path.replace(previous_of(path))
    except OSError as error:
        raise OSError(
            error.errno,
            f"the checkpoint {path} cannot be written ({error.strerror}). The checkpoint before it is intact; fix "
            "this and run the same command again to resume from there.",
        ) from error


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


def fault_of(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint file, or return None; reads all of it and compares its checksums.

    Raises:
        PermissionError: if the file may not be read.
    """
    if not path.is_file():
        return "there is no such file"
    try:
        damaged = _damaged_part(path)
        # torch.load compares no checksums, but is stricter about the structure of the archive.
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except PermissionError:
        raise
    # If the directory of an archive is damaged, reading it can raise any kind of error.
    except Exception as error:
        if asked := _asked_for(error):
            return f"it asks for {asked}, which is neither a tensor nor plain data"
        said = str(error).partition("\n")[0].partition(". ")[0]
        return f"cut short or damaged ({type(error).__name__}: {said})"
    return None if damaged is None else f"damaged in {damaged}"


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Load the checkpoint of a stage to the CPU, without running any code that the file contains.

    Args:
        path: path of the checkpoint.
        mmap: whether tensors stay in the file until they are accessed, for callers that need only the other entries.

    Returns:
        The checkpoint, with `state_dict` and `hyper_parameters`.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if it is cut short or damaged, is not a checkpoint, or asks for code to be run.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; pass the .ckpt file that a stage wrote into it"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; pass the .ckpt file that a stage wrote"
        )
    try:
        # Files from before PyTorch 1.6 are not zip archives: they cannot be mapped, and have no checksums.
        is_archive = zipfile.is_zipfile(path)
        # Set `weights_only` explicitly, because an environment variable of PyTorch can reverse its default.
        checkpoint = torch.load(
            path, map_location="cpu", weights_only=True, mmap=mmap and is_archive
        )
        damaged = _damaged_part(path) if is_archive else None
    except Exception as error:
        raise ValueError(_what_is_wrong(path, error)) from error
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged in {damaged}: its content is not what was written; use the checkpoint before it, or "
            "another copy"
        )
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(
            f"{path} is not a checkpoint of a stage: it has no state_dict; pass the .ckpt file that a stage wrote"
        )
    return checkpoint


def check_finite(path: str | Path, state: Mapping[str, Any]) -> None:
    """Raise an error if a weight is not finite.

    Raises:
        ValueError: if one is NaN or infinite.
    """
    for name, tensor in state.items():
        if (
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and not bool(tensor.isfinite().all())
        ):
            raise ValueError(
                f"{path} contains weights that are NaN or infinite (first: {name}); use a checkpoint from before that"
            )


def _what_is_wrong(path: Path, error: Exception) -> str:
    if asked := _asked_for(error):
        return (
            f"{path} cannot be read as a checkpoint: it asks for {asked}, which is neither a tensor nor "
            "plain data, so loading it could run code. None of it was run; checkpoints of this package never ask for "
            "code. Get the file from its original source, or ask for only its weights."
        )
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror}; pass a .ckpt that this user may read"
    if path.stat().st_size == 0:
        return f"{path} cannot be read as a checkpoint: it is empty; use the checkpoint before it"
    return (
        f"{path} cannot be read as a checkpoint ({type(error).__name__}): it was cut short or is another kind of "
        "file; pass an intact .ckpt that a stage wrote"
    )


def _damaged_part(path: Path) -> str | None:
    """Compare all checksums of a checkpoint, which torch does not, and return the first damaged part or None.

    Raises:
        zipfile.BadZipFile: if the file is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _asked_for(error: Exception) -> str | None:
    """Return what a checkpoint asked for besides tensors and plain data; None if torch failed for another reason."""
    found = _ASKED_FOR.search(str(error))
    return found[1].rstrip(".") if found else None

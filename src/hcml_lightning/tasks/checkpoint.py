"""[**checkpoint file → tensors and plain data** → task]

The one place where this package takes data from checkpoints. A pickle may ask for any function to be called, but here
none is, so an untrusted checkpoint may be wrong but cannot run code.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcml_lightning.storage import asked_for, damaged_part


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
        ValueError: if it is cut short or damaged, is no checkpoint, or asks for code to be run.
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
        damaged = damaged_part(path) if is_archive else None
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
    if asked := asked_for(error):
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

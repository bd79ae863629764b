"""[exception → **what to do about it**]

Tells which exceptions are not bugs, and which message to print instead of a traceback. All others keep their traceback.
"""

import errno
import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).parents[2]

# Errors of the operating system that concern the user's files and disks, and what to do about each.
OF_FILES = {
    errno.EACCES: "change the permissions there, or choose another path",
    errno.EPERM: "change the permissions there, or choose another path",
    errno.EROFS: "choose a path on a disk that is not read-only",
    errno.ENOSPC: "free some space there, or choose a path on another disk",
    errno.EDQUOT: "free some of your quota there, or choose a path on another disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path, part of which is a file",
    errno.EISDIR: "check the path, which is a folder",
    errno.EEXIST: "remove it, or choose another path",
}

TOO_FAR = """{said}
Raise --trainer.max_epochs to train further, or leave out --ckpt_path to begin another run."""

OUT_OF_MEMORY = """{device} does not have enough memory for a step of this run. Ways to need less, most effective first:
  --data.batch_size        fewer clips at a time on each device (--trainer.accumulate_grad_batches keeps their
                           number per step)
  --model.recompute true   keep no activations inside the blocks; takes about a third longer
  --data.clip_length, --data.crop_size      fewer frames and pixels per clip
  --trainer.precision bf16-mixed            half the bytes for most activations
In a multi-view test, lower --model.views_per_forward or --data.batch_size.
PyTorch said: {said}"""

ONE_VALUE = """batch norm got one value per channel, which has no variance: the last feature maps of one small clip
have a single cell. Raise --data.batch_size, --data.clip_length or --data.crop_size.
PyTorch said: {said}"""

NO_LOGIN = """Weights & Biases: {said}
Either log in once:               wandb login        (or set WANDB_API_KEY)
or write to disk, upload later:   WANDB_MODE=offline hcml …, then wandb sync DIR
or leave out -c configs/wandb.yaml: curves then go to metrics.csv in the run folder."""


def explain(error: BaseException) -> str | None:
    """Return what went wrong and what to do, if the error is of an expected kind.

    Args:
        error: the error that was raised.

    Returns:
        The message for the user, or None if the error may be a bug and needs its traceback.
    """
    for link in _chain(error):
        for explanation in (
            _memory,
            _batch_norm,
            _wandb,
            _worker,
            _own_words,
            _lightning,
            _package,
            _file,
        ):
            message = explanation(link)
            if message is not None:
                return message
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and those that it was raised from: jsonargparse and Lightning wrap errors of constructors."""
    while error is not None:
        yield error
        error = error.__cause__


def _memory(error: BaseException) -> str | None:
    first = str(error).strip().partition("\n")[0]
    if type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY.format(device="The GPU", said=first)
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return OUT_OF_MEMORY.format(device="The machine", said=first)
    return None


def _batch_norm(error: BaseException) -> str | None:
    if str(error).startswith("Expected more than 1 value per channel when training"):
        return ONE_VALUE.format(said=error)
    return None


def _wandb(error: BaseException) -> str | None:
    if type(error).__module__.startswith("wandb.errors"):
        return NO_LOGIN.format(said=error)
    return None


def _own_words(error: BaseException) -> str | None:
    """Return the message of an error from a `raise` statement of this package, but not of others from its code."""
    if type(error).__module__.partition(".")[0] == PACKAGE.name:
        return str(error)
    if not isinstance(
        error, ValueError | TypeError | OSError | ImportError | RuntimeError | MemoryError
    ):
        return None
    if isinstance(error, NotImplementedError):
        return None
    place = _last_place(error.__traceback__)
    if place is None or PACKAGE not in Path(place[0]).parents:
        return None
    return str(error) if linecache.getline(*place).strip().startswith("raise ") else None


def _lightning(error: BaseException) -> str | None:
    """Return the message of Lightning if it refuses an option, or a metric that is not logged."""
    if str(error).startswith("You restored a checkpoint with current_epoch="):
        return TOO_FAR.format(said=error)
    refused = type(error).__name__ == "MisconfigurationException"
    return str(error) if refused or str(error).startswith("Early stopping conditioned on") else None


def _package(error: BaseException) -> str | None:
    """Return the message of a library that needs another package installed; a failing `import` sets `error.name`."""
    if isinstance(error, ModuleNotFoundError) and error.name is None:
        return str(error)
    return None


def _worker(error: BaseException) -> str | None:
    """Return the message of this package's error in a worker, which PyTorch raises again with the traceback as text."""
    if not str(error).startswith("Caught ") or "DataLoader worker process" not in str(error):
        return None
    *_, last = re.finditer(r'File "([^"]+)", line (\d+), in .*\n(?:    .*\n)*', str(error))
    path, line = Path(last[1]), int(last[2])
    if PACKAGE in path.parents and linecache.getline(str(path), line).strip().startswith("raise "):
        return str(error)[last.end() :].partition(": ")[2].strip()
    return None


def _file(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in OF_FILES:
        return f"{error}; {OF_FILES[error.errno]} (--debug shows what asked for it)"
    return None


def _last_place(trace: TracebackType | None) -> tuple[str, int] | None:
    place = None
    while trace is not None:
        place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return place

"""[warnings → **what users of `hcml` see of them**]

Messages of libraries that users cannot act on, each with the reason why it is silenced, and how warnings are printed.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hcml_lightning.tools.console.trouble import PACKAGE

NOISE = (
    # Lightning calls functions that jsonargparse will remove, so our dependency on jsonargparse has an upper bound:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21900
    r"(?s).*removed\s+in\s+v5\.0\.0",
    r"(?s).*only\s+one\s+JsonargparseDeprecationWarning",
    # Lightning compares with a class that PyTorch renamed:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21462
    r".*LeafSpec",
    # `hcml` itself passes the words of the command line to LightningCLI.
    r"LightningCLI's args parameter is intended",
    # The folder of a resumed run contains the checkpoints of that same run.
    r"Checkpoint directory .* exists and is not empty",
    # A test writes to another folder than that of the checkpoint it tests, and does not need the best score so far.
    r"The dirpath has changed from",
    # The metrics count every video once, by its index, even if several processes receive it.
    r"Using `DistributedSampler` with the dataloaders",
    # The first process logs its own wait, and its own speed times the number of processes; so none waits for another.
    r"It is recommended to use `self.log\('train/(clips_per_second|data_wait)'",
    # True of every small dataset, and the curves are drawn by epoch.
    r"The number of training batches .* is smaller than the logging interval",
    # The number of workers is a setting of the data, with a default; the summary shows it.
    r"The '\w+_dataloader' does not have many workers",
)


class _NoTips(logging.Filter):
    """Drop Lightning's advertisements for other products, and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("💡 Tip")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages in `NOISE` and Lightning's tips inside the block, and no others."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    tips = _NoTips()
    logger.addFilter(tips)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.removeFilter(tips)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print the warnings of this package inside the block without the line of code that they come from."""
    # Not `warnings.formatwarning`, which Lightning replaces when it is imported.
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if PACKAGE in Path(filename).parents:
            print(f"warning: {message}", file=file or sys.stderr)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before

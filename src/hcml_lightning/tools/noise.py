"""Messages of libraries that nobody who runs `hcml` can act on, each with the reason."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    # Lightning calls functions that jsonargparse will remove, which is why jsonargparse is bounded:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21900
    r"(?s).*removed\s+in\s+v5\.0\.0",
    r"(?s).*only\s+one\s+JsonargparseDeprecationWarning",
    # Lightning compares with a class that PyTorch renamed:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21462
    r".*LeafSpec",
    # `hcml` itself gives the words of the shell to LightningCLI.
    r"LightningCLI's args parameter is intended",
    # The folder of a run that is resumed holds that run's checkpoints.
    r"Checkpoint directory .* exists and is not empty",
    # The test writes into another folder than that of the checkpoint that it tests, and needs no best score.
    r"The dirpath has changed from",
    # The metrics count every video once, by its index, however many processes were given it.
    r"Using `DistributedSampler` with the dataloaders",
    # The first process tells of itself, and of all as if they were alike, so that none waits for another.
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
    """Silence the messages above inside the block, and no other."""
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

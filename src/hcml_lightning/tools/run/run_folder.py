"""[run → **its folder**]

Writes what a run keeps next to its checkpoints: config.yaml, curves, and the id of its W&B run.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from hcml_lightning.storage import write_whole
from hcml_lightning.tools.console.launch import lock
from hcml_lightning.tools.run.checkpoints import refuse_used_folder
from hcml_lightning.tools.run.layout import folder_of_run
from hcml_lightning.tools.run.wandb_runs import RUN_ID, note_run, without_run

# Seconds for which a run that was ended may still be writing to its folder.
PATIENCE = 30.0


class RunConfigCallback(SaveConfigCallback):
    """Lock the folder of every run, write one config.yaml into it, and log it with every logger.

    The folder that Lightning would choose is shared by all runs of a W&B logger, so that the second run
    fails because of the first one's config: https://github.com/Lightning-AI/pytorch-lightning/issues/7679.

    Args:
        parser: the parser that read the config.
        config: the config.
        run_id: id of the W&B run, if it was chosen for this run alone: then it is left out of the config.
        kwargs: the remaining arguments of SaveConfigCallback.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Any,
        run_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(parser, config, **{**kwargs, "save_to_log_dir": False})
        self.run_id = run_id
        self._lock: int | None = None

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lock the folder, write the file and log the config; called on rank 0 only.

        Raises:
            ValueError: if another run is writing to the folder.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = run_folder(trainer)
        if folder is not None and stage == "fit":
            waited = self._claim(folder)
            checkpoints = getattr(trainer.checkpoint_callback, "dirpath", None)
            if waited and trainer.ckpt_path is None:
                refuse_used_folder(checkpoints, "wait for that run to end")
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        # Another run of this config must not overwrite or resume this one.
        config["checkpoint"]["dirpath"] = config["ckpt_path"] = None
        if self.run_id is not None:
            config["trainer"]["logger"] = without_run(config["trainer"]["logger"], self.run_id)
        text = yaml.safe_dump(config, sort_keys=False)
        for logger in trainer.loggers:
            # Under one key, so that no name clashes with a parameter of a sweep.
            logger.log_hyperparams({"cli": config})
        if folder is None and trainer.loggers:
            # Lightning will write the checkpoints there.
            folder = _folder_of(trainer.loggers[0], trainer)
        write_whole((folder or Path(trainer.default_root_dir)) / "config.yaml", text.encode())

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Unlock the folder; remove it if the run failed before it began, so that the next run gets its number."""
        self._release()
        for logger in trainer.loggers:
            folder = _folder_of(logger, trainer) if isinstance(logger, CSVLogger) else None
            if folder is not None and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._release()

    def _claim(self, folder: Path) -> bool:
        """Lock the folder of a run, so that no other run mixes its checkpoints and curves with those of this one.

        Returns:
            Whether it had to wait for another run to end.

        Raises:
            ValueError: if another run still holds it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY)
        try:
            return lock(self._lock, folder, PATIENCE, "--checkpoint.dirpath")
        except OSError:
            # Some network drives have no locks.
            return False

    def _release(self) -> None:
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            # Closing it would not do, because processes that were forked meanwhile have it open too.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


class WandbNote(pl.Callback):
    """Save the id of the W&B run in the folder of the run, so that a resumed run continues the same W&B run."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the id, now that the W&B run exists and the folder is known."""
        ids = [x.version for x in trainer.loggers if isinstance(x, WandbLogger)]
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder is not None and ids and ids[0] is not None:
            note_run(folder, ids[0])


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Return the folder of a run: that of its checkpoints or the one above; None if it keeps no checkpoints."""
    checkpoint = trainer.checkpoint_callback
    # With fast_dev_run, a run has no folder of its own and must not write into that of another run.
    tries = getattr(trainer, "fast_dev_run", False)
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is not None and not tries:
        return folder_of_run(Path(checkpoint.dirpath))
    return None


def keep_curves(trainer: pl.Trainer) -> None:
    """Add a CSVLogger to a run with other loggers, so that it also writes metrics.csv into its own folder."""
    if not trainer.loggers or any(isinstance(x, CSVLogger) for x in trainer.loggers):
        return
    first = trainer.loggers[0]
    folder = run_folder(trainer)
    if folder is None and isinstance(first, WandbLogger):
        run_id = str(first.version or os.environ[RUN_ID])
        folder = Path(first.save_dir or trainer.default_root_dir, str(first.name), run_id)
    folder = folder or _folder_of(first, trainer)
    trainer.loggers = [*trainer.loggers, CSVLogger(folder.parent, folder.name)]


def _folder_of(logger: Logger, trainer: pl.Trainer) -> Path:
    version = logger.version
    run = f"version_{version}" if isinstance(version, int) else str(version)
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), run)

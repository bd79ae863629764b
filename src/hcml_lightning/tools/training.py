"""[words of the command line → **LightningCLI** → one stage]

`hcml fit|validate|test`: LightningCLI in subclass mode over our tasks and data, with its traps closed.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, cast

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from hcml_lightning._version import __version__
from hcml_lightning.callbacks import LastCheckpoint
from hcml_lightning.data import VideoDataModule
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tasks.checkpoint import read_checkpoint
from hcml_lightning.tasks.finite import NotFiniteError
from hcml_lightning.tools.configs import order_words, typed_num_classes
from hcml_lightning.tools.noise import quiet
from hcml_lightning.tools.prediction_writer import PredictionWriter
from hcml_lightning.tools.summary import StageSummary

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
    # The whole config goes to the loggers in one piece (RunConfigCallback), so the hyperparameters of
    # task and data, which share names, need not be merged.
    "enable_autolog_hparams": False,
    "enable_model_summary": False,
}


# What Lightning itself finds a checkpoint for when a run is resumed. It only warns where it finds none, so what is
# evaluated must be a file.
RESUME_KEYWORDS = ("last", "hpc")


class RunConfigCallback(SaveConfigCallback):
    """Write one config.yaml into the folder of every run, and give it to every logger.

    The folder that Lightning would choose is shared by all runs of a W&B logger, where the second run
    dies on the first one's config: https://github.com/Lightning-AI/pytorch-lightning/issues/7679.

    Args:
        parser: the parser that read the config.
        config: the config.
        kwargs: the remaining arguments of SaveConfigCallback.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file and tell the loggers, on the first process."""
        text = self.parser.dump(self.config, skip_none=False)
        folders = [Path(trainer.default_root_dir)] if not trainer.loggers else []
        for logger in trainer.loggers:
            # Under one key, which no parameter of a sweep can meet.
            logger.log_hyperparams({"cli": yaml.safe_load(text)})
            save_dir = logger.save_dir or trainer.default_root_dir
            version = logger.version
            run = f"version_{version}" if isinstance(version, int) else str(version)
            folders.append(Path(save_dir, str(logger.name), run))
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is not None:
            folders.append(Path(checkpoint.dirpath).parent)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / ".config.yaml.part"
            partial.write_text(text)
            partial.replace(folder / "config.yaml")


class HcmlParser(LightningArgumentParser):
    """A parser whose errors are the error, without a hundred lines of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        command = getattr(getattr(ex, "subcommand_parser", None), "prog", self.prog)
        command = command.replace(" [options]", "")
        sys.stderr.write(f"{command}: error: {message}\n")
        sys.stderr.write(
            "Options: `hcml fit --help`; those of a class: `hcml fit --model.help ContrastTask`.\n"
        )
        self.exit(2)


class MotionCLI(LightningCLI):
    """LightningCLI over our tasks and data.

    Args:
        args: the command and its options; from the shell if None.
        run: False parses and builds `.model`, `.datamodule` and `.trainer`, and runs nothing.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self._typed_num_classes = None
        if isinstance(args, list):
            command, words = (args[:1], args[1:]) if run else ([], args)
            try:
                self._typed_num_classes = typed_num_classes(words)
                args = [*command, *order_words(words)]
            except (ValueError, FileNotFoundError) as error:
                raise SystemExit(f"hcml {' '.join(command)}: {error}") from error
        super().__init__(
            MotionTask,
            VideoDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            trainer_defaults={**TRAINER_DEFAULTS, "enable_progress_bar": sys.stdout.isatty()},
            seed_everything_default=0,
            parser_kwargs={"version": __version__, "prog": "hcml"},
            parser_class=HcmlParser,
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands but `predict`, which is a tool of ours: it takes paths."""
        commands = LightningCLI.subcommands()
        # No option: a checkpoint that needs more than weights may run code.
        return {name: {*commands[name], "weights_only"} for name in ("fit", "validate", "test")}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load checkpoints as tensors and plain data, whatever the environment says."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoints' options, and take the number of classes from the data."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "epoch_{epoch:03d}",
                # Metric names hold a slash, which would make folders.
                "checkpoint.auto_insert_metric_name": False,
            }
        )
        parser.link_arguments(
            "data.num_classes", "model.init_args.num_classes", apply_on="instantiate"
        )

    def _parse_ckpt_path(self) -> None:
        """Let the command line win over what the checkpoint holds.

        Lightning would replace the settings, and even the class, of the model by those of the
        checkpoint: https://github.com/Lightning-AI/pytorch-lightning/issues/20801.
        """

    def before_instantiate_classes(self) -> None:
        """Refuse what would run and mean something else than was asked for."""
        path = self._get(self.config, "ckpt_path")
        resumes = self.subcommand == "fit" and path in RESUME_KEYWORDS
        if path and not Path(path).is_file() and not resumes:
            raise SystemExit(f"hcml {self.subcommand}: --ckpt_path: there is no file '{path}'")
        source = self._get(self.config, "model.init_args.init_from")
        if self.subcommand == "fit" and source and not path and not Path(source).is_file():
            raise SystemExit(f"hcml fit: --model.init_from: there is no file '{source}'")
        if self.subcommand in ("validate", "test") and not path:
            raise SystemExit(
                f"hcml {self.subcommand}: the weights would be random; name trained ones with "
                "--ckpt_path (--model.init_from is for training)"
            )
        checkpoint = self._get(self.config, "checkpoint")
        # Without validation there is nothing to compare, and the last epoch is kept.
        if checkpoint.monitor is None and self._get(self.config, "trainer.limit_val_batches") != 0:
            module, _, name = self._get(self.config, "model.class_path").rpartition(".")
            checkpoint.monitor, checkpoint.mode = getattr(import_module(module), name).MONITOR

    def instantiate_classes(self) -> None:
        """Build data, task and trainer, and hold a number of classes that was typed to the data's."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what a constructor refuses, a missing folder say, into its own types.
            if error.__cause__ is None:
                raise
            raise SystemExit(f"hcml {self.subcommand}: {error.__cause__}") from error
        typed, found = self._typed_num_classes, self.datamodule.num_classes
        if typed is not None and typed != found:
            raise SystemExit(
                f"hcml {self.subcommand}: --model.num_classes is {typed}, but the data has {found} "
                "classes; leave it out: it is taken from the data"
            )
        path = self._get(self.config, "ckpt_path")
        if path and Path(path).is_file():
            check_checkpoint(Path(path), self.model)

    def after_instantiate_classes(self) -> None:
        """Leave a core to each process that decodes, where the network runs on the rest of them.

        Threads that wait for each other on fewer cores than there are of them are twenty times slower.
        """
        if self.trainer.strategy.root_device.type == "cpu":
            if self.trainer.world_size > 1 and self._get(self.config, "trainer.sync_batchnorm"):
                raise SystemExit(
                    f"hcml {self.subcommand}: PyTorch synchronises batch norm on GPUs only; with several "
                    "processes on CPUs add --trainer.sync_batchnorm false"
                )
            workers = int(self.datamodule.hparams.get("num_workers", 0))
            torch.set_num_threads(max(1, torch.get_num_threads() - workers))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the callbacks that every run has."""
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = cast("list[pl.Callback]", trainer.callbacks)  # type: ignore[attr-defined]
        callbacks.insert(0, StageSummary())
        callbacks.append(PredictionWriter())
        if isinstance(best := trainer.checkpoint_callback, ModelCheckpoint):
            callbacks.append(LastCheckpoint(best.dirpath))
        if trainer.loggers:
            callbacks.append(LearningRateMonitor(logging_interval="step"))
        return trainer


def check_checkpoint(path: Path, task: MotionTask) -> None:
    """Compare the settings that shape a network with those that a checkpoint was written with.

    Raises:
        SystemExit: if they differ, which `load_state_dict` would tell by a thousand keys.
    """
    try:
        checkpoint = read_checkpoint(path, mmap=True)
    except ValueError as error:
        raise SystemExit(f"hcml: {error}") from error
    task_name = checkpoint.get("task", type(task).__name__)
    if task_name != type(task).__name__:
        raise SystemExit(
            f"hcml: {path} was written by {task_name}, and this run is {type(task).__name__}. --ckpt_path resumes or "
            "evaluates the same stage; to start another one from it, use --model.init_from"
        )
    stored = checkpoint.get("hyper_parameters", {})
    for name in ("backbone", "level", "levels", "num_classes"):
        ours, theirs = task.hparams.get(name), stored.get(name)
        if isinstance(theirs, (list, tuple)):
            ours, theirs = list(ours or []), list(theirs)
        if name in stored and name in task.hparams and ours != theirs:
            raise SystemExit(
                f"hcml: {path} was written with {name} {theirs}, and this run has {ours}. --ckpt_path "
                "resumes or evaluates the same stage; to start another one from it, use "
                "--model.init_from"
            )


def train(args: ArgsType = None) -> None:
    """Run `hcml fit|validate|test`.

    Args:
        args: the command and its options, or a dict or Namespace of them; from the shell if None.
    """
    with quiet():
        try:
            MotionCLI(args)
        except (ValueError, FileNotFoundError, NotFiniteError) as error:
            if not _is_our_own(error):
                raise
            command = args[0] if isinstance(args, list) and args else ""
            raise SystemExit(f"hcml {command}: {error}") from error


def _is_our_own(error: BaseException) -> bool:
    """Whether this package raised an error itself, in words for the user, and not a library it called."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    package = Path(__file__).parents[1]
    return frame is not None and package in Path(frame.tb_frame.f_code.co_filename).parents

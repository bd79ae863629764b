"""[words of the command line → **LightningCLI** → one stage]

`hcml fit|validate|test`: LightningCLI in subclass mode over our tasks and data, with its pitfalls avoided.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from jsonargparse.typing import PositiveInt
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import (  # type: ignore[attr-defined]
    MisconfigurationException,
    SIGTERMException,
)

from hcml_lightning._version import __version__
from hcml_lightning.data import VideoDataModule
from hcml_lightning.resume import AtomicCheckpointIO, LastCheckpoint
from hcml_lightning.stop_signals import Stopped
from hcml_lightning.sync_batch_norm import SyncEverywhere
from hcml_lightning.tasks import MotionTask
from hcml_lightning.throughput import GradientNorm, Throughput
from hcml_lightning.tools.console.launch import end_with_parent
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.console.threads import leave_cores_to, threads_given_back
from hcml_lightning.tools.run.checkpoints import check_checkpoint
from hcml_lightning.tools.run.run_folder import RunConfigCallback, WandbNote, keep_curves
from hcml_lightning.tools.run.summary import StageSummary
from hcml_lightning.tools.run.video_result_writer import VideoResultWriter
from hcml_lightning.tools.run.wandb_runs import choose_run, own_run
from hcml_lightning.tools.training.configs import order_words, typed_num_classes
from hcml_lightning.tools.training.parser import HcmlParser
from hcml_lightning.tools.training.settings import (
    check_named,
    check_options,
    choose_checkpoint,
)

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
    # The whole config goes to the loggers in one piece (RunConfigCallback), so the hyperparameters of
    # task and data, which share names, need not be merged.
    "enable_autolog_hparams": False,
    "enable_model_summary": False,
}


class MotionCLI(LightningCLI):
    """LightningCLI over our tasks and data.

    Args:
        args: the command and its options; from the shell if None.
        run: if False, `args` holds options only, and `.model`, `.datamodule` and `.trainer` are built but not run.
    """

    PARSER: type[HcmlParser] = HcmlParser

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self._typed_num_classes = None
        if isinstance(args, list):
            command, words = (args[:1], args[1:]) if run else ([], args)
            words = ["--help" if word == "-h" else word for word in words]
            self._typed_num_classes = typed_num_classes(words)
            args = [*command, *order_words(words)]
        super().__init__(
            MotionTask,
            VideoDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            trainer_defaults={**TRAINER_DEFAULTS, "enable_progress_bar": sys.stdout.isatty()},
            seed_everything_default=0,
            # No abbreviations: one that is unique today may become ambiguous with a new option.
            parser_kwargs={"version": __version__, "prog": "hcml", "allow_abbrev": False},
            parser_class=self.PARSER,
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands without `predict`, which is a tool of this package because it takes paths."""
        commands = LightningCLI.subcommands()
        # Skipping `weights_only` makes it no option: a checkpoint that needs it to be False may run code.
        return {name: {*commands[name], "weights_only"} for name in ("fit", "validate", "test")}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Turn off Lightning's table of the results of an evaluation, which would repeat those of the summary."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "verbose" in self._subcommand_method_arguments[subcommand]:
            parser.set_defaults(verbose=False)
        return parser

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load only tensors and plain data from checkpoints, whatever the environment says; compile steps if asked."""
        kwargs = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if self._get(self.config, "compile"):
            # Not dynamic: one graph is compiled for each shape of a batch, of which there are few.
            kwargs["model"] = torch.compile(self.model, dynamic=False)
        return kwargs

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of checkpoints and compilation, and link the model's number of classes to the data's."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_argument(
            "--save_every_n_steps",
            type=PositiveInt,
            default=1000,
            help="also write last.ckpt every N steps, not only after an epoch, in case the run is interrupted",
        )
        parser.add_argument(
            "--save_every_n_epochs",
            type=PositiveInt,
            default=1,
            help="write last.ckpt every N epochs, and after the last one; useful if epochs take only seconds",
        )
        parser.add_argument(
            "--compile",
            type=bool,
            default=False,
            help="compile training and evaluation steps (torch.compile), which takes minutes at the start",
        )
        parser.set_defaults(
            {
                "checkpoint.filename": "epoch_{epoch:03d}",
                # Metric names contain a slash, which would create folders.
                "checkpoint.auto_insert_metric_name": False,
                # An epoch that is trained again after a crash overwrites its own file.
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments(
            "data.num_classes", "model.init_args.num_classes", apply_on="instantiate"
        )

    def _parse_ckpt_path(self) -> None:
        """Let the command line take precedence over the checkpoint's settings.

        Lightning would replace the settings, and even the class, of the model by those of the
        checkpoint: https://github.com/Lightning-AI/pytorch-lightning/issues/20801.
        """

    def before_instantiate_classes(self) -> None:
        """Raise if the run would not do what was asked for; choose its checkpoint, W&B run and monitored metric."""
        settings = self.config.get(str(self.subcommand), self.config)
        check_named(settings)
        check_options(settings, trains=self.subcommand == "fit")
        path = choose_checkpoint(settings, self.subcommand)
        resumed = Path(path) if path and self.subcommand == "fit" else None
        run_id = choose_run(settings.get("trainer.logger"), resumed)
        self.save_config_kwargs = {**self.save_config_kwargs, "run_id": run_id}
        checkpoint = settings.get("checkpoint")
        # Without validation there is no metric to compare, and the last epoch is kept.
        if checkpoint.monitor is None and settings.get("trainer.limit_val_batches") != 0:
            module, _, name = settings.get("model.class_path").rpartition(".")
            checkpoint.monitor, checkpoint.mode = getattr(import_module(module), name).MONITOR

    def instantiate_classes(self) -> None:
        """Build data, task and trainer; check that the typed number of classes and the checkpoint match them."""
        super().instantiate_classes()
        typed, found = self._typed_num_classes, self.datamodule.num_classes
        if typed is not None and typed != found:
            raise ValueError(
                f"--model.num_classes is {typed}, but the data has {found} classes; omit the option to use "
                "the number in the data"
            )
        path = self._get(self.config, "ckpt_path")
        if path and Path(path).is_file():
            check_checkpoint(
                Path(path), self.model, self.datamodule.class_names, self.subcommand == "fit"
            )

    def after_instantiate_classes(self) -> None:
        """Leave cores to the workers that decode if the network runs on the CPU too."""
        if self.trainer.strategy.root_device.type == "cpu":
            leave_cores_to(int(self.datamodule.hparams.get("num_workers", 0)))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the callbacks and plugins that every run has.

        Raises:
            ValueError: if Lightning refuses an option of the trainer.
        """
        kwargs["plugins"], sync = self._plugins(), SyncEverywhere()
        if self._get(self.config_init, "trainer.sync_batchnorm"):
            kwargs["plugins"].append(sync)
            kwargs["sync_batchnorm"] = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError) as error:
            raise ValueError(f"--trainer: {error}") from error
        sync.on_cpu = trainer.strategy.root_device.type == "cpu"
        callbacks = cast("list[pl.Callback]", trainer.callbacks)  # type: ignore[attr-defined]
        # Before checkpoint callbacks of the user, because the first one determines the folder of the run.
        if (own := self._get(self.config_init, "checkpoint")) in callbacks:
            callbacks.remove(own)
            others = (i for i, c in enumerate(callbacks) if isinstance(c, Checkpoint))
            callbacks.insert(next(others, len(callbacks)), own)
        # The first two come before the summary, whose line for each epoch prints what they measure.
        callbacks[:0] = [Throughput(), GradientNorm(), StageSummary()]
        callbacks.append(VideoResultWriter())
        if isinstance(best := trainer.checkpoint_callback, ModelCheckpoint):
            every = [self._get(self.config, f"save_every_n_{unit}") for unit in ("steps", "epochs")]
            callbacks.append(LastCheckpoint(best.dirpath, *every))
        if trainer.loggers:
            callbacks.append(LearningRateMonitor(logging_interval="step"))
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            callbacks.append(WandbNote())
        keep_curves(trainer)
        return trainer

    def _plugins(self) -> list[Any]:
        given = self._get(self.config_init, "trainer.plugins") or []
        plugins = [*given] if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            # Lightning's own requeueing saves in the middle of a step, and into a folder that all runs share, so that
            # any later run would resume from it. And if one task has several devices, it would use only one of them.
            alone = os.environ["SLURM_NTASKS"] == "1"
            plugins.append(
                LightningEnvironment() if alone else SLURMEnvironment(auto_requeue=False)
            )
        return plugins


def train(args: ArgsType = None) -> None:
    """Run `hcml fit|validate|test`.

    Args:
        args: the command and its options, or a dict or Namespace of them; from the shell if None.

    Raises:
        Stopped: if a signal ended the run.
    """
    if sys.platform == "linux" and os.environ.get("LOCAL_RANK", "0") != "0":
        # Otherwise this process would wait forever for rank 0 after its death, and handle no signals while it waits.
        end_with_parent(signal.SIGKILL)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with quiet(), own_run(), threads_given_back():
            MotionCLI(args)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            # Lightning ends the process with status 1, and leaves it deaf to the next interrupt.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from ended
        raise
    except SIGTERMException as stopped:
        # Lightning would exit with status 0, as if the run were complete.
        raise Stopped(signal.SIGTERM) from stopped

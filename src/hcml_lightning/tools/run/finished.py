"""[folder of a run → **model, data, settings, numbers**]

Reads a finished run of `hcml fit`, `hcml validate`, `hcml test` or `hcml progressive`, for use in notebooks.
"""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import yaml
from pytorch_lightning.cli import instantiate_class

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.run.checkpoints import load_task
from hcml_lightning.tools.run.curves import Curve, by_epoch, files_of, read_points
from hcml_lightning.tools.run.layout import checkpoint_near
from hcml_lightning.tools.stages import rank

RESULTS = ("test.json", "validate.json", "fit.json")


@dataclass(frozen=True)
class Run:
    """A run that has ended; model and data are built when they are first accessed.

    Attributes:
        folder: path of its folder.
        config: all settings, as in its config.yaml: `model`, `data`, `trainer`, ….
        metrics: final metrics, by name.
        checkpoint: the weights at the end of training, or those that were evaluated; None if the file is gone.
        stages: the runs of all stages by name and in order, if `hcml progressive` made them; else empty.
    """

    folder: Path
    # Left out of `repr`, like the stages, because it would fill many screens.
    config: dict[str, Any] = field(repr=False)
    metrics: dict[str, float]
    checkpoint: Path | None
    stages: dict[str, "Run"] = field(repr=False)

    @cached_property
    def model(self) -> MotionTask:
        """The task with its trained weights, on the CPU, in evaluation mode.

        Raises:
            FileNotFoundError: if the checkpoint is gone.
            ValueError: if another release wrote the checkpoint.
        """
        if self.checkpoint is None:
            raise FileNotFoundError(
                f"{self.folder}: the checkpoint of this run is gone; put it back to use the model "
                "(metrics and config can still be read)"
            )
        module, _, name = self.config["model"]["class_path"].rpartition(".")
        task: type[MotionTask] = getattr(import_module(module), name)
        return load_task(task, self.checkpoint).eval()

    @cached_property
    def datamodule(self) -> VideoDataModule:
        """The data with the settings of the run; `setup` is not called yet.

        Raises:
            FileNotFoundError: if the data is not where it was.
        """
        return cast("VideoDataModule", instantiate_class((), self.config["data"]))

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Each metric over the epochs, from all starts of the run; empty if no CSVLogger wrote them."""
        curves = {name: by_epoch(found) for name, found in read_points(self.folder).items()}
        return {name: curve for name, curve in curves.items() if curve.epoch}


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder of a finished run.

    Args:
        folder: folder of `hcml fit` or `hcml test` (`runs/flow/version_0`), or that of `hcml progressive`, for which
            the run of the last stage is returned, with the runs of all stages in `stages`.

    Raises:
        FileNotFoundError: if there is no such folder, or no run has ended in it.

    Example:
        >>> load_run("runs/nowhere")
        Traceback (most recent call last):
        FileNotFoundError: runs/nowhere: there is no such folder; pass the folder of a run
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder; pass the folder of a run")
    if own := _result(path):
        return _one_run(own, {})
    ended = [result for child in path.iterdir() if child.is_dir() and (result := _result(child))]
    # Sorted by stage and not by the times of the files, which a copy does not keep.
    ended.sort(key=lambda result: (rank(result.parent.name), result.parent.name))
    stages = {result.parent.name: _one_run(result, {}) for result in ended}
    if not stages:
        raise FileNotFoundError(
            f"{path}: there is no finished run here; expected {', '.join(RESULTS)}, or folders of stages that each "
            "hold one of these. Pass the folder that `hcml fit` or `hcml test` printed at its end"
        )
    return _one_run(ended[-1], stages)


def _one_run(file: Path, stages: dict[str, Run]) -> Run:
    result, folder = json.loads(file.read_text()), file.parent
    found = files_of(folder, "config.yaml")
    if not found:
        raise FileNotFoundError(
            f"{folder}: config.yaml, which every run writes, is missing; put it back"
        )
    config = yaml.safe_load(found[0].read_text())
    noted = Path(result["checkpoint"] or "last.ckpt")
    return Run(folder, config, result["metrics"], checkpoint_near(folder, noted), stages)


def _result(folder: Path) -> Path | None:
    return next((folder / name for name in RESULTS if (folder / name).is_file()), None)

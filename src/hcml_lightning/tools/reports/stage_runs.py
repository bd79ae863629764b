"""[folder of a run → **what it holds** → report]

Reads what a run leaves behind, whichever command made it and whether or not it has ended: no model is built and no
video is opened.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hcml_lightning.tools.run.curves import by_step, comparable_points, read_points
from hcml_lightning.tools.run.video_results import FILE_NAME, VideoResult, read_predictions
from hcml_lightning.tools.stages import rank

COMMANDS = ("fit", "validate", "test")
# Files that mark the folder of a stage, in the order in which a run writes them.
MARKS = ("settings.json", "config.yaml", "metrics.csv", *(f"{name}.json" for name in COMMANDS))
# Depth to which stages are searched for: a demo holds runs, which hold stages.
DEEPEST = 3


@dataclass
class StageRun:
    """One stage as read from its folder.

    Attributes:
        name: name of the folder.
        group: folders between the run and this one, "" if there are none.
        folder: path of the folder.
        records: content of `fit.json`, `validate.json` and `test.json`, as far as they exist, by command.
        seconds: wall time, over all starts if `hcml progressive` ran the stage; None before the first record.
        curves: epochs and values of each metric, those of `comparable` included.
        config: text of `config.yaml`, "" if there is none.
        videos: predictions of the test.
    """

    name: str
    group: str
    folder: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float | None = None
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    config: str = ""
    videos: list[VideoResult] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The config as a mapping."""
        return yaml.safe_load(self.config) or {}

    @property
    def task(self) -> str:
        """Class name of the task that was trained or tested."""
        for record in self.records.values():
            return str(record["task"])
        return str((self.settings.get("model") or {}).get("class_path", "")).rpartition(".")[2]

    @property
    def logger(self) -> str:
        """Class names of its loggers."""
        logger = (self.settings.get("trainer") or {}).get("logger")
        loggers = logger if isinstance(logger, list) else [logger]
        names = [
            str(one["class_path"]).rpartition(".")[2] for one in loggers if isinstance(one, dict)
        ]
        return " and ".join(names) or "no logger"

    @property
    def checkpoint(self) -> Path | None:
        """Checkpoint after the last epoch, None if there is none."""
        places = (self.folder / name for name in ("checkpoints/last.ckpt", "last.ckpt"))
        return next((path for path in places if path.is_file()), None)

    @property
    def metrics(self) -> dict[str, float]:
        """Latest metrics of all its records."""
        return {k: v for record in self.records.values() for k, v in record["metrics"].items()}


def read_run(folder: Path) -> list[StageRun]:
    """Read all stages below a folder, in the order in which they run.

    Args:
        folder: of `hcml progressive`, of `hcml demo`, or of a single run of `hcml fit` or `hcml test`.

    Raises:
        FileNotFoundError: if there is no such folder, or no run in it.
        ValueError: if a file of the run cannot be read.
    """
    if not folder.is_dir():
        wrong = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(
            f"RUN: '{folder}' {wrong}; pass the folder of a run, or a checkpoint (.ckpt) in it"
        )
    found = _stage_folders(folder, DEEPEST)
    if not found:
        raise FileNotFoundError(
            f"{folder} does not hold a run; expected a folder with {', '.join(MARKS)}, or one that holds such folders, "
            "as `hcml progressive`, `hcml demo`, `hcml fit` and `hcml test` write them"
        )
    stages = [_read_stage(path, folder) for path in found]
    return sorted(stages, key=lambda s: (s.group, rank(s.name), s.name))


def read_runs(folders: Sequence[Path]) -> list[StageRun]:
    """Read the stages of several runs; the group of each stage is prefixed with the folder of its run.

    Args:
        folders: folders as for `read_run`; if there is only one, the groups are not prefixed.

    Raises:
        FileNotFoundError: as `read_run`.
        ValueError: as `read_run`.
    """
    if len(folders) == 1:
        return read_run(folders[0])
    return [
        # The folder of a single run already has the name of its stage.
        replace(
            stage,
            group=(folder.parent if stage.folder == folder else folder / stage.group).as_posix(),
        )
        for folder in folders
        for stage in read_run(folder)
    ]


def _stage_folders(folder: Path, depth: int) -> list[Path]:
    if any((folder / mark).is_file() for mark in MARKS):
        return [folder]
    if depth == 0:
        return []
    # The folder "wandb" is skipped, because W&B keeps copies of configs in it.
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "wandb")
    return [found for path in below for found in _stage_folders(path, depth - 1)]


def _read_stage(folder: Path, run: Path) -> StageRun:
    group = "" if folder == run else folder.parent.relative_to(run).as_posix()
    stage = StageRun(folder.resolve().name, "" if group == "." else group, folder)
    for command in COMMANDS:
        if (folder / f"{command}.json").is_file():
            stage.records[command] = _read_json(
                folder / f"{command}.json", "task", "seconds", "metrics"
            )
    if (folder / "done.json").is_file():
        stage.seconds = float(_read_json(folder / "done.json", "seconds")["seconds"])
    elif stage.records:
        stage.seconds = sum(float(record["seconds"]) for record in stage.records.values())
    if (folder / "config.yaml").is_file():
        stage.config = (folder / "config.yaml").read_text(encoding="utf-8")
    if (folder / FILE_NAME).is_file():
        stage.videos = read_predictions(folder / FILE_NAME)
    stage.curves = by_step(comparable_points(read_points(folder)))
    return stage


def _read_json(path: Path, *needed: str) -> dict[str, Any]:
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); delete it and run the stage again"
        ) from error
    if missing := [name for name in needed if name not in content]:
        raise ValueError(
            f"{path} cannot be read: it has no '{missing[0]}', so no stage of this package wrote it; remove it"
        )
    return content

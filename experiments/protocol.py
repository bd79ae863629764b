"""[settings → **runs of the command line** → rows of csv]

What all experiments share: the folders of runs, the start of a chain of stages (with the code of `hcml progressive`),
and the tables of results. An interrupted run is resumed, and a run that is in the tables is skipped.
"""

import csv
import datetime
import fcntl
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from hcml_lightning.storage import whole
from hcml_lightning.tools.console.launch import launch_with, locked
from hcml_lightning.tools.console.provenance import commit
from hcml_lightning.tools.recipe.done import Done
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.recipe.stage_folder import Launch
from hcml_lightning.tools.stages import TRAINING
from hcml_lightning.tools.training.configs import inline

FOLDER = Path(__file__).parent
ACCURACY = (
    *("experiment", "dataset", "split", "method", "backbone", "seed"),
    *("top1", "top5", "train_top1", "epochs", "device", "wall_s", "commit", "date"),
    *("protocol", "machine", "versions"),
)
QUANTITY = (
    *("experiment", "dataset", "split", "method", "backbone", "seed", "quantity", "value"),
    *("device", "commit", "date", "protocol", "machine", "versions"),
)
KEY = ("experiment", "dataset", "split", "method", "backbone", "seed", "protocol")


@dataclass(frozen=True)
class Protocol:
    """The settings that experiments run with, and their folders.

    Attributes:
        name: name of the file in experiments/configs, `cpu` or `gpu`.
        data: folder that holds the datasets, each in the layout of UCF-101.
        runs: folder for runs.
        results: folder for csv files and figures.
        backbone: backbone of all methods.
        extras: more command-line words for every stage.
        launch: function that runs a stage, for example in this process; None starts a process for each stage.
    """

    name: str
    data: Path
    runs: Path = FOLDER / "runs"
    results: Path = FOLDER
    backbone: str = "r2d_tiny"
    extras: tuple[str, ...] = ()
    launch: Launch | None = None

    @property
    def config(self) -> str:
        """Path of the recipe."""
        return str(FOLDER / "configs" / f"{self.name}.yaml")

    def root(self, dataset: str) -> Path:
        """Return the folder of a dataset: one that an experiment made, else the given one."""
        made = self.runs / "data" / dataset
        return made if made.is_dir() else self.data / dataset

    def epochs(self, stages: Sequence[str], options: Sequence[str] = ()) -> int:
        """Return how many epochs some training stages have together; options as in `run`."""
        plan = Plan.from_words(["-c", self.config, *self.extras, *options])
        return sum(plan.settings(TRAINING[name])["trainer.max_epochs"] for name in stages)

    def run(
        self,
        name: str,
        dataset: str,
        split: int,
        seed: int,
        stages: Sequence[str],
        options: Sequence[str] = (),
    ) -> list[Done]:
        """Run stages one after the other, skipping those that are done.

        Args:
            name: name of the folder, below the folder of the dataset, split and seed.
            dataset: name of the dataset's folder.
            split: fold.
            seed: seed of weights, order and crops.
            stages: names of stages, as in `hcml progressive --stages`.
            options: more options, as for `hcml progressive`.

        Returns:
            The result of each stage.
        """
        settings = {
            "seed_everything": seed,
            "data": {"init_args": {"root": str(self.root(dataset)), "fold": split, "seed": seed}},
            "model": {"init_args": {"backbone": self.backbone}},
        }
        words = ["-c", self.config, "-c", inline(settings), *self.extras, *options]
        folder = self.runs / self.name / self.backbone / f"{dataset}_{split}" / f"seed{seed}" / name
        with locked(folder) as lock:
            return run_plan(
                Plan.from_words(words), stages, folder, self.launch or launch_with(lock)
            )


def accuracy_row(
    protocol: Protocol,
    experiment: str,
    dataset: str,
    split: int,
    method: str,
    seed: int,
    runs: Sequence[Done],
) -> dict[str, object]:
    """Return the row of results.csv for a run whose last two stages are a training and a test."""
    training, test = runs[-2], runs[-1]
    return {
        "experiment": experiment,
        "dataset": dataset,
        "split": split,
        "method": method,
        "backbone": protocol.backbone,
        "seed": seed,
        "top1": f"{100 * test.metrics['test/top1']:.2f}",
        "top5": f"{100 * test.metrics['test/top5']:.2f}",
        "train_top1": f"{100 * training.metrics['train/top1']:.2f}",
        "epochs": training.epochs,
        "wall_s": round(sum(run.seconds for run in runs)),
        **circumstances(protocol),
    }


def circumstances(protocol: Protocol) -> dict[str, object]:
    """Return what is recorded about the machine, versions and date of a measurement."""
    names = ("torch", "pytorch-lightning", "av")
    # A copy without git history, for example on a borrowed machine, takes its commit from the environment.
    head = os.environ.get("COMMIT") or commit("src", "experiments/configs") or "unknown"
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": head,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "protocol": protocol.name,
        "machine": _machine(),
        "versions": " ".join(f"{name}={version(name)}" for name in names),
    }


def is_done(path: Path, key: Mapping[str, object]) -> bool:
    """Return whether a table has a row with these values."""
    wanted = {name: str(value) for name, value in key.items()}
    return any(wanted.items() <= row.items() for row in read_rows(path))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none if the table does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a table, replacing those with the same key; the file is replaced in one step."""
    key = [name for name in (*KEY, "quantity") if name in columns]
    with exclusive(path):
        table = {tuple(row[name] for name in key): row for row in read_rows(path)}
        for row in rows:
            text = {name: str(row[name]) for name in columns}
            table[tuple(text[name] for name in key)] = text
        with whole(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.values())


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Lock a file or folder for writing; other commands that would write it wait.

    Args:
        path: what will be written; it need not exist yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"

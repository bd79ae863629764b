"""[settings → **runs of the command line** → rows of csv]

What all experiments share: where runs lie, how a chain of stages is started, by what `hcml progressive` does, and the
tables that hold what came of it. A run that was cut off goes on, and one that is in the tables is left alone.
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
from hcml_lightning.tools.configs import inline
from hcml_lightning.tools.done import Done
from hcml_lightning.tools.launch import launch_with, locked
from hcml_lightning.tools.plan import Plan
from hcml_lightning.tools.progressive import run_plan
from hcml_lightning.tools.provenance import commit
from hcml_lightning.tools.stage_folder import Launch

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
    """How and where experiments run.

    Attributes:
        name: of the file in experiments/configs, `cpu` or `gpu`.
        data: folder that holds the datasets, each in the layout of UCF-101.
        runs: folder for runs.
        results: folder for csv files and figures.
        backbone: of all methods.
        extras: further words for every stage.
        launch: runs the command line in this process; None starts a process for each stage.
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
        """Folder of a dataset: a given one, or one that an experiment made."""
        made = self.runs / "data" / dataset
        return made if made.is_dir() else self.data / dataset

    def run(
        self,
        name: str,
        dataset: str,
        split: int,
        seed: int,
        stages: Sequence[str],
        options: Sequence[str] = (),
    ) -> list[Done]:
        """Run stages one after the other, or what of them is not done yet.

        Args:
            name: of the folder, below that of dataset, split and seed.
            dataset: name of its folder.
            split: fold.
            seed: of weights, order and crops.
            stages: as in `hcml progressive --stages`.
            options: further options, as of `hcml progressive`.

        Returns:
            What each stage came to.
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
    """One row of results.csv out of a run that ends in a test."""
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
    """Where and when something was measured."""
    names = ("torch", "pytorch-lightning", "av")
    # A copy without its history, on a machine that is lent, say, can be told.
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
    """Whether a table has a row with these values."""
    wanted = {name: str(value) for name, value in key.items()}
    return any(wanted.items() <= row.items() for row in read_rows(path))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Put rows into a table, in place of those with the same key; the file is written in one step."""
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
    """Hold a file or folder against other commands that would write it; they wait.

    Args:
        path: what is to be written, there already or not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"

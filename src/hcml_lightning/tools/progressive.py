"""[plan → stage → checkpoint → next stage → **test number**]

`hcml progressive`: all stages in order, each from the checkpoint of the one before. A run that was
cut off, whatever by, goes on from its last checkpoint when it is started again.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hcml_lightning.storage import newest_whole
from hcml_lightning.tools.configs import CONFIGS
from hcml_lightning.tools.launch import PASSED_ON, launch_with, locked
from hcml_lightning.tools.output import format_metrics, print_table, write_json
from hcml_lightning.tools.plan import NAMES, PAPER, TRAINING, Plan, Stage
from hcml_lightning.tools.wandb_runs import group_words

# Runs the command line with these words, and returns its exit status.
Launch = Callable[[list[str]], int]


class Done(NamedTuple):
    """A stage that has ended, as `done.json` in its folder holds it.

    Attributes:
        stage: name.
        checkpoint: weights after its last epoch; those that were tested, for the test.
        checkpoint_sha256: of that file.
        epochs: how many it trained.
        seconds: wall time, over all starts.
        metrics: numbers of its last epoch.
        settings: what its result depends on.
    """

    stage: str
    checkpoint: str
    checkpoint_sha256: str
    epochs: int
    seconds: float
    metrics: dict[str, float]
    settings: dict[str, Any]


class StageError(RuntimeError):
    """A stage that did not end well, or that cannot go on.

    Args:
        message: what happened, and what to do.
        status: exit status of the command.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def run_plan(plan: Plan, names: Sequence[str], run_dir: Path, launch: Launch) -> list[Done]:
    """Run stages in order, or what of them is not done yet.

    Args:
        plan: their settings.
        names: which stages.
        run_dir: folder that gets one folder for each stage.
        launch: runs a command of this package.

    Returns:
        One record for each stage.

    Raises:
        StageError: if a stage fails, or was run with other settings.
    """
    records: list[Done] = []
    recipe: Stage | None = None
    for name in names:
        if name != "test":
            recipe = TRAINING[name]
        if recipe is None:
            raise StageError("test: there is no stage before it whose weights could be tested")
        previous = records[-1] if records else None
        records.append(_Run(plan, name, recipe, previous, run_dir / name).finish(launch))
    return records


class _Run:
    """One stage in its folder.

    Args:
        plan: settings of all stages.
        name: of the stage.
        recipe: the stage, or for the test the one whose weights are tested.
        previous: the stage before.
        folder: of this stage.
    """

    def __init__(
        self, plan: Plan, name: str, recipe: Stage, previous: Done | None, folder: Path
    ) -> None:
        stage = recipe
        if name == "test":
            stage = Stage("test", recipe.config, recipe.sections)
        self.name, self.folder, self.previous = name, folder, previous
        self.words = plan.words(stage)
        self.settings = json.loads(json.dumps(plan.settings(stage)))
        self.last = folder / "checkpoints" / "last.ckpt"
        if previous is not None:
            self.settings["from"] = f"{previous.stage} {previous.checkpoint_sha256[:12]}"

    def finish(self, launch: Launch) -> Done:
        """Do what is still to be done."""
        self._check_settings()
        done = self.folder / "done.json"
        if done.is_file():
            record = Done(**json.loads(done.read_text()))
            print(f"{self.name}: done before ({record.seconds:.0f} s)", flush=True)
            return record
        command = "test" if self.name == "test" else "fit"
        result = self.folder / f"{command}.json"
        if not result.is_file():
            self._note_start()
            status = launch([command, *self.words, *self._own_words()])
            if status != 0 or not result.is_file():
                raise self._unfinished(status)
        record = self._record(json.loads(result.read_text()))
        write_json(done, record._asdict())
        return record

    def _own_words(self) -> list[str]:
        """Say where this stage writes, and where its weights come from."""
        words = [f"--checkpoint.dirpath={self.last.parent}"]
        logger = self.settings.get("trainer.logger", True)
        if isinstance(logger, str) or logger is True:
            words.append(f"--trainer.logger.init_args.save_dir={self.folder.parent}")
            words.append(f"--trainer.logger.init_args.name={self.name}")
            words += group_words(self.settings, self.folder.parent)
        if self.name == "test":
            words.append(f"--ckpt_path={self.previous.checkpoint if self.previous else ''}")
        elif (state := newest_whole(self.last, self._tell)) is not None:
            self._tell(f"goes on from {state}")
            words.append(f"--ckpt_path={state}")
        elif self.previous is not None:
            words.append(f"--model.init_from={self.previous.checkpoint}")
        return words

    def _tell(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)

    def _unfinished(self, status: int) -> StageError:
        """Say how a stage ended, and how it goes on."""
        if status - 128 in PASSED_ON:
            how = f"was told to end ({signal.Signals(status - 128).name})."
        elif status < 0:
            how = f"was killed ({signal.Signals(-status).name}), by someone or by a system that ran out of memory."
        else:
            how = f"did not end (exit status {status}); what it said is above."
        state = newest_whole(self.last, self._tell) or "its start"
        return StageError(
            f"stage '{self.name}' {how} Started again, it goes on from {state}",
            status if status - 128 in PASSED_ON else 1,
        )

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        if not path.is_file():
            return
        before = json.loads(path.read_text())["settings"]
        changed = sorted(
            name
            for name in before.keys() | self.settings.keys()
            if before.get(name) != self.settings.get(name)
        )
        if changed:
            changes = "; ".join(
                f"{name}: {before.get(name)} -> {self.settings.get(name)}" for name in changed
            )
            raise StageError(
                f"stage '{self.name}' in {self.folder} was run with other settings ({changes}). Give the old "
                "ones again, name another --run_dir, or delete the folder of this stage and of those after it"
            )

    def _note_start(self) -> None:
        path = self.folder / "settings.json"
        spent = 0.0
        if path.is_file() and self.last.is_file():
            # A start that was cut off counts up to its last checkpoint.
            before = json.loads(path.read_text())
            spent = before["spent"] + max(0.0, self.last.stat().st_mtime - before["started"])
        record = {"settings": self.settings, "started": time.time(), "spent": spent}
        write_json(path, record)

    def _record(self, result: dict[str, Any]) -> Done:
        times = json.loads((self.folder / "settings.json").read_text())
        ended = (self.folder / f"{'test' if self.name == 'test' else 'fit'}.json").stat().st_mtime
        checkpoint = Path(str(result["checkpoint"]))
        return Done(
            stage=self.name,
            checkpoint=str(checkpoint),
            checkpoint_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            epochs=0 if self.name == "test" else int(result["epochs"]),
            seconds=round(times["spent"] + ended - times["started"], 1),
            metrics=result["metrics"],
            settings=self.settings,
        )


def stage_rows(records: Sequence[Done]) -> list[list[str]]:
    """Return a table of stages: name, epochs, wall time, numbers."""
    rows = [["stage", "epochs", "seconds", "last epoch"]]
    for record in records:
        shown = {
            name: value
            for name, value in record.metrics.items()
            if name.startswith(("val/", "test/"))
            and not name.endswith(("/loss", "flow_magnitude", "smoothness", "chance"))
        }
        epochs = str(record.epochs) if record.epochs else ""
        rows.append([record.stage, epochs, f"{record.seconds:.0f}", format_metrics(shown)])
    return rows


def make_parser() -> argparse.ArgumentParser:
    """Say which words `hcml progressive` takes."""
    parser = argparse.ArgumentParser(
        prog="hcml progressive",
        usage="hcml progressive --run_dir DIR -c configs/data/DATA.yaml [-c EXTRA.yaml] [options of hcml fit]",
        description="Run all stages and the test, each stage from the checkpoint of the one before. Started again, "
        "it skips what is done and goes on from the last checkpoint of what was cut off.",
        epilog="Options and configs hold for all stages. An option whose first part is the name of a stage, and what "
        "stands under that name in a config, holds for this stage alone: --flow.trainer.max_epochs 10. "
        f"Recipes lie in {CONFIGS.resolve()}.",
        allow_abbrev=False,
    )
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--stages",
        default=",".join(PAPER),
        help=f"which, with commas between them, of {', '.join(NAMES)} (default: %(default)s)",
    )
    return parser


def _check_one_task() -> None:
    # A batch script has a number among the tasks too.
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks != "1" and "SLURM_PROCID" in os.environ:
        raise ValueError(
            f"SLURM was asked for {tasks} tasks, but `hcml progressive` starts the processes of one node by itself: "
            "ask for one task (--nodes=1 --ntasks=1) with all GPUs, or, for more nodes, start the stages one by one "
            "with `srun hcml fit`, as docs/distributed.md shows"
        )


def main(words: Sequence[str]) -> int:
    """Run `hcml progressive`.

    Args:
        words: what stands after `hcml progressive`.

    Returns:
        0.

    Raises:
        StageError: with the stage and the reason, if one does not end.
        ValueError: if SLURM started more than one of it.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(words)
    names = options.stages.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"--stages: no stage {unknown[0]!r}; there are {', '.join(NAMES)}")
    plan = Plan.from_words(rest)
    _check_one_task()
    plan.check(names)
    try:
        with locked(options.run_dir) as lock:
            records = run_plan(plan, names, options.run_dir, launch_with(lock))
    except StageError as error:
        if error.status == 1:
            raise
        # Whoever told it to end sees in the status that it did.
        print(f"hcml progressive: {error}", file=sys.stderr)
        raise SystemExit(error.status) from error
    print_table(stage_rows(records))
    if names[-1] == "test":
        print(f"\ntest: {format_metrics(records[-1].metrics)}   ({options.run_dir}/test/test.json)")
    return 0

"""[plan → stage → checkpoint → next stage → **test number**]

`hcml progressive`: runs all stages in order, each from the checkpoint of the one before. A run that was
interrupted, for whatever reason, resumes from its last checkpoint when it is started again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from hcml_lightning.scores import scores
from hcml_lightning.stop_signals import Stopped
from hcml_lightning.tools.console.launch import launch_with, locked
from hcml_lightning.tools.console.output import print_table
from hcml_lightning.tools.recipe.done import Done, done_before
from hcml_lightning.tools.recipe.plan import INIT_FROM, Plan
from hcml_lightning.tools.recipe.stage_folder import Launch, StageError, StageFolder
from hcml_lightning.tools.stages import PAPER, STAGE_NAMES, TRAINING, Stage
from hcml_lightning.tools.training.configs import CONFIGS


def run_plan(plan: Plan, names: Sequence[str], run_dir: Path, launch: Launch) -> list[Done]:
    """Run stages in order, and skip those that are done already.

    A stage of the paper starts from the last of the paper's stages before it: one of `names`, or else one that is done
    in the folder. The probe and the test evaluate the stage before them in `names`, or else the last stage of the paper
    that is done in the folder. A stage with `from_scratch` starts from random weights. Weights that a stage's own
    options name take precedence.

    Args:
        plan: settings of the stages.
        names: names of the stages, in the order in which they run.
        run_dir: folder of the run, in which each stage gets its own folder.
        launch: runs a command of this package.

    Returns:
        One record for each stage.

    Raises:
        StageError: if a stage fails, was run with other settings, or needs the weights of a stage that was not run.
    """
    _check_test(names, run_dir)
    records: list[Done] = []
    recipe: Stage | None = None
    for name in names:
        if name != "test":
            recipe = TRAINING[name]
            previous = _source(plan, recipe, records, run_dir)
        else:
            previous = records[-1] if records else _done(PAPER, run_dir, name)
            if previous is None:
                raise StageError(
                    "test: there is no stage before it to test; add one, as in --stages baseline,test (a finished "
                    "stage is not trained again)"
                )
            recipe = recipe or TRAINING[previous.stage]
        records.append(StageFolder(plan, name, recipe, previous, run_dir / name).finish(launch))
    return records


def _check_test(names: Sequence[str], run_dir: Path) -> None:
    """Raise, before anything is trained, if the folder of the test already holds the test of another stage."""
    trained = [name for name in names if name != "test"]
    before = done_before(run_dir / "test")
    if "test" not in names or not trained or before is None:
        return
    tested = str(before.settings.get("from", "")).partition(" ")[0]
    if tested and tested != trained[-1]:
        own = run_dir / trained[-1]
        raise StageError(
            f"{run_dir / 'test'} is the test of '{tested}', and a run has only one; leave test out of --stages and "
            f"test '{trained[-1]}' with "
            f"hcml test -c {quote(str(own / 'config.yaml'))} --ckpt_path "
            f"{quote(str(own / 'checkpoints/last.ckpt'))}, "
            "or choose another --run_dir"
        )


def _source(plan: Plan, stage: Stage, records: Sequence[Done], run_dir: Path) -> Done | None:
    """Return the record of the stage whose weights `stage` starts from, None if it starts from no other stage."""
    if stage.from_scratch or plan.names_weights(stage):
        return None
    judges = stage.name not in PAPER
    below = PAPER if judges else PAPER[: PAPER.index(stage.name)]
    if own := [record for record in records if judges or record.stage in below]:
        return own[-1]
    if plan.settings(stage).get(INIT_FROM) is not None:
        return None
    found = _done(below, run_dir, stage.name)
    if judges and found is None:
        raise StageError(
            f"{stage.name}: there is no stage before it to evaluate; add one, as in --stages flow,{stage.name}, or "
            f"set --{stage.name}.model.init_from"
        )
    return found


def _done(names: Sequence[str], run_dir: Path, wanted_by: str) -> Done | None:
    """Return the record of the last of some stages that is done in the folder of the run, None if none is."""
    for name in reversed(names):
        if name in TRAINING and (record := done_before(run_dir / name)) is not None:
            print(f"{wanted_by}: starts from {name}, which is already done", flush=True)
            return record
    return None


def stage_rows(records: Sequence[Done]) -> list[list[str]]:
    """Return a table of stages, with one row for each metric that a stage is judged by."""
    rows = [["stage", "epochs", "time with start-up", "metric", "value", "to beat"]]
    for record in records:
        first = [record.stage, str(record.epochs or ""), f"{record.seconds:.0f} s"]
        cells = [
            [score.name, f"{score.value:.4g}", score.reference] for score in scores(record.metrics)
        ]
        for i, cell in enumerate(cells or [["", "", ""]]):
            rows.append([*(["", "", ""] if i else first), *cell])
    return rows


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml progressive`."""
    parser = argparse.ArgumentParser(
        prog="hcml progressive",
        usage="hcml progressive --run_dir DIR -c configs/data/DATA.yaml [-c EXTRA.yaml] [options of hcml fit]",
        description="Run all stages and the test, each stage from the checkpoint of the one before. Run the same "
        "command again to skip what is done and to resume what was interrupted from its last checkpoint.",
        epilog="Options and configs apply to all stages. An option that begins with the name of a stage, and anything "
        "under that name in a config, apply only to that stage and its test: --flow.trainer.max_epochs 10. "
        f"Configs are in {CONFIGS.resolve()}.",
        allow_abbrev=False,
    )
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--stages",
        default=",".join(PAPER),
        help=f"stages to run, separated by commas, from {', '.join(STAGE_NAMES)} (default: %(default)s)",
    )
    return parser


def _check_one_task() -> None:
    # SLURM sets SLURM_PROCID in batch scripts too, and not only in the tasks of `srun`.
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks != "1" and "SLURM_PROCID" in os.environ:
        raise ValueError(
            f"SLURM was asked for {tasks} tasks, but `hcml progressive` itself starts the processes of one node; "
            "request one task (--nodes=1 --ntasks=1) with all GPUs, or, for more nodes, run the stages one by one "
            "with `srun hcml fit`, as in docs/distributed.md"
        )


def main(words: Sequence[str]) -> int:
    """Run all stages and the test, each from the checkpoint of the stage before.

    Raises:
        StageError: if a stage fails; the message names the stage and the reason.
        Stopped: if a signal ended a stage; its exit status is that of `status_of`, usually 128 + signal.
        ValueError: if SLURM was asked for more than one task.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(words)
    names = options.stages.split(",")
    if unknown := [name for name in names if name not in STAGE_NAMES]:
        parser.error(
            f"--stages: unknown stage {unknown[0]!r}; choose from {', '.join(STAGE_NAMES)}"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(
            f"--stages: '{twice[0]}' appears twice, but has only one folder in a run; use another --run_dir for the "
            "second"
        )
    of_paper = [PAPER.index(name) for name in names if name in PAPER[:-1]]
    if of_paper != sorted(of_paper):
        parser.error(
            f"--stages: each stage starts from the one before; use the order {', '.join(PAPER)}"
        )
    plan = Plan.from_words(rest)
    _check_one_task()
    plan.check(names)
    try:
        with locked(options.run_dir) as lock:
            records = run_plan(plan, names, options.run_dir, launch_with(lock))
    except StageError as error:
        if error.status == 1:
            raise
        # The exit status tells whoever sent the signal that the run ended because of it.
        print(f"hcml progressive: {error}", file=sys.stderr)
        raise Stopped(error.status - 128) from error
    print_table(stage_rows(records))
    print(
        f"\nall metrics: fit.json and test.json in the folders in {options.run_dir}; with curves: hcml report "
        f"{options.run_dir}"
    )
    return 0

"""[synthetic videos → the full method, and two runs without parts of it → **one table, pictures**]

`hcml demo`: shows what motion learning gains, in minutes on a CPU.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hcml_lightning.tools.console.launch import launch_with, locked
from hcml_lightning.tools.console.output import HelpFormatter, print_table, write_json
from hcml_lightning.tools.recipe.done import Done
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.recipe.stage_folder import Launch, StageError
from hcml_lightning.tools.stages import PAPER
from hcml_lightning.tools.training.configs import inline, read_config

RUNS = {
    "plain": ("plain R2D baseline", ("baseline", "test")),
    "motion_only": ("motion blocks, labels only", ("motion_only", "test")),
    "full": ("the full method", PAPER),
}


def run_demo(
    run_dir: Path, recipe: dict[str, Any], options: Sequence[str], launch: Launch
) -> dict[str, list[Done]]:
    """Write the corpus and run the stages of all three runs, skipping what is already done.

    Args:
        run_dir: folder of the demo.
        recipe: `synthesize` and the settings of the stages, as in configs/demo.yaml.
        options: further options for the stages.
        launch: runs a command of this package.

    Returns:
        The records of the finished stages of each run.

    Raises:
        StageError: if a stage fails, or the folder holds a corpus of another recipe.
    """
    settings = dict(recipe)
    videos = _corpus(run_dir, settings.pop("synthesize", {}))
    data = inline({"data": {"init_args": {"root": str(videos)}}})
    own = Plan.from_words(options)
    plan = Plan((inline(settings), data, *own.configs), own.options)
    return {
        name: run_plan(plan, stages, run_dir / name, launch) for name, (_, stages) in RUNS.items()
    }


def results(runs: dict[str, list[Done]]) -> dict[str, Any]:
    """Return the numbers of the demo: top-1 and seconds of each run, end-point errors of the flow."""
    from hcml_lightning.data.synthetic import CLASSES

    flow = next(record for record in runs["full"] if record.stage == "flow")
    return {
        "top1": {name: records[-1].metrics["test/top1"] for name, records in runs.items()},
        "seconds": {name: sum(r.seconds for r in records) for name, records in runs.items()},
        "chance": 1 / len(CLASSES),
        "epe": flow.metrics["val/epe"],
        "epe_zero": flow.metrics["val/epe_zero"],
    }


def print_results(numbers: dict[str, Any]) -> None:
    """Print the table of the demo."""
    rows = [["", "top-1", "wall time"]]
    for name, (title, _) in RUNS.items():
        minutes, seconds = divmod(round(numbers["seconds"][name]), 60)
        rows.append([title, f"{100 * numbers['top1'][name]:5.1f} %", f"{minutes}:{seconds:02d}"])
    rows.append(["chance", f"{100 * numbers['chance']:5.1f} %", ""])
    print()
    print_table(rows)
    print(
        f"\nend-point error of the flow {numbers['epe']:.3f}, of zero flow {numbers['epe_zero']:.3f} "
        "(in cells of the coarse grid)"
    )


def _corpus(run_dir: Path, corpus: dict[str, int]) -> Path:
    # Imported here, so that `hcml demo --help` does not wait for PyTorch.
    from hcml_lightning.data.synthetic import write_synthetic

    videos = run_dir / "videos"
    note = videos / "recipe.json"
    if not note.is_file():
        print(f"writing videos of moving shapes to {videos}", flush=True)
        write_synthetic(videos, layout="ucf101", **corpus)
        write_json(note, corpus)
    before = read_config(note)
    if before != corpus:
        raise StageError(
            f"{videos} was written with {before}, but the recipe asks for {corpus}; delete {run_dir} or choose "
            "another --run_dir"
        )
    return videos


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml demo`."""
    parser = argparse.ArgumentParser(
        prog="hcml demo",
        usage="hcml demo [--run_dir DIR] [--recipe YAML] [options of hcml fit]",
        description="Write synthetic videos, and train a plain baseline, motion blocks without self-supervision, and "
        "the full method on them. After an interruption, run the same command again to resume.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run_dir", type=Path, default=Path("runs/demo"), help="folder to write to"
    )
    parser.add_argument("--recipe", default="demo.yaml", help="config of the videos and stages")
    return parser


def main(words: Sequence[str]) -> int:
    """Train with and without motion learning on synthetic videos, and print and draw the results.

    Raises:
        SystemExit: with a message, if a package that the pictures need is not installed.
        StageError: if a stage fails, or the folder holds a corpus of another recipe.
    """
    options, rest = make_parser().parse_known_args(words)
    try:
        from hcml_lightning.tools.demo_pictures import draw_curves, draw_flow
    except ModuleNotFoundError as error:
        sys.exit(f"hcml demo: {error}; pip install 'hcml-lightning[demo]'")
    with locked(options.run_dir) as lock:
        recipe = read_config(options.recipe)
        runs = run_demo(options.run_dir, recipe, rest, launch_with(lock))
    numbers = results(runs)
    write_json(options.run_dir / "results.json", numbers)
    draw_flow(options.run_dir / "full" / "flow", options.run_dir / "flow.png")
    draw_curves(options.run_dir, options.run_dir / "curves.png")
    print_results(numbers)
    print(
        f"pictures: {options.run_dir / 'flow.png'} (frame, next frame, true flow, estimated flow, rebuilt frame), "
        f"{options.run_dir / 'curves.png'}"
    )
    return 0

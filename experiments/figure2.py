"""Figure 2: the levels of the hierarchy, added one by one."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hcml_lightning.storage import whole
from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

# All three levels are the full method of Table 2, and no levels are its baseline: both are measured there.
LEVELS = {
    "level 0": ("[0]", ("flow", "recognition", "test")),
    "levels 0, 1": ("[0, 1]", ("flow", "contrast1", "recognition", "test")),
}


def run(protocol: Protocol, dataset: str, split: int, seed: int) -> None:
    """Train and test with one level and with two levels.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of all random numbers.
    """
    table = protocol.results / "results.csv"
    for method, (levels, stages) in LEVELS.items():
        key = {
            **{"experiment": "figure2", "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        name = method.replace(", ", "_").replace(" ", "_")
        runs = protocol.run(name, dataset, split, seed, stages, ["--model.levels", levels])
        row = accuracy_row(protocol, "figure2", dataset, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])


def by_levels(rows: Sequence[dict[str, str]]) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the runs on utdmhad_depth27 with no, one, two and three levels, each with all its splits and seeds.

    Args:
        rows: rows of results.csv.

    Returns:
        For each number of levels, the stages that motion blocks follow, in words, and the rows.
    """
    rows = [r for r in rows if (r["dataset"], r["protocol"]) == ("utdmhad_depth27", "cpu")]
    names = {
        "none (plain R2D)": ("table2", "baseline"),
        "res2": ("figure2", "level 0"),
        "res2, res3": ("figure2", "levels 0, 1"),
        "res2, res3, res4": ("table2", "full"),
    }
    return [
        (title, [row for row in rows if (row["experiment"], row["method"]) == name])
        for title, name in names.items()
    ]


def draw(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draw top-1 against the number of levels, one line for each split; draw nothing if there are no runs.

    Args:
        rows: rows of results.csv.
        path: PNG file to write.
    """
    steps = by_levels(rows)
    splits = sorted({row["split"] for _, runs in steps for row in runs})
    if not splits:
        return
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for split in splits:
        values = [[float(r["top1"]) for r in runs if r["split"] == split] for _, runs in steps]
        means = [statistics.mean(here) if here else math.nan for here in values]
        (line,) = axes.plot(range(len(steps)), means, lw=2, label=f"split {split}")
        for place, here in enumerate(values):
            axes.plot([place] * len(here), here, "o", color=line.get_color(), ms=4, alpha=0.6)
    axes.set_xticks(range(len(steps)), [title for title, _ in steps])
    axes.set_ylabel("top-1, %")
    axes.set_xlabel("self-supervised motion blocks after")
    axes.set_title("utdmhad_depth27 (points: seeds)")
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    with whole(path, ".part.png") as partial:
        figure.savefig(partial, dpi=130)

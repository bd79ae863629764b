"""RESULTS.md and the chart of Figure 2, out of the tables: `python experiments/summarise.py`."""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

from hcml_lightning.storage import whole, write_whole
from hcml_lightning.tools.flops import count
from protocol import FOLDER, read_rows

Row = dict[str, str]

# Top-1 / top-5 of the paper, R2D on UCF-101 (Table 2).
PAPER = {"baseline": "66.0 / 86.0", "motion": "71.6 / 89.7", "full": "79.8 / 94.4"}
TITLES = {
    "baseline": "plain R2D",
    "motion": "+ motion blocks (labels only)",
    "full": "+ self-supervision (the full method)",
}
# Accuracy in % of a ridge classifier on frame differences of 20 x 20 pixels, by split.
RIDGE = {"utdmhad_depth27": {"1": 48, "2": 58, "3": 67}, "ucf101_6": {"1": 31, "2": 35, "3": 34}}
PROTOCOLS = {
    "cpu": "`r2d_tiny`, 8 frames of 64 x 64, two CPU cores",
    "gpu": "R2D-50, 16 frames of 112 x 112, one GPU",
}
SIZES = (("r2d50", 16, 256, "1.18 x"), ("r2plus1d101", 32, 256, "1.11 x"), ("r2d_tiny", 8, 64, ""))
MISSING = "not measured"


def make(folder: Path) -> str:
    """Give the text of RESULTS.md.

    Args:
        folder: holds results.csv, measurements.csv and tried.csv, as far as they are there.
    """
    accuracy = read_rows(folder / "results.csv")
    measured = read_rows(folder / "measurements.csv")
    parts = [
        HEAD,
        "## Table 2: motion blocks help, self-supervision helps more\n",
        _section(accuracy, "table2", _table2),
        "## The overhead\n",
        _cost(),
        "## Figure 2: each level adds\n",
        _figure2(accuracy),
        "## Table 7: pre-training without labels\n",
        _section(accuracy, "table7", _table7),
        "## Table 1: what supervises which level\n",
        _section(measured, "table1", _table1),
        "## Figure 3: the flow\n",
        _section(measured, "figure3", _figure3),
        "## Figure 4: where the networks look\n",
        _section(measured, "figure4", _figure4),
        "## What was tried\n",
        _tried(read_rows(folder / "tried.csv")),
        "## Which runs\n",
        _provenance([*accuracy, *measured]),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


HEAD = """# Results

Made by `python experiments/summarise.py` out of the tables in `experiments/`, which `experiments/run.py` fills
([how](experiments/README.md)). Accuracy in %, mean ± standard deviation over seeds. The data: **utdmhad_depth27**, 861
videos of 27 actions that differ in motion alone (UTD-MHAD, depth drawn as grey; training and test show different
people), and **ucf101_6**, 731 videos of six classes of UCF-101 that differ mostly in their scenes. Kinetics and
Something-Something were not at hand. The paper's numbers beside ours are of other data and other sizes: the order can
be compared, the height cannot. Wall times were taken beside other work on the same cores.
"""


def _section(rows: Sequence[Row], experiment: str, write: Callable[[Sequence[Row]], str]) -> str:
    rows = [row for row in rows if row["experiment"] == experiment]
    return write(rows) if rows else MISSING + "."


def _table2(rows: Sequence[Row]) -> str:
    settings = sorted({(r["protocol"], r["backbone"], r["dataset"], r["split"]) for r in rows})
    parts = []
    for setting in settings:
        here = [
            r for r in rows if (r["protocol"], r["backbone"], r["dataset"], r["split"]) == setting
        ]
        protocol, backbone, dataset, split = setting
        lines = [
            f"**{dataset}, split {split}** ({PROTOCOLS[protocol]}; {backbone}):\n",
            "| | top-1 | top-5 | top-1 in training | seeds | epochs | minutes | paper: R2D on UCF-101 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for method, title in TITLES.items():
            runs = [r for r in here if r["method"] == method]
            if not runs:
                lines.append(f"| {title} | {MISSING} | | | | | | {PAPER[method]} |")
                continue
            cells = [_mean(runs, "top1"), _mean(runs, "top5"), _mean(runs, "train_top1")]
            minutes = statistics.mean(float(r["wall_s"]) for r in runs) / 60
            rest = [_seeds(runs), runs[0]["epochs"], f"{minutes:.0f}", PAPER[method]]
            lines.append("| " + " | ".join([title, *cells, *rest]) + " |")
        lines.append("\n" + _verdict(here, dataset, split))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _verdict(rows: Sequence[Row], dataset: str, split: str) -> str:
    means = {
        method: statistics.mean(values)
        for method in TITLES
        if (values := [float(r["top1"]) for r in rows if r["method"] == method])
    }
    if len(means) < len(TITLES):
        return f"The comparison waits: {', '.join(m for m in TITLES if m not in means)} {MISSING}."
    ordered = means["full"] > means["motion"] > means["baseline"]
    ridge = RIDGE.get(dataset, {}).get(split)
    text = (
        f"Order of the paper: **{'yes' if ordered else 'no'}**. Motion blocks give "
        f"{means['motion'] - means['baseline']:+.1f} points, self-supervision "
        f"{means['full'] - means['motion']:+.1f} more, together {means['full'] - means['baseline']:+.1f}."
    )
    if ridge is not None:
        text += (
            f" A ridge classifier on frame differences has {ridge}: {means['full'] - ridge:+.1f}."
        )
    return text


def _cost() -> str:
    lines = [
        "Multiply-adds of one clip through what inference keeps, in 10⁹ (`hcml flops`).\n",
        "| backbone | frames, size | plain | with motion blocks | ratio | paper |",
        "|---|---|---|---|---|---|",
    ]
    for backbone, frames, size, paper in SIZES:
        plain = count(backbone, frames, size, levels=()).total
        motion = count(backbone, frames, size).total
        cells = (f"{plain:.3g}", f"{motion:.3g}", f"{motion / plain:.2f} x", paper)
        lines.append(f"| {backbone} | {frames}, {size} x {size} | " + " | ".join(cells) + " |")
    lines.append(
        "\nThe tiny network looks at 49 places of maps that have few channels, so the blocks weigh more there."
    )
    return "\n".join(lines)


def _figure2(rows: Sequence[Row]) -> str:
    steps = _steps(rows)
    if not any(runs for _, runs in steps):
        return MISSING + "."
    lines = ["| blocks after | top-1 | seeds |", "|---|---|---|"]
    for title, runs in steps:
        lines.append(f"| {title} | {_mean(runs, 'top1')} | {_seeds(runs)} |")
    means = [statistics.mean(float(r["top1"]) for r in runs) for _, runs in steps if runs]
    if len(means) == len(steps):
        gains = [after - before for before, after in pairwise(means)]
        told = ", ".join(f"{gain:+.1f}" for gain in gains)
        rises = "yes" if all(gain > 0 for gain in gains) else "not all of them here"
        lines.append(
            f"\nLevel by level {told}. Each level adds: **{rises}**. At 64 x 64 pixels the maps of level 2 have 4 x 4 "
            "cells, between which little can move."
        )
    return "\n".join(lines) + "\n\n![Top-1 by levels](experiments/figures/figure2.png)"


def _steps(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The runs of utdmhad_depth27, split 1, without a level, with one, two and three; the same seeds for all."""
    rows = [
        r
        for r in rows
        if (r["dataset"], r["split"], r["protocol"]) == ("utdmhad_depth27", "1", "cpu")
    ]
    names = {
        "none (plain R2D)": ("table2", "baseline"),
        "res2": ("figure2", "level 0"),
        "res2, res3": ("figure2", "levels 0, 1"),
        "res2, res3, res4": ("table2", "full"),
    }
    return [
        (title, [r for r in rows if (r["experiment"], r["method"]) == name])
        for title, name in names.items()
    ]


def draw_figure2(rows: Sequence[Row], path: Path) -> None:
    """Draw top-1 over the number of levels; nothing where nothing was measured."""
    steps = [(title, [float(r["top1"]) for r in runs]) for title, runs in _steps(rows) if runs]
    if not steps:
        return
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (_, values) in enumerate(steps):
        axes.plot([place] * len(values), values, "o", color="tab:gray", markersize=4)
    axes.plot(
        range(len(steps)), [statistics.mean(v) for _, v in steps], "-", color="tab:blue", lw=2
    )
    axes.set_xticks(range(len(steps)), [title for title, _ in steps])
    axes.set_ylabel("top-1, %")
    axes.set_xlabel("self-supervised motion blocks after")
    axes.set_title("utdmhad_depth27, split 1 (points: seeds)")
    axes.grid(axis="y", alpha=0.3)
    with whole(path, ".part.png") as partial:
        figure.savefig(partial, dpi=130)


def _table7(rows: Sequence[Row]) -> str:
    lines = [
        "Trained by labels alone, on a share of them; pre-training saw all training videos and no label.\n",
        "| data | start | top-1 | seeds | against random |",
        "|---|---|---|---|---|",
    ]
    for dataset, split, protocol in sorted(
        {(r["dataset"], r["split"], r["protocol"]) for r in rows}
    ):
        here = [
            r
            for r in rows
            if (r["dataset"], r["split"], r["protocol"]) == (dataset, split, protocol)
        ]
        random = [float(r["top1"]) for r in here if r["method"] == "random"]
        for method in dict.fromkeys(r["method"] for r in here):
            runs = [r for r in here if r["method"] == method]
            gain = ""
            if random and method != "random":
                gain = f"{statistics.mean(float(r['top1']) for r in runs) - statistics.mean(random):+.1f}"
            name = f"{dataset}, split {split} ({protocol})"
            lines.append(f"| {name} | {method} | {_mean(runs, 'top1')} | {_seeds(runs)} | {gain} |")
    lines.append(
        "\nThe paper, R2D-50 on UCF-101: 69.9 from random weights, 82.2 after Kinetics-400 without labels."
    )
    return "\n".join(lines)


def _table1(rows: Sequence[Row]) -> str:
    lines = [
        "Efficacy score = training / (training − test accuracy) of a light classifier on frozen P^l; its accuracies "
        "beside it. The paper shows the same as a bar chart, without numbers.\n",
        "| supervision | level | efficacy | test top-1 | training top-1 | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row for row in rows if row["method"] == method]
        supervision, level = method.split(" level ")
        cells = [
            _mean([r for r in runs if r["quantity"] == quantity], "value", places)
            for quantity, places in (("efficacy", 2), ("top1", 1), ("train_top1", 1))
        ]
        count = _seeds([r for r in runs if r["quantity"] == "efficacy"])
        lines.append(f"| {supervision} | {level} | " + " | ".join([*cells, count]) + " |")
    return "\n".join(lines) + _higher_levels(rows)


def _higher_levels(rows: Sequence[Row]) -> str:
    """What predicting the level below gives to the higher levels that reconstruction does not."""
    gains = []
    for level in (1, 2):
        values = {
            kind: [
                float(row["value"])
                for row in rows
                if (row["method"], row["quantity"]) == (f"{kind} level {level}", "top1")
            ]
            for kind in ("hierarchical", "preliminary")
        }
        if all(values.values()):
            means = [statistics.mean(found) for found in values.values()]
            gains.append((level, means[0] - means[1]))
    if not gains:
        return ""
    told = ", ".join(f"{gain:+.1f} points at level {level}" for level, gain in gains)
    return (
        f"\n\nTest accuracy under hierarchical supervision against reconstruction: {told}. That hierarchical "
        f"supervision suits the higher levels better: **{'yes' if all(g > 0 for _, g in gains) else 'not here'}**."
    )


def _figure3(rows: Sequence[Row]) -> str:
    lines = ["| | mean over seeds | seeds |", "|---|---|---|"]
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        runs = [row for row in rows if row["quantity"] == quantity]
        lines.append(f"| {quantity} | {_mean(runs, 'value', 3)} | {_seeds(runs)} |")
    lines.append("\nHeld-out synthetic videos; end-point error in cells of the grid of level 0.")
    picture = f"figures/figure3_{rows[0]['protocol']}.png"
    if (FOLDER / picture).is_file():
        lines.append(
            "Below: frame, next frame, true flow, Farnebäck's, ours at levels 0, 1, 2.\n\n"
            f"![Flow](experiments/{picture})"
        )
    return "\n".join(lines)


def _figure4(rows: Sequence[Row]) -> str:
    lines = [
        "Share of the mass of the Grad-CAM++ map (true class, test videos) that lies on moving pixels, beside the "
        "share of the pixels that move.\n",
        "| data | method | mass on moving pixels, % | moving pixels, % | seeds |",
        "|---|---|---|---|---|",
    ]
    for dataset, method in dict.fromkeys((r["dataset"], r["method"]) for r in rows):
        runs = [r for r in rows if (r["dataset"], r["method"]) == (dataset, method)]
        mass = [r for r in runs if r["quantity"] == "moving mass"]
        pixels = [r for r in runs if r["quantity"] == "moving pixels"]
        cells = [_mean(mass, "value"), _mean(pixels, "value"), _seeds(mass)]
        lines.append(f"| {dataset} | {TITLES[method]} | " + " | ".join(cells) + " |")
    if any(r["protocol"] == "cpu" for r in rows):
        lines.append(
            "\nThe map is made at res5, which has 2 x 2 cells at the 64 x 64 pixels of the small protocol: the "
            "shares differ by little, and the pictures show corners. Where networks look wants larger frames."
        )
    for dataset, protocol in dict.fromkeys((r["dataset"], r["protocol"]) for r in rows):
        lines.append(
            f"\nFrame, next frame, plain, with motion blocks, full:\n\n"
            f"![Grad-CAM++](experiments/figures/figure4_{dataset}_{protocol}.png)"
        )
    return "\n".join(lines)


def _tried(rows: Sequence[Row]) -> str:
    if not rows:
        return MISSING + "."
    lines = ["One run each unless said otherwise.\n", "| what | outcome | taken |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['outcome']} | {row['taken']} |" for row in rows]
    return "\n".join(lines)


def _provenance(rows: Iterable[Row]) -> str:
    names = ("protocol", "device", "machine", "commit", "versions", "date")
    kinds = sorted({tuple(row.get(name, "") for name in names) for row in rows})
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(kind) + " |" for kind in kinds]
    return "\n".join(lines)


def _mean(rows: Sequence[Row], column: str, places: int = 1) -> str:
    values = [float(row[column]) for row in rows]
    if not values:
        return MISSING
    if not all(math.isfinite(value) for value in values):
        return "infinite (no gap)"
    text = f"{statistics.mean(values):.{places}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{places}f}"


def _seeds(rows: Sequence[Row]) -> str:
    return f"{len(rows)} seed{'s' * (len(rows) != 1)}"


def main() -> None:
    """Write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the tables")
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "RESULTS.md")
    options = parser.parse_args()
    draw_figure2(
        read_rows(options.results / "results.csv"), options.results / "figures/figure2.png"
    )
    write_whole(options.output, make(options.results).encode())


if __name__ == "__main__":
    main()

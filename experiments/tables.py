"""[rows of csv → **tables and what follows from them** → RESULTS.md]

For each experiment, in Markdown: means over seeds next to the paper's numbers, and whether its claim holds here.
"""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from aggregate import MISSING, Row, differences, groups, mean, seeds, spread
from figure2 import by_levels
from protocol import FOLDER
from table1 import LEVELS, SUPERVISION
from table7 import LONGER

# Top-1 / top-5 of the paper, R2D on UCF-101 (Table 2).
PAPER = {"baseline": "66.0 / 86.0", "motion": "71.6 / 89.7", "full": "79.8 / 94.4"}
TITLES = {
    "baseline": "plain R2D",
    "motion": "+ motion blocks (labels only)",
    "full": "+ self-supervision (the full method)",
}
# Prefix of the stage in the names of the quantities of Figure 4.
MASS = "moving mass at "
# Accuracy in % for each dataset and split.
Ridge = Mapping[tuple[str, str], float]
FRAMES = {"cpu": "8 frames of 64 x 64", "gpu": "16 frames of 112 x 112"}
DEVICES = {"cpu": "two CPU cores", "gpu": "one GPU"}


def setting(protocol: str, backbone: str) -> str:
    """Format the network, the frames and the device of a run."""
    return f"`{backbone}`, {FRAMES[protocol]}, {DEVICES[protocol]}"


def network(protocol: str, backbone: str) -> str:
    """Format the network and the device of a run."""
    return f"`{backbone}`, {DEVICES[protocol]}"


def table2(rows: Sequence[Row], ridge: Ridge) -> str:
    """Format the accuracy of the three methods on each dataset, and that of the baseline without learned features."""
    settings = groups(rows, "protocol", "backbone", "dataset", "split")
    parts = []
    for (protocol, backbone, dataset, split), here in sorted(settings.items()):
        lines = [
            f"**{dataset}, split {split}** ({setting(protocol, backbone)}):\n",
            "| | top-1 | top-5 | top-1 in training | seeds | epochs | minutes | paper: R2D on UCF-101 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        methods = groups(here, "method")
        for method, title in TITLES.items():
            runs = methods.get((method,), [])
            if not runs:
                lines.append(f"| {title} | {MISSING} | | | | | | {PAPER[method]} |")
                continue
            cells = [spread(runs, "top1"), spread(runs, "top5"), spread(runs, "train_top1")]
            minutes = f"{mean(runs, 'wall_s') / 60:.0f}"
            rest = [seeds(runs), runs[0]["epochs"], minutes, PAPER[method]]
            lines.append("| " + " | ".join([title, *cells, *rest]) + " |")
        lines.append("\n" + _verdict(here, ridge.get((dataset, split))))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _verdict(rows: Sequence[Row], ridge: float | None) -> str:
    methods = {method: runs for (method,), runs in groups(rows, "method").items()}
    gains = [
        differences(methods.get(before, []), methods.get(after, []))
        for before, after in (("baseline", "motion"), ("motion", "full"), ("baseline", "full"))
    ]
    if not all(gains):
        waits = [m for m in TITLES if m not in methods]
        return f"No comparison yet: {', '.join(waits) or 'the same seeds'} {MISSING}."
    blocks, supervision, together = (statistics.fmean(gain) for gain in gains)
    rises = [_rises(gain, "seeds") for gain in gains]
    text = (
        f"Same order as in the paper, by means: **{'yes' if min(blocks, supervision) > 0 else 'no'}**. Motion blocks "
        f"change top-1 by {blocks:+.1f} points ({rises[0]}), self-supervision by another {supervision:+.1f} "
        f"({rises[1]}), both together by {together:+.1f}."
    )
    if ridge is not None:
        beyond = mean(methods["full"], "top1") - ridge
        text += (
            f" A ridge classifier on frame differences has {ridge:.1f}; the full method differs from that by "
            f"{beyond:+.1f}."
        )
    return text


def control(rows: Sequence[Row]) -> str:
    """Format, for each split with a control, what labels alone reach in as many epochs as the full method has."""
    lines = [
        "| data | motion blocks | the same for longer | full method | full method less control, same seeds |",
        "|---|---|---|---|---|",
    ]
    gains = []
    for (dataset, split), here in sorted(groups(rows, "dataset", "split").items()):
        found = groups(here, "experiment", "method")
        runs = [found.get(key, []) for key in (("table2", "motion"), ("control", "motion"))]
        full = found.get(("table2", "full"), [])
        if not (gain := differences(runs[1], full)):
            continue
        gains += gain
        cells = [f"{spread(r, 'top1')} ({r[0]['epochs']} epochs)" if r else MISSING for r in runs]
        cells += [spread(full, "top1"), f"{statistics.fmean(gain):+.1f} ({_rises(gain, 'seeds')})"]
        lines.append(f"| {dataset}, split {split} | {' | '.join(cells)} |")
    if not gains:
        return MISSING + "."
    lines.append(
        f"\nOver all of these, the full method differs by {statistics.fmean(gains):+.1f} points on average "
        f"({_rises(gains, 'runs')})."
    )
    return "\n".join(lines)


def _rises(gains: Sequence[float], what: str) -> str:
    return f"higher in {sum(gain > 0 for gain in gains)} of {len(gains)} {what}"


def figure2(rows: Sequence[Row]) -> str:
    """Format accuracy by number of levels for each split, and what each level adds over all splits."""
    steps = by_levels(rows)
    splits = sorted({row["split"] for _, runs in steps for row in runs})
    if not splits:
        return MISSING + "."
    lines = [
        f"| blocks after | {' | '.join(f'split {split}' for split in splits)} |",
        f"|---|{'---|' * len(splits)}",
    ]
    for title, runs in steps:
        here = [[row for row in runs if row["split"] == split] for split in splits]
        cells = [f"{spread(r, 'top1')} ({seeds(r)})" if r else MISSING for r in here]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    gains = [differences(before, after) for (_, before), (_, after) in pairwise(steps)]
    if all(gains):
        means = [statistics.fmean(gain) for gain in gains]
        told = ", ".join(
            f"{mean:+.1f} ({_rises(gain, 'runs')})" for mean, gain in zip(means, gains, strict=True)
        )
        if min(min(gain) for gain in gains) > 0:
            rises = "yes"
        else:
            rises = "on average, but not in every run" if min(means) > 0 else "not all of them here"
        lines.append(
            f"\nLevel by level, over the same splits and seeds: {told}. Does each level add? **{rises.capitalize()}**."
        )
    lines.append(
        "\nThe rows come from several commits and versions of PyTorch (`experiments/results.csv`). Between these, the "
        "result of the same seed can differ by two points."
    )
    return "\n".join(lines) + "\n\n![Top-1 by levels](experiments/figures/figure2.png)"


def table7(rows: Sequence[Row]) -> str:
    """Format accuracy with a share of the labels, by the weights that training starts from."""
    lines = [
        "Trained with labels only, on a share of them. Pre-training used all training videos, without labels.\n",
        "| data | start | epochs | top-1 | seeds | difference from random, same seeds |",
        "|---|---|---|---|---|---|",
    ]
    over_longer = []
    for (dataset, split), here in sorted(groups(rows, "dataset", "split").items()):
        starts = groups(here, "method")
        random, longer = (starts.get((start,), []) for start in ("random", LONGER))
        over_longer += differences(longer, starts.get(("self-supervised",), []))
        for (start,), runs in sorted(
            starts.items(), key=lambda item: item[0][0] == "random", reverse=True
        ):
            gains = [] if start == "random" else differences(random, runs)
            gain = f"{statistics.fmean(gains):+.1f}" if gains else ""
            top1, epochs = spread(runs, "top1"), runs[0]["epochs"]
            lines.append(
                f"| {dataset}, split {split} | {start} | {epochs} | {top1} | {seeds(runs)} | {gain} |"
            )
    if over_longer:
        lines.append(
            f"\nThe runs {LONGER!r} see as many clips, all with labels, as pre-training and fine-tuning together, and "
            f"start with the same learning rate. Against them, pre-training changes top-1 by "
            f"{statistics.fmean(over_longer):+.1f} points on average ({_rises(over_longer, 'runs')})."
        )
    lines.append(
        "\nIn the paper, R2D-50 on UCF-101 reaches 69.9 from random weights, and 82.2 after pre-training on "
        "Kinetics-400 without labels."
    )
    return "\n".join(lines)


def table1(rows: Sequence[Row]) -> str:
    """Format the efficacy score by level and kind of supervision."""
    lines = [
        "The efficacy score is training / (training − test accuracy) of a probe, a light classifier on frozen P^l. "
        "Both accuracies are means over seeds, measured with the finished probe on one centred clip of each video. "
        "Supervision:\n",
        "- action: labels",
        "- preliminary: reconstruction, for as many epochs as the chain of stages has",
        "- hierarchical: reconstruction at level 0, contrast above it\n",
        "Levels 0, 1 and 2 are levels 1, 2 and 3 in the paper's Table 1 and Figure 3. We did not have the paper's own "
        "values.\n",
        "| data | supervision | level | efficacy | test top-1 | training top-1 | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dataset, split, method), runs in groups(rows, "dataset", "split", "method").items():
        supervision, level = method.split(" level ")
        found = groups(runs, "quantity")
        tested, trained = (found.get((name,), []) for name in ("top1", "train_top1"))
        spreads = [spread(rows_of, "value") for rows_of in (tested, trained)]
        count = seeds(tested)
        if 0 < len(trained) < len(tested):
            count += f" (score: {len(trained)})"
        cells = [supervision, level, _efficacy(runs), *spreads, count]
        lines.append("| " + " | ".join([f"{dataset}, split {split}", *cells]) + " |")
    return "\n".join(lines) + _higher_levels(rows)


def _efficacy(rows: Sequence[Row]) -> str:
    """Format the efficacy score, with the mean gap over the seeds for which both accuracies are known."""
    found = groups(rows, "quantity")
    training, test = (found.get((name,), []) for name in ("train_top1", "top1"))
    gaps = differences(test, training, "value")
    if not gaps:
        return MISSING
    gap = statistics.fmean(gaps)
    return f"{mean(training, 'value') / gap:.1f}" if gap > 0 else "infinite (no gap)"


def _higher_levels(rows: Sequence[Row]) -> str:
    """Format what the higher levels gain if they predict the level below instead of reconstructing frames."""
    methods = {method: runs for (method,), runs in groups(rows, "method").items()}
    told, better, levels = [], [], []
    for level in (1, 2):
        both = [methods.get(f"{how} level {level}", []) for how in ("preliminary", "hierarchical")]
        gain = differences(
            *([row for row in runs if row["quantity"] == "top1"] for runs in both), "value"
        )
        if gain:
            levels.append(level)
            told.append(f"{statistics.fmean(gain):+.1f} points at level {level}")
            better += [level] * (statistics.fmean(gain) > 0)
    if not levels:
        return ""
    holds = "yes" if better == levels else "not here"
    if 0 < len(better) < len(levels):
        holds = f"only at level {better[0]}"
    scores = []
    for level in LEVELS:
        found = [_efficacy(methods.get(f"{how} level {level}", [])) for how in SUPERVISION]
        scores.append(f"{', '.join(found[:-1])} and {found[-1]} at level {level}")
    return (
        f"\n\nTest accuracy of hierarchical supervision, compared with reconstruction: {', '.join(told)}. Does "
        f"hierarchical supervision suit the higher levels better, by test accuracy? **{holds.capitalize()}**.\n\n"
        "The frames are so small that reconstruction of level 2 has one pair of 4 x 4 cells. Most of these lie at the "
        "edge, and Eq. 3 leaves them out as soon as the flow points outwards. That is not the reason for the result: "
        "counting all of them changes little (see what was tried, below).\n\n"
        f"Efficacy under action, preliminary and hierarchical supervision: {'; '.join(scores)}. Because the score "
        "divides by the gap, it is higher for features that fit the training videos less, and small changes of a small "
        "gap decide."
    )


def figure3(rows: Sequence[Row]) -> str:
    """Format the errors of the flow and its picture."""
    lines = ["| | mean over seeds | seeds |", "|---|---|---|"]
    for (quantity,), runs in groups(rows, "quantity").items():
        lines.append(f"| {quantity} | {spread(runs, 'value', 3)} | {seeds(runs)} |")
    lines.append("\nHeld-out synthetic videos. End-point errors are in cells of level 0's grid.")
    picture = f"figures/figure3_{rows[0]['protocol']}.png"
    if (FOLDER / picture).is_file():
        lines.append(
            "\nThe picture shows frame, next frame, true flow, Farnebäck's flow, and ours at levels 0, 1 and 2. Levels "
            "1 and 2 were trained for a sixth of the epochs, and are drawn, not measured. Hue is direction; saturation "
            "is speed, relative to the fastest in the same column.\n\n"
            f"![Flow](experiments/{picture})"
        )
    return "\n".join(lines)


def figure4(rows: Sequence[Row]) -> str:
    """Format where the networks look, and the pictures of it."""
    lines = [
        "The share of the mass of the Grad-CAM++ map (true class, test videos) that lies on moving pixels, next to the "
        "share of pixels that move: at res5, as in the paper, and at the last layer with 7 x 7 cells or more.\n",
        "| data | method | layer | mass on moving pixels, % | moving pixels, % | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (dataset, split, method), runs in groups(rows, "dataset", "split", "method").items():
        pixels = [row for row in runs if row["quantity"] == "moving pixels"]
        for (quantity,), mass in sorted(groups(runs, "quantity").items()):
            if quantity.startswith(MASS):
                cells = [quantity.removeprefix(MASS), spread(mass, "value")]
                told = [
                    f"{dataset}, split {split}",
                    TITLES[method],
                    *cells,
                    spread(pixels, "value"),
                ]
                lines.append("| " + " | ".join([*told, seeds(mass)]) + " |")
    lines.append(_looks(rows))
    if any(r["protocol"] == "cpu" for r in rows):
        lines.append(
            "\nFor the 64 x 64 pixels of the small protocol, a map has 2 x 2 cells at res5, which says little, and 8 x "
            "8 cells at res3. The pictures show the finer map."
        )
    for dataset, protocol in groups(rows, "dataset", "protocol"):
        picture = f"figures/figure4_{dataset}_{protocol}.png"
        if (FOLDER / picture).is_file():
            lines.append(
                "\nFrame, next frame, and the maps of the plain network, motion blocks and the full method:\n\n"
                f"![Grad-CAM++](experiments/{picture})"
            )
    return "\n".join(lines)


def _looks(rows: Sequence[Row]) -> str:
    """Format how much more our networks look at moving pixels than the plain one, over the same seeds."""
    told = []
    for dataset, quantity in sorted(groups(rows, "dataset", "quantity")):
        if quantity.startswith(MASS):
            here = [row for row in rows if (row["dataset"], row["quantity"]) == (dataset, quantity)]
            methods = {method: runs for (method,), runs in groups(here, "method").items()}
            for method in ("motion", "full"):
                gain = differences(methods.get("baseline", []), methods.get(method, []), "value")
                if gain:
                    place = f"{dataset} at {quantity.removeprefix(MASS)}"
                    title = TITLES[method].removeprefix("+ ")
                    told.append(f"{place}: {statistics.fmean(gain):+.1f} points with {title}")
    return (
        "\nDifference from the plain network, same seeds:\n\n- " + "\n- ".join(told) if told else ""
    )

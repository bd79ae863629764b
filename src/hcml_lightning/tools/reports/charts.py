"""[curves → **geometry of pictures** → report]

Computes the charts of the page, in the units of its pictures. The page's template adds colours and fonts.
"""

import math
from typing import NamedTuple

from hcml_lightning.scores import REFERENCES

# (epoch, value) pairs.
Curve = list[tuple[float, float]]

# Size of the plotting area, in the units of the picture; the page adds a margin for the numbers of the axes.
WIDTH, HEIGHT = 300, 150
# A picture has too few pixels to show more points than these.
MOST_POINTS = 300
# Quantities that a stage is judged by: the page shows them first, and others only when they are unfolded.
TITLES = {
    "photometric ÷ valid": "photometric error (Eq. 3) within the frame",
    "valid": "share of pixels whose flow stays in the frame",
    "epe": "end-point error of the flow, cells",
    "contrast_l1": "contrastive loss, level 1, nats",
    "contrast_l2": "contrastive loss, level 2, nats",
    "contrast_l1_top1": "top-1 of the predicted future, level 1",
    "contrast_l2_top1": "top-1 of the predicted future, level 2",
    "top1": "top-1",
    "top5": "top-5",
    "classification": "cross-entropy of the classes, nats",
    "loss": "loss, all terms",
}


class Line(NamedTuple):
    """One curve of a chart.

    Attributes:
        kind: "train", "val", or "reference" for a value that has to be beaten.
        label: text for the legend.
        path: data of an SVG path element.
        dots: positions of the points; empty if there are many.
        last: the last value.
    """

    kind: str
    label: str
    path: str
    dots: list[tuple[float, float]]
    last: float


class Chart(NamedTuple):
    """Curves of one quantity.

    Attributes:
        title: heading of the chart.
        main: whether a stage is judged by this quantity.
        lines: its curves.
        x_ticks: position and text.
        y_ticks: position and text.
    """

    title: str
    main: bool
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def charts(curves: dict[str, Curve]) -> list[Chart]:
    """Return one chart for each quantity, beginning with those that a stage is judged by."""
    groups: dict[str, dict[tuple[str, str], Curve]] = {}
    for name, curve in curves.items():
        split, _, quantity = name.partition("/")
        if split == "test" or name.endswith("_step"):
            continue
        # Of one term alone, while `train/loss` is the sum of all.
        if name == "val/loss" and "val/classification" in curves:
            continue
        if not quantity:
            split, quantity = "train", "learning rate" if name.startswith("lr-") else name
        quantity = quantity.removesuffix("_epoch")
        kind, label = split, {"val": "validation", "train": "training"}.get(split, split)
        for suffix, reference in REFERENCES.items():
            if quantity.endswith(suffix):
                kind, label = "reference", f"{reference}, {label}"
                quantity = quantity.removesuffix(suffix)
        groups.setdefault(quantity, {})[kind, label] = curve
    known = [name for name in TITLES if name in groups]
    return [_chart(name, groups[name]) for name in [*known, *sorted(groups.keys() - TITLES.keys())]]


def _chart(quantity: str, curves: dict[tuple[str, str], Curve]) -> Chart:
    # One reference is enough: keep that of validation, which is less noisy than that of training.
    references = [key for key in curves if key[0] == "reference"]
    if len(references) > 1:
        curves = {k: v for k, v in curves.items() if k not in references or "validation" in k[1]}
    points = [point for curve in curves.values() for point in curve]
    right = max(x for x, _ in points)
    bottom, top = min(y for _, y in points), max(y for _, y in points)
    x_ticks, y_ticks = ticks(0, right), ticks(bottom, top)
    low, high = min(bottom, y_ticks[0]), max(top, y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - low) / (high - low) if high > low else 0.5
        return round(WIDTH * x / right, 1), round(HEIGHT * (1 - share), 1)

    lines = []
    for (kind, label), curve in sorted(curves.items()):
        if kind == "reference" and len(curve) == 1:
            # Draw a reference as a line even if it was measured only once.
            curve = [(0.0, curve[0][1]), (right, curve[0][1])]
        places = [place(*point) for point in thinned(curve)]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
        lines.append(Line(kind, label, path, places if len(places) <= 20 else [], curve[-1][1]))
    return Chart(
        title=TITLES.get(quantity, quantity),
        main=quantity in TITLES,
        lines=lines,
        x_ticks=[(place(x, low)[0], f"{x:g}") for x in x_ticks],
        y_ticks=[(place(0, y)[1], f"{y:.4g}") for y in y_ticks],
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within a range, for the ticks of an axis.

    Example:
        >>> ticks(0, 18), ticks(0.017, 0.058)
        ([0.0, 5.0, 10.0, 15.0], [0.02, 0.03, 0.04, 0.05])
        >>> ticks(0.5, 0.5)
        [0.5]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thinned(curve: Curve) -> Curve:
    """Return at most MOST_POINTS points, each the mean of adjacent ones; a short curve is returned unchanged."""
    size = math.ceil(len(curve) / MOST_POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]

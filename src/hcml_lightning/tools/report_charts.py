"""[curves → **geometry of pictures** → report]

What the page draws, in the units of its pictures. Colours and text are the page's business.
"""

import math
from typing import NamedTuple

# Epochs and values.
Curve = list[tuple[float, float]]

# Of the plotting area, in the unit of the picture; the page leaves a margin around it for the numbers.
WIDTH, HEIGHT = 300, 150
# More points than a picture has pixels to show.
MOST_POINTS = 300
# What a stage is judged by comes first and at once; the rest unfolds.
TITLES = {
    "photometric": "photometric error (Eq. 3)",
    "epe": "end-point error of the flow, cells",
    "contrast_l1": "contrastive loss, level 1, nats",
    "contrast_l2": "contrastive loss, level 2, nats",
    "contrast_l1_top1": "predicted future found, level 1",
    "contrast_l2_top1": "predicted future found, level 2",
    "top1": "top-1",
    "top5": "top-5",
    "loss": "loss",
}
REFERENCES = {"_zero": "zero flow", "_chance": "chance"}


class Line(NamedTuple):
    """One curve of a chart.

    Attributes:
        kind: "train", "val", or "reference" for what has to be beaten.
        label: for the legend.
        path: of an SVG path element.
        dots: places of single points, where there are few.
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
        title: of the chart.
        main: whether it is among what the stage is judged by.
        lines: its curves.
        x_ticks: place and text.
        y_ticks: place and text.
    """

    title: str
    main: bool
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def charts(curves: dict[str, Curve]) -> list[Chart]:
    """Put the curves of one quantity into one chart, those that a stage is judged by first."""
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
    # Of what has to be beaten one is enough, and validation's is the less noisy one.
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
            # What has to be beaten shows as a line, even where it was measured once.
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
    """Round numbers within a range.

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
    """Return at most MOST_POINTS points, each the mean of its neighbours; a short curve as it is."""
    size = math.ceil(len(curve) / MOST_POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]

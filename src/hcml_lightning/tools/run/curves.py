"""[metrics.csv of a run → **curves** → notebooks, pictures, report]

The training metrics of a run over all its starts, as points and as curves to draw. Needs no PyTorch.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hcml_lightning.scores import comparable


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
        step: of the training, from 0.
        epoch: from 0; None if only the step was recorded.
        value: finite.
    """

    step: int
    epoch: int | None
    value: float


class Curve(NamedTuple):
    """One metric over the training.

    Attributes:
        epoch: counted from 1, ascending.
        value: the last one of each epoch.
    """

    epoch: list[int]
    value: list[float]


def files_of(folder: Path, name: str) -> list[Path]:
    """Find the files called `name` of a run: in its folder, then in the folder of each start, in order."""
    starts = {
        file.parent.name.removeprefix("version_"): file for file in folder.glob(f"version_*/{name}")
    }
    # Folders with other names than version_N are copies that somebody has made.
    numbers = sorted(filter(str.isdecimal, starts), key=int)
    files = [folder / name, *(starts[number] for number in numbers)]
    return [file for file in files if file.is_file()]


def read_points(folder: Path) -> dict[str, list[Point]]:
    """Read each metric of a run, over all its starts.

    Args:
        folder: of the run; holds metrics.csv itself, or version_0, version_1, … of CSVLogger.

    Returns:
        Points by the name of the metric, in ascending order of the steps. If two starts logged the same step, the later
        start counts. Values that are not finite, such as a loss of nan, are left out.
    """
    points: dict[str, dict[int, Point]] = {}
    for file in files_of(folder, "metrics.csv"):
        if file.parent != folder and (file.parent / "config.yaml").is_file():
            # Not another start, but another run that was started with this one's config.
            continue
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                step, epoch = int(row.pop("step", "") or 0), row.pop("epoch", "")
                for name, text in row.items():
                    if text and math.isfinite(value := float(text)):
                        point = Point(step, int(epoch) if epoch else None, value)
                        points.setdefault(name, {})[step] = point
    return {name: [found[step] for step in sorted(found)] for name, found in sorted(points.items())}


def comparable_points(points: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
    """Return points with those of some metrics replaced or added, as `comparable` does with the metrics of one step.

    Example:
        >>> found = comparable_points({"val/photometric": [Point(9, 0, 0.04)], "val/valid": [Point(9, 0, 0.5)]})
        >>> found["val/photometric ÷ valid"]
        [Point(step=9, epoch=0, value=0.08)]
    """
    rows: dict[tuple[int, int | None], dict[str, float]] = {}
    for name, found in points.items():
        for step, epoch, value in found:
            rows.setdefault((step, epoch), {})[name] = value
    result: dict[str, list[Point]] = {}
    for step, epoch in sorted(rows, key=lambda key: key[0]):
        for name, value in comparable(rows[step, epoch]).items():
            result.setdefault(name, []).append(Point(step, epoch, value))
    return result


def by_epoch(points: Sequence[Point]) -> Curve:
    """Return the last value of each epoch that has one.

    Example:
        >>> by_epoch([Point(9, 0, 3.0), Point(10, None, 2.0), Point(19, 1, 1.0)])
        Curve(epoch=[1, 2], value=[3.0, 1.0])
    """
    last = {point.epoch + 1: point.value for point in points if point.epoch is not None}
    return Curve(list(last), list(last.values()))


def by_step(points: Mapping[str, Sequence[Point]]) -> dict[str, list[tuple[float, float]]]:
    """Return all values of all metrics over fractional epochs: values of single steps lie between the ends of epochs.

    Example:
        >>> by_step({"loss": [Point(4, None, 3.0), Point(9, 0, 1.0)]})
        {'loss': [(0.5, 3.0), (1.0, 1.0)]}
    """
    ends = [(p.step + 1) / (p.epoch + 1) for x in points.values() for p in x if p.epoch is not None]
    steps = max([1.0, *ends])
    return {
        name: [((p.step + 1) / steps, p.value) for p in found] for name, found in points.items()
    }

"""Compare the measurements in the tables with the performance targets of the project.

`python benchmarks/targets.py [--results benchmarks/results]` reads the newest row of every provider in every table and
prints each target that they cover, with the measured value.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from report import FOLDER

Row = dict[str, str]


class Aim(NamedTuple):
    """A performance target: a measured value and its bound.

    Attributes:
        what: description of the value.
        value: measured value.
        bound: the bound.
        at_least: whether the value should be at least the bound; otherwise at most.
    """

    what: str
    value: float
    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        """Return one line of the output."""
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        sign = "≥" if self.at_least else "≤"
        return f"{'ok  ' if met else 'MISS'} {self.value:8.3g} {sign} {self.bound:<6g} {self.what}"


class Tables:
    """The newest rows of all tables of a folder.

    Args:
        folder: folder of csv files.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: dict[tuple[str, ...], Row] = {}
        for path in sorted(folder.glob("*.csv")):
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if "provider" in row and row.get("median_ms"):
                        names = ("op", "shape", "dtype", "device", "provider", "direction")
                        self.rows[tuple(row[name] for name in names)] = row

    def subjects(self, op: str) -> list[tuple[str, ...]]:
        """Return all (op, shape, dtype, device) whose op begins with `op`."""
        return sorted({key[:4] for key in self.rows if key[0].startswith(op)})

    def ms(self, subject: tuple[str, ...], provider: str, direction: str = "both") -> float:
        """Return the median time of a provider in ms; NaN if it was not measured."""
        row = self.rows.get((*subject, provider, direction))
        return float(row["median_ms"]) if row else float("nan")

    def number(
        self, subject: tuple[str, ...], provider: str, column: str, direction: str = "both"
    ) -> float:
        """Return a number from another column of its row; NaN if it is missing."""
        row = self.rows.get((*subject, provider, direction), {})
        return float(row.get(column) or "nan")


def is_gpu(subject: tuple[str, ...]) -> bool:
    """Return whether a subject was measured on a GPU."""
    return "thread" not in subject[3]


def cost_volume(tables: Tables) -> Iterator[Aim]:
    """Yield the targets of the cost volume: its speed and memory against peers and the roofline."""
    for subject in tables.subjects("cost_volume"):
        if subject[0] != "cost_volume":
            continue
        name = " ".join(subject[:3])
        ours = tables.ms(subject, "ours")
        peers = {"eager": 15, "spatial-correlation-sampler": 15, "compiled loop": 2.5}
        if is_gpu(subject):
            peers = {"eager": 10, "localcorr": 10}
            for direction, bound in (("forward", 2.5), ("backward", 4)):
                floor = tables.number(subject, "ours", "roofline_ms", direction)
                taken = tables.ms(subject, "ours", direction)
                yield Aim(f"{name}: {direction} over its floor", taken / floor, bound, False)
        for peer, bound in peers.items():
            yield Aim(f"{name}: times faster than {peer}", tables.ms(subject, peer) / ours, bound)
        memory = [tables.number(subject, p, "peak_mb") for p in ("ours", "eager")]
        yield Aim(f"{name}: share of eager's memory", memory[0] / memory[1], 1 / 20, False)
    upper = [s for s in tables.subjects("cost_volume") if is_gpu(s) and s[1].endswith("x28x28")]
    for subject in upper:
        top = (subject[0], "8x128x4x14x14", *subject[2:])
        taken = 1e3 * (tables.ms(subject, "ours") + tables.ms(top, "ours"))
        yield Aim(f"{subject[0]} {subject[2]}: µs of levels 1 and 2", taken, 60, False)


def steps(tables: Tables) -> Iterator[Aim]:
    """Yield the targets of training steps: cost of motion blocks, utilisation, share of the cost volumes."""
    for subject in tables.subjects("train_step"):
        name = " ".join(subject[:3])
        for variant in ("", " + compiled"):
            ours, plain, images, blocks = (
                tables.ms(subject, one + variant)
                for one in (
                    *("ours", "ours without motion blocks", "resnet50"),
                    "ours motion blocks only",
                )
            )
            what = f"{name}{variant}"
            # No bound for the tiny network, in which motion blocks are half of all operations.
            most = float("inf") if subject[0].endswith("tiny") else 1.25
            yield Aim(f"{what}: motion blocks over plain", blocks / plain, most, False)
            floors = [
                tables.number(subject, one + variant, "roofline_ms") for one in ("ours", "resnet50")
            ]
            use = [floor / ms for floor, ms in zip(floors, (ours, images), strict=True)]
            yield Aim(f"{what}: utilisation over ResNet-50's", use[0] / use[1], 1)
            yield Aim(f"{what}: utilisation", use[0], 0)
            clips = int(subject[1].split("x")[0])
            yield Aim(f"{what}: clips a second", 1e3 * clips / ours, 0)
        volumes = [
            tables.ms(("cost_volume", shape, *subject[2:]), "ours")
            for shape in ("8x32x16x56x56", "8x64x8x28x28", "8x128x4x14x14")
        ]
        share = sum(volumes) / tables.ms(subject, "ours")
        if subject[0] == "train_step r2d50" and subject[1] == "8x3x16x224x224":
            yield Aim(f"{name}: share of the cost volumes", share, 0.03, False)


def losses(tables: Tables) -> Iterator[Aim]:
    """Yield the targets of the contrastive loss, against the usual implementation and PyTorch's own."""
    bounds = {"12288x4096x64": (3, 1 / 15), "12288x4096x256": (1.7, 1 / 6)}
    for subject in tables.subjects("contrastive_loss"):
        name, ours = " ".join(subject[:3]), tables.ms(subject, "ours")
        if subject[1] in bounds:
            faster, smaller = bounds[subject[1]]
            memory = [tables.number(subject, p, "peak_mb") for p in ("ours", "eager")]
            yield Aim(
                f"{name}: times faster than eager", tables.ms(subject, "eager") / ours, faster
            )
            yield Aim(f"{name}: share of eager's memory", memory[0] / memory[1], smaller, False)
        core = tables.ms(subject, "linear_cross_entropy")
        yield Aim(f"{name}: over PyTorch's own", ours / core, 1.1, False)


def tiling(tables: Tables) -> Iterator[Aim]:
    """Yield the targets of the tiling: the chosen one should be almost as fast as the best that was tried."""
    for subject in tables.subjects("cost_volume tiling"):
        for direction in ("forward", "backward"):
            times = {
                key[4]: float(row["median_ms"])
                for key, row in tables.rows.items()
                if key[:4] == subject and key[5] == direction
            }
            if "chosen" in times:
                name = min(times, key=lambda one: times[one])
                what = f"{' '.join(subject[:3])} {direction}: chosen over the best, {name}"
                yield Aim(what, times["chosen"] / times[name], 1.05, False)


TOPICS: tuple[Callable[[Tables], Iterator[Aim]], ...] = (cost_volume, steps, losses, tiling)


def main() -> None:
    """Print all targets that the tables cover."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    options = parser.parse_args()
    tables = Tables(options.results)
    aims = [aim for topic in TOPICS for aim in topic(tables)]
    print(*[str(aim) for aim in aims if not math.isnan(aim.value)], sep="\n")


if __name__ == "__main__":
    main()

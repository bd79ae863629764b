"""Draw how close the cost volume comes to the limits of the machine.

`python benchmarks/roofline.py [--results benchmarks/results/cost_volume.csv] [--output picture.png]` draws, for each
device in the table, the newest forward and backward pass of every provider: operations per second against operations
per byte that has to be moved, below the limit of the memory. The slope of that limit is the bandwidth measured in the
same benchmark. Without options it draws the picture of docs/performance.md.
"""

import argparse
import csv
from pathlib import Path

import torch
from cost_volume import floors
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from report import FOLDER, shape

MARKERS = {"forward": "o", "backward": "^"}


def last_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the newest row of every provider, direction, shape and dtype, grouped by device."""
    newest: dict[tuple[str, ...], dict[str, str]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["direction"] in MARKERS:
                key = ("device", "provider", "direction", "shape", "dtype")
                newest[tuple(row[name] for name in key)] = row
    devices: dict[str, list[dict[str, str]]] = {}
    for row in newest.values():
        devices.setdefault(row["device"], []).append(row)
    return devices


def draw(devices: dict[str, list[dict[str, str]]]) -> Figure:
    """Draw one panel for each device."""
    figure = Figure(figsize=(7 * len(devices), 5), layout="constrained")
    panels = figure.subplots(1, len(devices), squeeze=False)[0]
    for panel, (device, rows) in zip(panels, devices.items(), strict=True):
        providers = sorted({row["provider"] for row in rows}, reverse=True)
        intensities, bandwidth = [], 0.0
        for row in rows:
            floor = floors(shape(row["shape"]), getattr(torch, row["dtype"]))[row["direction"]]
            intensities.append(floor.operations / floor.bytes)
            bandwidth = max(bandwidth, floor.bytes / float(row["roofline_ms"]) * 1e3)
            panel.scatter(
                intensities[-1],
                floor.operations / float(row["median_ms"]) * 1e-6,
                marker=MARKERS[row["direction"]],
                color=f"C{providers.index(row['provider'])}",
            )
        ends = [min(intensities) / 2, max(intensities) * 2]
        panel.plot(ends, [x * bandwidth / 1e9 for x in ends], "k", label="memory")
        for index, name in enumerate(providers):
            panel.scatter([], [], color=f"C{index}", label=name)
        panel.set(
            xscale="log", yscale="log", title=f"{device}\n○ forward, △ backward",
            xlabel="operations for each byte", ylabel="10⁹ operations a second",
        )  # fmt: skip
        panel.set_xticks([2**power for power in range(1, 8) if ends[0] < 2**power < ends[1]])
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    """Draw the picture of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=FOLDER / "results" / "cost_volume.csv")
    parser.add_argument(
        "--output", type=Path, default=FOLDER.parent / "docs" / "_static" / "roofline.svg"
    )
    options = parser.parse_args()
    # Text as text and no date, so that the same table gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hcml"}):
        metadata = {"Date": None} if options.output.suffix == ".svg" else {}
        draw(last_rows(options.results)).savefig(options.output, dpi=120, metadata=metadata)


if __name__ == "__main__":
    main()

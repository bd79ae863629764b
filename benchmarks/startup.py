"""Measure how long imports and commands take to start.

`python benchmarks/startup.py` starts a new Python for every import and command, in turns, and records the medians:
wall time; CPU time, which other load on the machine affects less; and CPU time relative to that of `import torch`,
which every command that computes needs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from report import FOLDER, record

TORCH = "import torch"
PROGRAMS = {
    "python": ("-c", "pass"),
    "import hcml_lightning": ("-c", "import hcml_lightning"),
    TORCH: ("-c", TORCH),
    "import torch, hcml_lightning": ("-c", "import torch, hcml_lightning"),
    "import hcml_lightning.ops": ("-c", "import hcml_lightning.ops"),
    "import pytorch_lightning": ("-c", "import pytorch_lightning"),
    "import hcml_lightning.tasks": ("-c", "import hcml_lightning.tasks"),
    "hcml --help": ("-m", "hcml_lightning", "--help"),
    "hcml --version": ("-m", "hcml_lightning", "--version"),
    "hcml progressive --help": ("-m", "hcml_lightning", "progressive", "--help"),
    "hcml demo --help": ("-m", "hcml_lightning", "demo", "--help"),
    "hcml fit --help": ("-m", "hcml_lightning", "fit", "--help"),
}


def seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """Return wall and CPU time in seconds of Python with these words.

    Raises:
        subprocess.CalledProcessError: if the program fails.
    """
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def main() -> None:
    """Start all programs in turns and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns, after one to fill the cache")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "startup.csv")
    options = parser.parse_args()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for turn in range(options.repeats + 1):
        for name, words in PROGRAMS.items():
            taken = seconds(words)
            if turn:
                samples[name].append(taken)
    medians = {
        name: [statistics.median(one) for one in zip(*taken, strict=True)]
        for name, taken in samples.items()
    }
    rows = [
        {
            "what": name,
            "seconds": f"{wall:.3f}",
            "cpu_seconds": f"{cpu:.3f}",
            "of_torch": f"{cpu / medians[TORCH][1]:.3f}",
        }
        for name, (wall, cpu) in medians.items()
    ]
    print(*("\t".join(row.values()) for row in rows), sep="\n")
    record(rows, options.output, ("torch", "pytorch-lightning"))


if __name__ == "__main__":
    main()

"""Make a copy of a dataset that keeps only a share of its labels."""

import os
from pathlib import Path

import numpy as np

from protocol import exclusive


def with_share_of_labels(source: Path, target: Path, percent: int) -> None:
    """Make a dataset whose training lists name a share of each class; its videos are a link to those of the source.

    The chosen videos are the same for every seed, so that seeds differ in the training only.

    Args:
        source: a dataset in the layout of UCF-101.
        target: folder to make; left unchanged if it exists.
        percent: share of each class to keep, in %; at least one video is kept.
    """
    with exclusive(target):
        if not target.is_dir():
            _make(source, target, percent)


def _make(source: Path, target: Path, percent: int) -> None:
    partial = target.with_name(f".{target.name}.part")
    lists = partial / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    for file in sorted((source / "ucfTrainTestlist").iterdir()):
        lines = file.read_text().splitlines()
        if file.name.startswith("trainlist"):
            lines = _share(lines, percent)
        (lists / file.name).write_text("\n".join(lines) + "\n")
    if not (partial / "videos").exists():
        os.symlink((source / "videos").resolve(), partial / "videos")
    partial.rename(target)


def _share(lines: list[str], percent: int) -> list[str]:
    classes: dict[str, list[str]] = {}
    for line in filter(None, lines):
        classes.setdefault(line.split("/")[0], []).append(line)
    rng = np.random.default_rng(0)
    chosen = []
    for names in classes.values():
        count = max(1, round(len(names) * percent / 100))
        chosen += [names[i] for i in sorted(rng.permutation(len(names))[:count])]
    return chosen

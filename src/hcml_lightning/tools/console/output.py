"""[numbers → **text and files**]

How the tools print tables and write files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hcml_lightning.storage import write_whole

MOST_SHOWN = 5


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line, without the per-step duplicates that Lightning adds.

    Example:
        >>> format_metrics({"val/top1": 0.51239, "loss_step": 3.0})
        'val/top1 0.5124'
    """
    shown = {name: value for name, value in metrics.items() if not name.endswith("_step")}
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items())) or "none"


def counted(number: float | None, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    Example:
        >>> counted(1, "epoch"), counted(2, "epoch"), counted(0.5, "epoch")
        ('1 epoch', '2 epochs', '0.5 epochs')
    """
    shown = f"{number:g}" if isinstance(number, float) else number
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    r"""Escape line ends and control characters in a name, so that a terminal does not interpret them.

    Example:
        >>> print(printable("a\nb\x1b[2J.mp4"))
        a\nb\x1b[2J.mp4
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_group(title: str, cases: Sequence[str]) -> None:
    """Print the number of cases of a kind and the first few of them, if there are any."""
    if not cases:
        return
    print(f"  {len(cases)} {title}:")
    for case in cases[:MOST_SHOWN]:
        print(f"    {printable(case)}")
    if len(cases) > MOST_SHOWN:
        print(f"    … and {len(cases) - MOST_SHOWN} more")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, with a line below the first."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
        if i == 0:
            print("-" * (sum(widths) + 2 * len(widths) - 2), flush=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step, so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, so that a reader never sees half of it."""
    # Names of files need not be UTF-8; `surrogateescape` writes their bytes unchanged.
    write_whole(path, text.encode(errors="surrogateescape"))

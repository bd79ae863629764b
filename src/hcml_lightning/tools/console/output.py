"""[numbers → **text and files**]

How the tools print help and tables, and write files.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hcml_lightning.storage import write_whole

MOST_SHOWN = 5


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults in help, but not those of options that are simply off, such as None."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if str(action.default) in ("None", "False", "[]"):
            return action.help
        return super()._get_help_string(action)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line, without the per-step duplicates that Lightning adds.

    Example:
        >>> format_metrics({"val/top1": 0.51239, "loss_step": 3.0})
        'val/top1 0.5124'
    """
    shown = {name: value for name, value in metrics.items() if not name.endswith("_step")}
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items())) or "none"


def printable(text: str) -> str:
    r"""Escape line ends and control characters in a name, so that a terminal does not interpret them.

    Example:
        >>> print(printable("a\nb\x1b[2J.mp4"))
        a\nb\x1b[2J.mp4
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: float | None, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    Example:
        >>> counted(1, "epoch"), counted(0.5, "epoch"), counted(2, "class")
        ('1 epoch', '0.5 epochs', '2 classes')
    """
    shown = f"{number:g}" if isinstance(number, float) else number
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{shown} {noun if number == 1 else plural}"


def print_group(title: str, cases: Sequence[str], noun: str = "") -> None:
    """Print the number of cases of a kind and the first few of them, if there are any.

    Args:
        title: what the cases are, or what is the matter with them if there is a noun.
        cases: one line each.
        noun: what each case is, in singular.
    """
    if not cases:
        return
    print(f"  {counted(len(cases), noun) if noun else len(cases)} {title}:")
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

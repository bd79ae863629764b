"""[rows of csv → **groups, means and differences of rows** → tables]

Helpers that the tables of RESULTS.md are built with.
"""

import statistics
from collections.abc import Sequence

Row = dict[str, str]

MISSING = "not measured"


def groups(rows: Sequence[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Group rows by their values in some columns; groups are in the order of their first rows."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def differences(before: Sequence[Row], after: Sequence[Row], column: str = "top1") -> list[float]:
    """Return the gains from one method to another, over the rows that share data, protocol, network and seed."""
    places = ("dataset", "split", "protocol", "backbone", "seed")
    first = {tuple(row[place] for place in places): float(row[column]) for row in before}
    same = [(first.get(tuple(row[place] for place in places)), row) for row in after]
    return [float(row[column]) - value for value, row in same if value is not None]


def mean(rows: Sequence[Row], column: str) -> float:
    """Return the mean of a column."""
    return statistics.mean(float(row[column]) for row in rows)


def spread(rows: Sequence[Row], column: str, places: int = 1) -> str:
    """Format the mean and, if there are several rows, the standard deviation of a column."""
    values = [float(row[column]) for row in rows]
    if not values:
        return MISSING
    text = f"{statistics.mean(values):.{places}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{places}f}"


def seeds(rows: Sequence[Row]) -> str:
    """Format the number of rows as a number of seeds."""
    return f"{len(rows)} seed{'s' * (len(rows) != 1)}"

"""[names of the classes of weights, and of data → **where they differ** → task]"""

from collections.abc import Sequence


def first_difference(known: Sequence[str], names: Sequence[str]) -> str | None:
    """Say where two lists of as many classes differ.

    Args:
        known: of the weights, in the order of their labels.
        names: of the data.

    Returns:
        A clause; None where they are the same.

    Example:
        >>> first_difference(["run", "sit"], ["run", "walk"])
        "number 1 was 'sit', and is 'walk' here"
    """
    for number, (one, other) in enumerate(zip(known, names, strict=True)):
        if one != other:
            return f"number {number} was {one!r}, and is {other!r} here"
    return None

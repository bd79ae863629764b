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


def check_classes(number: int, known: Sequence[str] | None, names: Sequence[str]) -> None:
    """Hold a classifier to the classes of the data that it is to be trained or measured on.

    Args:
        number: of the classifier's classes.
        known: their names, where the weights came with them.
        names: of the data's classes.

    Raises:
        ValueError: if they are not the same.
    """
    if number != len(names):
        raise ValueError(
            f"num_classes is {number}, but the data has {len(names)} classes: make the task with "
            "num_classes=data.num_classes; from the command line it is taken from the data"
        )
    if known is not None and (difference := first_difference(known, names)):
        raise ValueError(
            f"these weights were trained on other classes than those of the data: {difference}. Give the data that "
            "they were trained on, or start a new task from their checkpoint with init_from"
        )

"""[names of the classes of weights, and of data → **where they differ** → task]"""

from collections.abc import Sequence


def first_difference(known: Sequence[str], names: Sequence[str]) -> str | None:
    """Describe where two lists of equally many classes first differ.

    Args:
        known: class names of the weights, in the order of their labels.
        names: class names of the data.

    Returns:
        A clause for a message; None if they are the same.

    Example:
        >>> first_difference(["run", "sit"], ["run", "walk"])
        "number 1 was 'sit' and is 'walk' here"
    """
    for number, (one, other) in enumerate(zip(known, names, strict=True)):
        if one != other:
            return f"number {number} was {one!r} and is {other!r} here"
    return None


def check_classes(number: int, known: Sequence[str] | None, names: Sequence[str]) -> None:
    """Raise an error if a classifier is not for the classes of the data that it is trained or evaluated on.

    Args:
        number: number of classes of the classifier.
        known: their names, if they were stored with the weights.
        names: class names of the data.

    Raises:
        ValueError: if numbers or names of the classes differ.
    """
    if number != len(names):
        raise ValueError(
            f"num_classes is {number}, but the data has {len(names)} classes; create the task with "
            "num_classes=data.num_classes (on the command line it is taken from the data)"
        )
    if known is not None and (difference := first_difference(known, names)):
        raise ValueError(
            f"these weights were trained on other classes than those of the data: {difference}; use the data that "
            "they were trained on, or start a new task from their checkpoint with init_from"
        )

"""[arguments of tasks and data modules → **in range, or an error with the name**]

Tasks and data modules check their arguments when they are created, and not at the first batch.
"""

from collections.abc import Sequence
from typing import Any, cast


def check_at_least(least: float, **values: float) -> None:
    """Raise an error if a value is too small or NaN; the keywords are the names of the checked arguments.

    Raises:
        ValueError: if a value is not at least `least`; it names the first such argument.

    Example:
        >>> check_at_least(0, lr=-0.1)
        Traceback (most recent call last):
        ValueError: lr must be at least 0, got -0.1
    """
    for name, value in values.items():
        # `value < least` would accept NaN, and a loss term with that weight would be left out silently.
        if not _number(name, value) >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_whole(least: int, **values: int) -> None:
    """Raise an error if an argument is not a whole number, or less than `least`; the message names the argument.

    Raises:
        ValueError: for the first such argument.

    Example:
        >>> check_whole(1, clip_length=4.5)
        Traceback (most recent call last):
        ValueError: clip_length must be a whole number, got 4.5
    """
    for name, value in values.items():
        if not hasattr(value, "__index__"):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_at_least(least, **values)


def check_above_zero(**values: float) -> None:
    """Raise an error if a value is not above zero.

    Raises:
        ValueError: if a value is 0, negative or NaN; it names the first such argument.
    """
    for name, value in values.items():
        if not _number(name, value) > 0:
            raise ValueError(f"{name} must be greater than 0, got {value}")


def check_share(**values: float) -> None:
    """Raise an error if a value is not a share, at least 0 and below 1.

    Raises:
        ValueError: if a value is out of this range or NaN; it names the first such argument.
    """
    for name, value in values.items():
        if not 0 <= _number(name, value) < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {value}")


def check_one_of(name: str, value: Any, taken: Sequence[Any]) -> None:
    """Raise an error if a value is not one of the accepted words or numbers.

    Args:
        name: name of the checked argument, for the message.
        value: its value.
        taken: the accepted values.

    Raises:
        ValueError: if it is none of them.
    """
    if value not in taken:
        words = " or ".join(repr(word) for word in taken)
        raise ValueError(f"{name} must be {words}, got {value!r}")


def _number(name: str, value: Any) -> float:
    """Return a value that is a number, as those of NumPy and PyTorch are too.

    Raises:
        ValueError: if it is not.
    """
    if value is None or isinstance(value, str | Sequence):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return cast("float", value)

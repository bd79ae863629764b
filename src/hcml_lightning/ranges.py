"""[arguments of tasks and data modules → **in range, or an error with the name**]

Said when something is made, and not in the first batch.
"""

from collections.abc import Sequence
from typing import Any


def check_at_least(least: float, **values: float) -> None:
    """Refuse numbers that are too small, by the names that they have as arguments, and what is no number.

    Raises:
        ValueError: with the first of them.

    Example:
        >>> check_at_least(0, lr=-0.1)
        Traceback (most recent call last):
        ValueError: lr must be at least 0, but is -0.1
    """
    for name, value in values.items():
        # NaN is not below either; a term with that weight would be left out without a word.
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, but is {value}")


def check_above_zero(**values: float) -> None:
    """Refuse numbers that are not above zero.

    Raises:
        ValueError: with the first of them.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, but is {value}")


def check_share(**values: float) -> None:
    """Refuse what is no share below one.

    Raises:
        ValueError: with the first of them.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, but is {value}")


def check_one_of(name: str, value: Any, taken: Sequence[Any]) -> None:
    """Refuse what is none of a few words or numbers.

    Raises:
        ValueError: if it is none of them.
    """
    if value not in taken:
        words = " or ".join(repr(word) for word in taken)
        raise ValueError(f"{name} must be {words}, but is {value!r}")

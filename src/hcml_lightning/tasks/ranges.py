"""[arguments of a task → **in range, or an error with the name**]"""


def refuse_negative(**values: float) -> None:
    """Refuse numbers below zero, by the names that they have as arguments, and what is no number.

    Raises:
        ValueError: if there is one.

    Example:
        >>> refuse_negative(lr=-0.1)
        Traceback (most recent call last):
        ValueError: lr must be at least 0, but is -0.1
    """
    for name, value in values.items():
        # NaN is not below 0 either; a term with that weight would be left out without a word.
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, but is {value}")


def refuse_zero(**values: float) -> None:
    """Refuse numbers that are not above zero, by the names that they have as arguments.

    Raises:
        ValueError: if there is one.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, but is {value}")


def refuse_one(**values: float) -> None:
    """Refuse what is no share below one, by the names that they have as arguments.

    Raises:
        ValueError: if there is one.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, but is {value}")

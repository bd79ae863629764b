"""[many names → **a few of them, and how many more**]

How errors and summaries name things of which there may be thousands.
"""

from collections.abc import Sequence


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and the number of the others.

    Example:
        >>> first_few("abcde"), first_few([])
        ('a, b, c and 2 more', 'none')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more

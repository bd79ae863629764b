"""[arguments of a data module → **whether they make sense** → splits]

Said when it is made, and not in the first batch.
"""

from collections.abc import Sequence
from typing import Any


def check_frame_stride(value: Any) -> None:
    """Refuse what is neither a number of frames nor "spread".

    Raises:
        ValueError: if it is neither.
    """
    if value != "spread" and not (hasattr(value, "__index__") and value >= 1):
        raise ValueError(
            f"frame_stride must be a whole number of frames, 1 or more, or 'spread', but is {value!r}."
        )


def check_sizes(short_side: Any, crop_size: int) -> tuple[int, int]:
    """Refuse a crop that does not fit into the scaled video.

    Returns:
        The least and the greatest short side.

    Raises:
        ValueError: if it does not fit, or the short side is no range.
    """
    if not isinstance(short_side, Sequence) or len(short_side) != 2:
        raise ValueError(
            f"short_side must be two numbers, the least and the greatest, but is {short_side!r}."
        )
    low, high = short_side
    if not crop_size <= low <= high:
        raise ValueError(
            f"short_side={low, high} must be ascending and hold crop_size={crop_size}."
        )
    return low, high

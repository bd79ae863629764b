"""[features → **results that half precision would spoil** → losses and metrics]

For operations that must run in the precision of their inputs, whatever precision the training uses.
"""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which autocast is off.

    Args:
        device_type: type of the device that computes, such as `cuda`.

    Example:
        >>> x = torch.eye(2)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision("cpu"):
        ...     (x @ x).dtype
        torch.float32
    """
    # The meta device, on which operations are counted, does not support autocast.
    if device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, enabled=False)

"""[features → **numbers that half precision would spoil** → losses and metrics]

Where a product has to be taken in the precision of its inputs, whatever the precision of the training around it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Switch autocast off for a while.

    Args:
        device_type: of the device that computes, such as `cuda`.

    Example:
        >>> x = torch.eye(2)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision("cpu"):
        ...     (x @ x).dtype
        torch.float32
    """
    # The meta device, on which operations are counted, has no autocast to leave.
    if device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, enabled=False)

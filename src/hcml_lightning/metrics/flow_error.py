"""[flow → **distance from the true flow**]

The end-point error, for videos whose true flow is known.
"""

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class EndPointError(MeanMetric):
    """Mean Euclidean distance between estimated and true flow, in the unit of the flow.

    Example:
        >>> error = EndPointError()
        >>> error.update(torch.zeros(1, 2, 4, 4), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4))
        >>> float(error.compute())
        5.0
    """

    def __init__(self) -> None:
        # NaN is kept, so that a broken flow shows in the mean instead of being dropped from it.
        super().__init__(nan_strategy="disable")

    def update(self, flow: Tensor, true_flow: Tensor) -> None:  # type: ignore[override]
        """Add flow fields, both (N, 2, ...).

        Raises:
            ValueError: if the shapes do not match or are not (N, 2, ...).
        """
        super().update(end_point_distance(flow, true_flow))


def end_point_distance(flow: Tensor, true_flow: Tensor) -> Tensor:
    """Return the Euclidean distance between estimated and true flow, (N, ...), of flow fields (N, 2, ...).

    Raises:
        ValueError: if the shapes do not match or are not (N, 2, ...).
    """
    if flow.shape != true_flow.shape or flow.ndim < 2 or flow.shape[1] != 2:
        raise ValueError(
            f"flow and true_flow must have the same shape (N, 2, ...), "
            f"got {tuple(flow.shape)} and {tuple(true_flow.shape)}"
        )
    distance: Tensor = torch.linalg.vector_norm(flow.float() - true_flow.float(), dim=1)
    return distance

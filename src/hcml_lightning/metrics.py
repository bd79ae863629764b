"""[prediction → **number**]

What is reported: accuracy of videos, end-point error of flow, how spread motion features are, and the efficacy score.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.utilities import dim_zero_cat

from hcml_lightning.ops.precision import full_precision


class VideoAccuracy(Metric):
    """Top-k accuracy over videos, each counted exactly once, however many ranks share them or pad their last batch.

    Args:
        top_k: how many of the highest scores may hold the right class.

    Example:
        >>> accuracy = VideoAccuracy()
        >>> scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
        >>> accuracy.update(scores, torch.tensor([0, 0, 0]), torch.tensor([7, 8, 8]))  # video 8 came twice
        >>> float(accuracy.compute())
        0.5
    """

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    labels: list[Tensor]
    indices: list[Tensor]

    def __init__(self, top_k: int = 1) -> None:
        super().__init__()
        self.top_k = top_k
        for name in ("scores", "labels", "indices"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Add videos.

        Args:
            scores: (B, K), any monotone measure; those of a test over several views are averaged before.
            labels: true classes, int64, (B,).
            indices: position of each video in its split, int64, (B,).
        """
        self.scores.append(scores.detach().float())
        self.labels.append(labels)
        self.indices.append(indices)

    def compute(self) -> Tensor:
        """Accuracy in 0..1."""
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        first = _first_of_each(dim_zero_cat(self.indices))
        num_classes = scores.shape[1]
        return multiclass_accuracy(
            scores[first],
            labels[first],
            num_classes,
            average="micro",
            top_k=min(self.top_k, num_classes),
        )


class BatchMeans(Metric):
    """Means of what is measured batch by batch, each batch weighted by its videos and counted once.

    However many ranks share the batches, the means are the same to the last digit. Lightning's own average over ranks
    is not, where ranks have different numbers of videos.

    Example:
        >>> means = BatchMeans()
        >>> means.update({"loss": torch.tensor(1.0)}, torch.tensor([0, 1, 2]))
        >>> means.update({"loss": torch.tensor(5.0)}, torch.tensor([3]))
        >>> {name: float(mean) for name, mean in means.compute().items()}
        {'loss': 2.0}
    """

    full_state_update = False
    values: list[Tensor]
    weights: list[Tensor]
    indices: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        for name in ("values", "weights", "indices"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, values: Mapping[str, Tensor | float], indices: Tensor) -> None:
        """Add a batch.

        Args:
            values: scalars, in every batch of the same names.
            indices: position of each video in its split, int64, (B,).

        Raises:
            ValueError: if the names differ from those of the batch before.
        """
        if self.values and self.names != tuple(values):
            raise ValueError(f"expected values named {self.names}, got {tuple(values)}")
        self.names = tuple(values)
        row = [
            torch.as_tensor(v, dtype=torch.float32, device=indices.device) for v in values.values()
        ]
        self.values.append(torch.stack(row)[None])
        self.weights.append(torch.full_like(indices[:1], len(indices)))
        self.indices.append(indices[:1])

    def compute(self) -> dict[str, Tensor]:
        """Means by name."""
        first = _first_of_each(dim_zero_cat(self.indices))
        # In the order of the videos and in double precision, so that it does not matter which rank had which batch.
        weights = dim_zero_cat(self.weights)[first].cpu().double()
        values = dim_zero_cat(self.values)[first].cpu().double()
        means = (weights @ values / weights.sum()).float().to(first.device)
        return dict(zip(self.names, means, strict=True))


class EndPointError(Metric):
    """Mean Euclidean distance between estimated and true flow, in the unit of the flow.

    Example:
        >>> error = EndPointError()
        >>> error.update(torch.zeros(1, 2, 4, 4), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4))
        >>> float(error.compute())
        5.0
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, flow: Tensor, true_flow: Tensor) -> None:
        """Add flow fields, both (N, 2, ...).

        Raises:
            ValueError: if the shapes disagree.
        """
        distance = end_point_distance(flow, true_flow)
        self.total = self.total + distance.sum()
        self.count = self.count + distance.numel()

    def compute(self) -> Tensor:
        """Mean distance."""
        return self.total / self.count


def end_point_distance(flow: Tensor, true_flow: Tensor) -> Tensor:
    """Euclidean distance between estimated and true flow, (N, ...), of flow fields (N, 2, ...).

    Raises:
        ValueError: if the shapes disagree.
    """
    if flow.shape != true_flow.shape or flow.ndim < 2 or flow.shape[1] != 2:
        raise ValueError(
            f"flow and true_flow must have the same shape (N, 2, ...), "
            f"got {tuple(flow.shape)} and {tuple(true_flow.shape)}"
        )
    distance: Tensor = torch.linalg.vector_norm(flow.float() - true_flow.float(), dim=1)
    return distance


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """How far features point in different directions: 0 where they collapsed to one, about 1 where they fill space.

    Args:
        features: (B, C, T, H, W).

    Returns:
        Scalar: √C times the mean over channels of the standard deviation of the unit vectors over B, T, H, W.

    Example:
        >>> float(feature_spread(torch.ones(2, 8, 3, 4, 4)))
        0.0
    """
    vectors = F.normalize(features.movedim(1, -1).flatten(0, -2).float(), dim=1, eps=1e-6)
    return vectors.std(dim=0, correction=0).mean() * math.sqrt(vectors.shape[1])


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """Over how many directions features spread: 1 where they lie on a line, C where they fill all channels alike.

    The exponential of the entropy of the normalised eigenvalues of the covariance (Roy and Vetterli, 2007).

    Args:
        features: (B, C, T, H, W).

    Returns:
        Scalar in 1..C; 1 where all features are the same, NaN where one of them is not finite.

    Example:
        >>> line = torch.arange(8.0).view(8, 1, 1, 1, 1) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
        >>> round(float(effective_rank(line)), 3)
        1.0
    """
    vectors = features.movedim(1, -1).flatten(0, -2).float()
    vectors = vectors - vectors.mean(dim=0)
    # Half precision cannot hold sums over so many places, and has no eigenvalues on a GPU.
    with full_precision(vectors.device.type):
        covariance = vectors.t() @ vectors
        finite = covariance.isfinite().all()
        # Eigenvalues of what is not finite are an error, and say nothing about where it comes from.
        eigenvalues = torch.linalg.eigvalsh(covariance.where(finite, 0)).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float32).tiny)
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank.where(finite, torch.nan)


def feature_health(level: int, features: Tensor) -> dict[str, Tensor]:
    """What tells whether the motion features of a level have collapsed.

    Args:
        level: l.
        features: P^l, (B, C, T, H, W).

    Returns:
        `spread_l{level}` by `feature_spread` and `rank_l{level}` by `effective_rank`.
    """
    return {
        f"spread_l{level}": feature_spread(features),
        f"rank_l{level}": effective_rank(features),
    }


def _first_of_each(indices: Tensor) -> Tensor:
    """Where each of the different indices comes first, in their order."""
    inverse: Tensor = torch.unique(indices, return_inverse=True)[1]
    first = inverse.new_full((int(inverse.max()) + 1,), len(inverse))
    return first.scatter_reduce(0, inverse, torch.arange(len(inverse), device=first.device), "amin")


def efficacy_score(train_accuracy: float, test_accuracy: float) -> float:
    """Acc_train / (Acc_train − Acc_test): discriminative and general features score high (Sec. 4.2).

    Args:
        train_accuracy: top-1 on the training set, of a light classifier on the features.
        test_accuracy: top-1 on the test set, in the same unit.

    Returns:
        The score; infinite where the classifier is no worse on the test set, so that no gap is left to divide by.

    Example:
        >>> efficacy_score(0.75, 0.5)
        3.0
    """
    gap = train_accuracy - test_accuracy
    return train_accuracy / gap if gap > 0 else math.inf

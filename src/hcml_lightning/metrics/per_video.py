"""[predictions and losses of batches → **means over videos**]

Accuracies count each video exactly once, whatever the number of ranks, and even if it is repeated to fill a rank's last
batch. Other means count each batch once; they are means over videos if each batch goes to one rank as a whole, as
`EvaluationSampler` deals them out.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.utilities import dim_zero_cat

from hcml_lightning.ranges import check_at_least


class VideoAccuracy(Metric):
    """Top-k accuracy over videos, each counted exactly once, even if ranks repeat videos to fill their last batch.

    Args:
        top_k: k; a video is right if its class is among the k highest scores.

    Raises:
        ValueError: if top_k is less than 1.

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
        check_at_least(1, top_k=top_k)
        self.top_k = top_k
        for name in ("scores", "labels", "indices"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Add videos.

        Args:
            scores: (B, K), logits, probabilities or any other score that is higher for likelier classes; average the
                scores of several views of a video before adding them.
            labels: true classes, int64, (B,); a video with a negative (unknown) class does not count.
            indices: position of each video in its split, int64, (B,).

        Raises:
            ValueError: if the arguments have different numbers of videos.
        """
        if not len(scores) == len(labels) == len(indices):
            raise ValueError(
                f"expected scores, labels and indices of the same number of videos, got {len(scores)}, {len(labels)} "
                f"and {len(indices)}"
            )
        self.scores.append(scores.detach().float())
        self.labels.append(labels)
        self.indices.append(indices)

    def compute(self) -> Tensor:
        """Return the accuracy in 0..1; NaN if no video has a known class, or a video with one has a NaN score."""
        if not sum(map(len, self.scores)):
            return torch.tensor(torch.nan, device=self.device)
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        first = _first_of_each(dim_zero_cat(self.indices))
        first = first[labels[first] >= 0]
        if len(first) == 0:
            return scores.new_tensor(torch.nan)
        broken = int(scores[first].isnan().any(dim=1).sum())
        if broken:
            # Among NaN scores the first would count as the highest, so class 0 could be counted as right.
            rank_zero_warn(
                f"the scores of {broken} of {len(first)} videos are NaN, and so is the accuracy, because "
                "numbers overflow in the network; evaluate in 32 bits (--trainer.precision 32)"
            )
            return scores.new_tensor(torch.nan)
        num_classes = scores.shape[1]
        return multiclass_accuracy(
            scores[first],
            labels[first],
            num_classes,
            average="micro",
            top_k=min(self.top_k, num_classes),
        )


class BatchMeans(Metric):
    """Means of values measured batch by batch, each batch weighted by its number of videos and counted once.

    With the data modules of this package, the means are the same to the last digit for any number of ranks. Lightning's
    average over ranks is not, if ranks have different numbers of videos.

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
            values: scalars by name; every batch must have the same names.
            indices: position of each video in its split, int64, (B,).

        Raises:
            ValueError: if the names differ from those of the previous batch.
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
        """Return the means by name."""
        first = _first_of_each(dim_zero_cat(self.indices))
        # Sum in the order of the videos and in double precision, so that the result does not depend on the ranks.
        weights = dim_zero_cat(self.weights)[first].cpu().double()
        values = dim_zero_cat(self.values)[first].cpu().double()
        means = (weights @ values / weights.sum()).float().to(first.device)
        return dict(zip(self.names, means, strict=True))


def _first_of_each(indices: Tensor) -> Tensor:
    """Return the position of the first occurrence of each distinct index, in ascending order of the indices."""
    return torch.as_tensor(np.unique(indices.cpu(), return_index=True)[1], device=indices.device)

"""[clip → P^{l−1}, P^l → predicted future → **contrastive loss**]

One contrastive level (Sec. 3.2): its motion features learn to predict the future of the frozen level below.
"""

import math
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, distributed, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from hcml_lightning.batch import VideoBatch, middle_view
from hcml_lightning.losses import contrastive_accuracy, contrastive_loss
from hcml_lightning.metrics import feature_health
from hcml_lightning.ranges import check_above_zero, check_whole
from hcml_lightning.tasks.base import MotionTask


class ContrastTask(MotionTask):
    """Contrastive stage of one level, on top of frozen levels below.

    Args:
        level: l, whose motion features are trained.
        temperature: τ of Eq. 2, divides the cosine similarities.
        num_locations: N, locations sampled in each clip on the grid of the level below.
        gather_negatives: whether the targets of all devices, not only those of the same one, are negatives in training.
        **shared: arguments of every task.

    Raises:
        ValueError: if the level has no motion block, or no level below it has one, or a number is out of its range.
    """

    ON_FROZEN: ClassVar[bool] = True
    SELF_SUPERVISED: ClassVar[bool] = True

    # Unstated in the paper: N.
    def __init__(
        self,
        level: int = 1,
        temperature: float = 0.07,
        num_locations: int = 32,
        gather_negatives: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_above_zero(temperature=temperature)
        check_whole(1, num_locations=num_locations)
        self.level, self.below = level, self.model.level_below(level)
        self.temperature, self.num_locations = temperature, num_locations
        self.gather_negatives = gather_negatives

    def trained_modules(self) -> list[nn.Module]:
        """Return the modules that the loss reaches and that leave the levels below unchanged, including g^{l−1}."""
        network = self.model.network
        # Departure: "all network parameters up to level l − 1" are frozen in the paper. Here g^{l−1} is trained. It
        # feeds P^{l−1} into the stage above without changing it; if frozen, it would stay at its zero start.
        return [
            network.block(self.below).project,
            *network.stages[self.below + 1 : self.level + 1],
            network.block(self.level).extract,
            self.side.predictor(self.level),
        ]

    def lower_level(self) -> int:
        """Return the level whose features this one predicts."""
        return self.below

    def on_train_batch_start(self, batch: VideoBatch, batch_idx: int) -> None:
        """Warn if clips are too short for the level to see any motion."""
        super().on_train_batch_start(batch, batch_idx)
        frames = batch["video"].shape[2]
        if batch_idx == 0 and frames <= 2**self.level:
            rank_zero_warn(
                f"level {self.level} sees a single frame of a clip of {frames}, which its cost volume compares with "
                f"itself, so its features contain no motion; raise clip_length (--data.clip_length) to "
                f"{2 ** (self.level + 1)} or more"
            )

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """Return the loss of Eq. 2."""
        return self._step(batch, "train")

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log Eq. 2, how often the nearest target is the right one, and whether the features have collapsed."""
        self._step(batch, "val")

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log the same as in validation, on the middle view."""
        self._step(middle_view(batch), "test")

    def _step(self, batch: VideoBatch, stage: str) -> Tensor:
        clip = batch["video"]
        network = self.model.network
        levels = [level for level in network.levels if level <= self.level]
        motion = dict(zip(levels, network.motion_features(clip, self.level), strict=True))
        predicted, targets, positive = self.contrast_pairs(self.level, motion, self.num_locations)
        # In evaluation ranks may have different numbers of videos, and a rank must not wait for one that has finished.
        together = self._trainer is not None and self.trainer.world_size > 1
        if self.gather_negatives and stage == "train" and together:
            targets, positive = gather_targets(targets, positive)
        loss = contrastive_loss(predicted, targets, positive, self.temperature)
        # Logged under the same name as in joint training, so that one curve covers all stages.
        name = f"contrast_l{self.level}"
        values: dict[str, Tensor | float] = {"loss": loss.detach(), name: loss.detach()}
        if stage != "train":
            values |= {
                f"{name}_chance": math.log(len(targets)),
                f"{name}_top1": contrastive_accuracy(predicted, targets, positive),
                **feature_health(self.level, motion[self.level]),
            }
        self.log_mean({f"{stage}/{k}": v for k, v in values.items()}, batch)
        return loss


def gather_targets(targets: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Join the targets of all processes, whose numbers may differ because broken videos may be left out.

    Args:
        targets: targets of this process, (S, C).
        positive: the row of `targets` for each prediction, int64, (P,).

    Returns:
        Targets of all processes, in the order of their ranks and without gradient, and the row of these for each
        prediction of this process.
    """
    parts = gather_all_tensors(targets.detach())
    before = sum(len(part) for part in parts[: distributed.get_rank()])
    return torch.cat(parts), positive + before

"""[clip → logits, flow, predicted future → **joint loss → accuracy**]

Joint training for action recognition (Sec. 3.4, Eq. 5); the plain baseline and fine-tuning are the same with fewer
terms.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.batch import VideoBatch
from hcml_lightning.losses import contrastive_loss
from hcml_lightning.metrics import feature_health
from hcml_lightning.ranges import check_above_zero, check_at_least, check_whole
from hcml_lightning.tasks.classification import ClassificationTask


class RecognitionTask(ClassificationTask):
    """Action recognition together with the self-supervised terms of all levels (Eq. 5).

    `levels=[]` is the plain baseline; `flow_weight=0` and `contrast_weights=[0, 0]` train motion blocks by the
    classification loss alone; `init_from` a self-supervised or a recognition checkpoint means fine-tuning.

    Args:
        flow_weight: λ, weight of the reconstruction loss; 0 leaves it out.
        contrast_weights: γ, weights of the contrastive losses, lowest level first; 0 leaves one out, and weights beyond
            the highest level are ignored.
        smoothness_weight: ζ, weight of the smoothness term in the reconstruction loss.
        temperature: τ of Eq. 2, divides the cosine similarities.
        num_locations: N, locations sampled in each clip on the grid of the level below.
        **shared: arguments of every task that classifies.

    Raises:
        ValueError: if `contrast_weights` is no list, there are fewer weights than contrastive levels, fewer than two
            classes, or a number out of its range.
    """

    def __init__(
        self,
        flow_weight: float = 15.0,
        contrast_weights: tuple[float, ...] = (0.25, 0.25),
        smoothness_weight: float = 0.0025,
        temperature: float = 0.07,
        num_locations: int = 32,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        levels = self.model.levels
        # Iterated, a mapping by level would give its levels as weights.
        if isinstance(contrast_weights, Mapping) or not hasattr(contrast_weights, "__len__"):
            raise ValueError(
                f"contrast_weights must be a list of weights, lowest level first, got {contrast_weights!r}"
            )
        if len(contrast_weights) < len(levels[1:]):
            raise ValueError(
                f"contrast_weights must have a weight for each contrastive level {levels[1:]}, got {contrast_weights}"
            )
        # A negative weight would silently leave its term out, as 0 does.
        check_above_zero(temperature=temperature)
        check_whole(1, num_locations=num_locations)
        check_at_least(0, flow_weight=flow_weight, smoothness_weight=smoothness_weight)
        check_at_least(0, **{f"contrast_weights[{i}]": w for i, w in enumerate(contrast_weights)})
        self.flow_weight = flow_weight if levels else 0.0
        self.contrast_weights = dict(zip(levels[1:], contrast_weights, strict=False))
        self.smoothness_weight, self.temperature = smoothness_weight, temperature
        self.num_locations = num_locations

    def trained_modules(self) -> list[nn.Module]:
        """Return the whole network, and the parts of the side branch whose loss terms have a weight above 0."""
        modules: list[nn.Module] = [self.model.network]
        if self.flow_weight > 0:
            modules.append(self.side.flow_decoder(self.model.levels[0]))
        modules += [self.side.predictor(i) for i, w in self.contrast_weights.items() if w > 0]
        return modules

    def forward(self, clip: Tensor) -> Tensor:
        """Map RGB in 0..255, (B, 3, T, H, W), to logits (B, K)."""
        logits: Tensor = self.model.network(clip)
        return logits

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """Return the joint loss of Eq. 5."""
        clip, label = batch["video"], batch["label"]
        features, motion = self.model.network.features(clip)
        logits = self.model.network.classify(features)
        loss = F.cross_entropy(logits, label)
        values: dict[str, Tensor | float] = {"classification": loss.detach()}
        self.to_count = logits.detach(), label
        if self.flow_weight > 0:
            lowest = self.model.levels[0]
            flow = self.flow_terms(lowest, motion[lowest], clip)
            reconstruction = flow.loss(self.smoothness_weight)
            loss = loss + self.flow_weight * reconstruction
            values |= {"flow": reconstruction.detach(), **flow.measurements()}
        # Unstated in the paper: whether the level below is also pulled towards its prediction if both train. Here the
        # targets get no gradient, as in the stages before (with gradient 76.7 % instead of 79.3 %: RESULTS.md).
        # Unstated in the paper: whether clips of other devices are negatives. Here only those of the same device are,
        # as without `gather_negatives`.
        for level, weight in self.contrast_weights.items():
            if weight > 0:
                pairs = self.contrast_pairs(level, motion, self.num_locations)
                contrast = contrastive_loss(*pairs, temperature=self.temperature)
                loss = loss + weight * contrast
                values[f"contrast_l{level}"] = contrast.detach()
        values["loss"] = loss.detach()
        self.log_mean({f"train/{k}": v for k, v in values.items()}, batch)
        return loss

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log results on one centre crop of one clip of each video, as in the paper's ablations (Sec. 4.2)."""
        features, motion = self.model.network.features(batch["video"])
        logits = self.model.network.classify(features)
        loss = F.cross_entropy(logits, batch["label"])
        health = [feature_health(i, p) for i, p in motion.items()]
        values = {f"val/{k}": v for values in health for k, v in values.items()}
        # Under the name that this term has in training too, where `loss` is the sum of all terms.
        self.log_mean({"val/loss": loss, "val/classification": loss, **values}, batch)
        self.log_accuracy(self.val_accuracy, logits.softmax(dim=1), batch)

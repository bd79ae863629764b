"""[clip → frozen P^l → **light classifier → efficacy score**]

How discriminative and how general the motion features of one level are (Sec. 4.2, Table 1).
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.batch import VideoBatch
from hcml_lightning.metrics import efficacy_score
from hcml_lightning.models.backbones import backbone_spec, initialise_, keep_channels_last_
from hcml_lightning.ranges import check_whole
from hcml_lightning.tasks.classification import ClassificationTask


class ProbeTask(ClassificationTask):
    """A light classifier on the frozen motion features of one level; `init_from` names the checkpoint to be judged.

    Args:
        level: l, whose features are judged.
        hidden: channels of the classifier's one convolution.
        **shared: arguments of every task that classifies.

    Raises:
        ValueError: if the level has no motion block, there are fewer than two classes, or a number is out of its range.
    """

    ON_FROZEN: ClassVar[bool] = True

    # Unstated in the paper: the classifier. Here a 3×3×3 convolution over space and time, pooling, and a linear layer.
    def __init__(self, level: int = 0, hidden: int = 64, **shared: Any) -> None:
        super().__init__(**shared)
        check_whole(1, hidden=hidden)
        if level not in self.model.levels:
            raise ValueError(f"level must be one of the levels {self.model.levels}, got {level!r}")
        self.level = level
        channels = backbone_spec(self.hparams["backbone"]).motion_channels(level)
        self.probe = nn.Sequential(
            nn.BatchNorm3d(channels),
            nn.Conv3d(channels, hidden, 3, (1, 2, 2), 1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(hidden, self.num_classes),
        )
        initialise_(self.probe)
        keep_channels_last_(self.probe)

    def trained_modules(self) -> list[nn.Module]:
        """Return the probe only."""
        return [self.probe]

    def lower_level(self) -> int:
        """Return the level that is judged."""
        return self.level

    def forward(self, clip: Tensor) -> Tensor:
        """Map RGB in 0..255, (B, 3, T, H, W), to logits (B, K)."""
        with torch.no_grad():
            motion = self.model.network.motion_features(clip, up_to=self.level)[-1]
        return cast("Tensor", self.probe(motion))

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        logits = self(batch["video"])
        loss = F.cross_entropy(logits, batch["label"])
        self.to_count = logits.detach(), batch["label"]
        self.log_mean({"train/loss": loss.detach()}, batch)
        return loss

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log loss and accuracy on one centre crop of one clip of each video."""
        logits = self(batch["video"])
        self.log_mean({"val/loss": F.cross_entropy(logits, batch["label"])}, batch)
        self.log_accuracy(self.val_accuracy, logits.softmax(dim=1), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the efficacy score of Sec. 4.2, from the training accuracy of this epoch."""
        super().on_validation_epoch_end()
        # Unstated in the paper: what Acc_train is measured on. Here on the augmented clips of the epoch as it trains.
        if self.train_accuracy.update_called:
            train = float(self.train_accuracy.compute())
            test = float(self.val_accuracy.compute()["val/top1"])
            score = efficacy_score(train, test)
            self.log("val/efficacy", score, sync_dist=True)

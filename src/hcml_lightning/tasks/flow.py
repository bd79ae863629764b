"""[clip → P^l → flow → **reconstruction loss**]

The bootstrap (Sec. 3.3): the lowest level learns motion by reconstructing each frame from the next.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.batch import VideoBatch, middle_view
from hcml_lightning.metrics import end_point_distance, feature_health
from hcml_lightning.models.backbones import fold_time
from hcml_lightning.ranges import check_above_zero, check_at_least
from hcml_lightning.tasks.base import MotionTask


class FlowTask(MotionTask):
    """Flow bootstrap: everything up to and including the motion features of one level, trained by reconstruction.

    Args:
        level: 0 for the method itself; 1 and 2 for the "preliminary" supervision of Table 1.
        smoothness_weight: ζ of Sec. 3.3, weight of the smoothness term.
        flow_weight: factor of the whole loss, like λ in joint training: the photometric error of real video is about
            0.01, too small for SGD at the paper's learning rates.
        **shared: arguments of every task.

    Raises:
        ValueError: if the level has no motion block, or a weight is out of its range.
    """

    MONITOR: ClassVar[tuple[str, str]] = ("val/photometric", "min")
    SELF_SUPERVISED: ClassVar[bool] = True

    # Unstated in the paper: ζ. Measured with r2d_tiny and Adam: on UCF-101 and on depth video, whose
    # photometric error at zero flow is 0.02 and 0.008, 0.0025 lowered it by a fifth to a quarter in six epochs,
    # while 0.01 and more held the flow near zero. On the synthetic videos (0.06) the end-point error was lowest
    # with 0.03, which their recipe uses.
    def __init__(
        self,
        level: int = 0,
        smoothness_weight: float = 0.0025,
        flow_weight: float = 15.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_at_least(0, smoothness_weight=smoothness_weight)
        check_above_zero(flow_weight=flow_weight)
        self.level = level
        self.smoothness_weight, self.flow_weight = smoothness_weight, flow_weight
        if level not in self.model.levels:
            raise ValueError(f"level must be one of the levels {self.model.levels}, got {level!r}")

    def trained_modules(self) -> list[nn.Module]:
        """Return the stem, res stages, motion blocks and fusions up to this level, and the flow decoder."""
        network = self.model.network
        blocks = [network.block(i) for i in network.levels if i < self.level]
        return [
            network.conv1,
            network.bn1,
            *network.stages[: self.level + 1],
            *blocks,
            network.block(self.level).extract,
            self.side.flow_decoder(self.level),
        ]

    def lower_level(self) -> int:
        """Return -1, because this is the first stage."""
        return -1

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """Return the loss, λ(photometric + ζ · smoothness)."""
        return self._step(batch, "train")

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log the loss, the photometric error of zero flow, and the end-point error if the true flow is known."""
        self._step(batch, "val")

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log the same as in validation, on the middle view."""
        batch = middle_view(batch)
        self._step(batch, "test")

    def _step(self, batch: VideoBatch, stage: str) -> Tensor:
        clip = batch["video"]
        motion = self.model.network.motion_features(clip, up_to=self.level)[-1]
        terms = self.flow_terms(self.level, motion, clip)
        # Departure: the paper has λ in joint training only. Here it also scales the loss of the first stage, so that
        # the same learning rate and ζ suit both.
        reconstruction = terms.loss(self.smoothness_weight)
        loss = self.flow_weight * reconstruction
        values: dict[str, Tensor | float] = {
            "loss": loss.detach(),
            # Logged under the same name as in joint training, so that one curve covers all stages.
            "flow": reconstruction.detach(),
            **terms.measurements(),
            "flow_magnitude": torch.linalg.vector_norm(terms.flow.detach(), dim=1).mean(),
        }
        if stage != "train":
            values |= feature_health(self.level, motion) | self._errors(terms.flow, batch)
        self.log_mean({f"{stage}/{k}": v for k, v in values.items()}, batch)
        return loss

    def _errors(self, flow: Tensor, batch: VideoBatch) -> dict[str, Tensor]:
        # The true flow is between consecutive frames; levels above 0 see every other frame, or fewer.
        if "flow" not in batch or batch["flow"].shape[2] != flow.shape[2] + 1:
            return {}
        true = at_grid(batch["flow"], flow)
        return {
            "epe": end_point_distance(fold_time(flow), true).mean(),
            "epe_zero": end_point_distance(torch.zeros_like(true), true).mean(),
        }


def at_grid(true_flow: Tensor, flow: Tensor) -> Tensor:
    """Convert true flow to the grid and the unit of an estimate.

    Args:
        true_flow: flow in pixels, (B, 2, T, H, W), whose last frame is ignored.
        flow: estimate in cells of a coarser grid, (B, 2, T − 1, h, w), at the same frame rate.

    Returns:
        True flow in cells of the coarser grid, (B·(T − 1), 2, h, w).

    Raises:
        ValueError: if the frame rates differ.
    """
    if true_flow.shape[2] != flow.shape[2] + 1:
        raise ValueError(
            f"true flow of {true_flow.shape[2]} frames cannot be compared with an estimate for {flow.shape[2]} pairs; "
            f"expected {flow.shape[2] + 1} frames"
        )
    height, width = flow.shape[3:]
    cells = F.adaptive_avg_pool2d(fold_time(true_flow[:, :, :-1]), (height, width))
    scale = cells.new_tensor([width / true_flow.shape[4], height / true_flow.shape[3]])
    return cells * scale.view(1, 2, 1, 1)

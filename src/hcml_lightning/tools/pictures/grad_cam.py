"""[clip → network → logits → **where the network looked**]

Grad-CAM++ at a residual stage, by default the last one as in the paper's Figure 4, and the share of such a map that
lies on moving pixels.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcml_lightning.models import MotionNetwork


def grad_cam(
    network: MotionNetwork,
    clip: Tensor,
    classes: Tensor | Sequence[int] | None = None,
    level: int = 3,
) -> Tensor:
    """Map which places and times of a clip speak for a class (Grad-CAM++).

    This may be called in the middle of training: gradients are computed in a copy of the layers after the stage, so
    those of the network's own parameters do not change, and every module returns to the mode that it was in.

    Args:
        network: in any mode; runs in evaluation mode.
        clip: RGB in 0..255, uint8 or float, (B, 3, T, H, W).
        classes: the class to explain for each clip, length B; None for the class that the network prefers.
        level: the stage whose features are weighed, 0 … 3 for res2 … res5. A clip of 224 × 224 has 7 × 7 cells at res5;
            smaller ones need a lower stage.

    Returns:
        Maps on the CPU, float32 in 0..1, (B, T, H, W): in each map 0 is where least speaks for the class and 1 where
        most does. A constant map becomes 0.

    Raises:
        ImportError: if the package grad-cam is not installed.
        ValueError: if `classes` is not one known class for each clip, or there is no such stage.
    """
    if level not in range(len(network.stages)):
        raise ValueError(f"level must be 0 … 3, for res2 … res5, got {level}")
    try:
        from pytorch_grad_cam import GradCAMPlusPlus
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ModuleNotFoundError as error:
        raise ImportError(
            "Grad-CAM++ needs the package grad-cam: pip install 'hcml-lightning[explain]'"
        ) from error
    # A Trainer validates in inference mode, in which `enable_grad` alone does not switch gradients on again.
    with torch.inference_mode(False), _evaluating(network):
        with torch.no_grad():
            features = network.appearance(clip, level).float()
        rest = _Rest(network, level, cells=features[0, 0].numel())
        targets = None
        if classes is not None:
            known = _checked_classes(classes, len(clip), network.fc.out_features)
            targets = [ClassifierOutputTarget(label) for label in known]
        with torch.enable_grad(), GradCAMPlusPlus(rest, [rest.maps]) as explain:
            coarse = torch.from_numpy(explain(features.requires_grad_(), targets))
    fine = F.interpolate(coarse[:, None], clip.shape[2:], mode="trilinear", align_corners=False)
    return _to_unit_range(fine[:, 0])


def moving_pixels(clip: Tensor, threshold: float = 8.0) -> Tensor:
    """Find the pixels that change from one frame to the next; the last frame is compared with the one before.

    Args:
        clip: RGB in 0..255, uint8 or float, (B, 3, T, H, W), of at least two frames.
        threshold: smallest change that counts as motion, mean over R, G and B, in grey levels of 0..255.

    Returns:
        bool, (B, T, H, W).

    Raises:
        ValueError: if the clip is not RGB, or has a single frame.
    """
    if clip.ndim != 5 or clip.shape[1] != 3 or clip.shape[2] < 2:
        raise ValueError(
            f"clip must be RGB with at least two frames, (B, 3, T, H, W), got {tuple(clip.shape)}"
        )
    change = clip.float().diff(dim=2).abs().mean(dim=1)
    return torch.cat([change, change[:, -1:]], dim=1) >= threshold


def moving_mass(heat: Tensor, clip: Tensor, threshold: float = 8.0) -> Tensor:
    """Return the share of a map that lies on moving pixels.

    For comparison, a uniform map would reach the share of the pixels that move,
    `moving_pixels(clip).float().mean((1, 2, 3))`.

    Args:
        heat: a map without negative values, (B, T, H, W), as from `grad_cam`.
        clip: the clip that it explains, RGB in 0..255, (B, 3, T, H, W).
        threshold: smallest change from frame to frame that counts as motion, in grey levels of 0..255.

    Returns:
        Sum of the map over the moving pixels divided by its sum over all pixels: a share in 0..1, float32, (B,), on
        the device of the map; NaN for a map without any mass.

    Raises:
        ValueError: if the shapes of the map and the clip do not match.

    Example:
        >>> clip = torch.zeros(1, 3, 2, 2, 2)
        >>> clip[0, :, 1, 0, 0] = 255
        >>> heat = torch.ones(1, 2, 2, 2)
        >>> moving_mass(heat, clip)
        tensor([0.2500])
    """
    moving = moving_pixels(clip, threshold).to(heat.device)
    if heat.shape != moving.shape:
        raise ValueError(
            f"heat must have the shape {tuple(moving.shape)} for this clip, got {tuple(heat.shape)}"
        )
    heat = heat.float()
    return (heat * moving).sum(dim=(1, 2, 3)) / heat.sum(dim=(1, 2, 3))


class _Rest(nn.Module):
    """A copy of the layers after a stage, preceded by an identity module whose output is explained.

    The classifier averages over all cells, so the gradients are small, and the package's ε would outweigh their
    squares. Grad-CAM++ depends on the product of features and gradients: if the features are divided by the number of
    cells before that module and multiplied by it after, the map stays the same and the ε is negligible.
    """

    def __init__(self, network: MotionNetwork, level: int, cells: int) -> None:
        super().__init__()
        self.level, self.cells = level, cells
        self.maps = nn.Identity()
        # The layers up to the stage are not needed, and may be large.
        seen = [network.conv1, network.bn1, *network.stages[: level + 1]]
        self.network = copy.deepcopy(network, {id(module): None for module in seen}).float()

    def forward(self, features: Tensor) -> Tensor:
        """Classify F^l (B, C, T, H, W); return logits (B, K)."""
        features = self.maps(features / self.cells) * self.cells
        return self.network.classify(features, self.level)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Use evaluation mode inside the block, then restore the mode of every module, frozen ones too."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _checked_classes(classes: Tensor | Sequence[int], clips: int, num_classes: int) -> list[int]:
    known = [int(label) for label in classes]
    if len(known) != clips or not all(0 <= label < num_classes for label in known):
        raise ValueError(
            f"classes must be {clips} numbers from 0 to {num_classes - 1}, one for each clip, got {known}"
        )
    return known


def _to_unit_range(maps: Tensor) -> Tensor:
    """Stretch each map to 0..1."""
    low = maps.amin(dim=(1, 2, 3), keepdim=True)
    span = maps.amax(dim=(1, 2, 3), keepdim=True) - low
    return (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny)

"""[features → **cost volume in a few portable operators** → exported network]

Computes the same costs as `cost_volume` with a dozen operators that every runtime has, for runtimes that have neither
our kernels nor this package. It multiplies each row with a whole row of the next frame and keeps the band of
displacements: more products than needed, but a graph forty times smaller than with nodes for each displacement.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from hcml_lightning.ops.cost_volume import NORM_EPS


def cost_volume_portable(features: Tensor, max_displacement: int, stride: int) -> Tensor:
    """Compute Eq. 1 like `cost_volume`, but without checking the arguments.

    Args:
        features: feature maps, shape (B, C, T, H, W).
        max_displacement: d, in cells of the feature map.
        stride: s, in cells of the feature map.

    Returns:
        Similarities, shape (B, M, T, H, W), contiguous, in the dtype of `features`.
    """
    height, width = features.shape[-2:]
    reach = max_displacement // stride * stride
    steps = torch.arange(0, 2 * reach + 1, stride, device=features.device)
    unit = F.normalize(
        features.to(torch.promote_types(features.dtype, torch.float32)), dim=1, eps=NORM_EPS
    )
    following = torch.cat([unit[:, :, 1:], unit[:, :, -1:]], dim=2)
    padded = F.pad(following, (reach, reach, reach, reach))
    rows = steps[:, None] + torch.arange(height, device=features.device)
    around = padded.index_select(3, rows.flatten())
    around = rearrange(around, "b c t (dy h) x -> b t dy h c x", h=height)
    products = rearrange(unit, "b c t h w -> b t 1 h w c") @ around
    columns = torch.arange(width, device=features.device)[:, None] + steps
    band = products.gather(5, columns.expand(*products.shape[:4], -1, -1))
    costs: Tensor = rearrange(band, "b t dy h w dx -> b (dy dx) t h w").to(features.dtype)
    return costs

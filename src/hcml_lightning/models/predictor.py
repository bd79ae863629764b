"""[P^l, P^{l−1} → **predicted future of P^{l−1}**]

f_δ of Sec. 3.2: from the motion features of level l, and those of level l − 1 at the same time and place, predict those
of level l − 1 at N sampled locations, δ = 1 … Δ frames later. Used in training only.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from hcml_lightning.ranges import check_whole


class Predictor(nn.Module):
    """A multi-layer perceptron with one hidden layer, shared by all offsets, and one output head for each offset.

    Args:
        upper_channels: C of P^l.
        below_channels: C of P^{l−1}.
        max_offset: Δ, the largest δ, frames at the rate of level l − 1.
        ratio: number of cells, or frames, of level l − 1 for each one of level l, along each axis.

    Raises:
        ValueError: if `max_offset` is less than 1.
    """

    # Unstated in the paper: the hidden width, Δ, and how f_δ depends on δ. The width is twice that of P^l, and all
    # offsets share it.
    def __init__(
        self, upper_channels: int, below_channels: int, max_offset: int = 4, ratio: int = 2
    ) -> None:
        super().__init__()
        check_whole(1, max_offset=max_offset)
        self.max_offset, self.ratio = max_offset, ratio
        self.hidden = nn.Linear(upper_channels + below_channels, 2 * upper_channels)
        self.heads = nn.Linear(2 * upper_channels, max_offset * below_channels)

    def forward(self, upper: Tensor, below: Tensor, locations: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the level below at the sampled locations.

        Args:
            upper: P^l, (B, C_l, T_l, H_l, W_l).
            below: P^{l−1}, (B, C, T, H, W), a grid at least as fine as that of `upper`.
            locations: flat indices into the H × W grid of `below`, int64, (B, N).

        Returns:
            Predictions (B, T, N, Δ, C), of which [:, t, :, δ − 1] predicts, at time t, `below` at time t + δ; and
            `below` itself at the locations, (B, T, N, C).
        """
        at_below = gather_locations(below, locations)
        # Unstated in the paper: how levels of different grids and rates are combined. For each location and frame of
        # P^{l−1}, P^l is read at the cell and the frame that cover it.
        coarse = coarser_locations(locations, below.shape[4], upper.shape[4], self.ratio)
        at_upper = gather_locations(upper, coarse)
        # Unstated in the paper: the nearest targets are not in the future of P^l. It compares its frame with the next
        # one of its level, 2^l clip frames later, and both depend on the fused P^{l−1}. In the 2D backbones, P^l has
        # seen the targets at δ = 1 and, at even times, at δ = 2, but no later ones. In R(2+1)D-101, P² has seen all 32
        # frames of the clip.
        times = torch.arange(below.shape[2], device=below.device)
        at_upper = at_upper[:, times // self.ratio]
        hidden = torch.relu(self.hidden(torch.cat([at_upper, at_below], dim=-1)))
        return self.heads(hidden).unflatten(-1, (self.max_offset, -1)), at_below


def gather_locations(features: Tensor, locations: Tensor) -> Tensor:
    """Return the features at the same locations of every frame: (B, C, T, H, W), (B, N) → (B, T, N, C)."""
    flat = rearrange(features, "b c t h w -> b t (h w) c")
    index = locations[:, None, :, None].expand(-1, flat.shape[1], -1, flat.shape[3])
    return flat.gather(2, index)


def coarser_locations(locations: Tensor, width: int, coarse_width: int, ratio: int) -> Tensor:
    """Convert flat indices into a grid to those of the cells that cover them in a grid `ratio` times coarser."""
    rows, columns = locations // width, locations % width
    return rows // ratio * coarse_width + columns // ratio

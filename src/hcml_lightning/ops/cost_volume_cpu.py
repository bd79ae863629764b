"""[features → **cost volume on a CPU** → prime motion block]

Computes the same costs as `cost_volume_reference` by matrix products, in plain PyTorch, an order of magnitude faster.

All displacements are multiples of the stride s, so a map splits into s × s grids of every s-th pixel, and within a
grid neighbours are one step apart. With channels last, r rows of a grid are one contiguous (r·w, C) matrix, and so are
the r + 2R rows of the next frame within their reach. The product of the two holds every wanted cost in a band:

      columns: rows of the next frame            pixel (y, x) and displacement (dy, dx) meet at
      ┌────────────────────────────┐                row     y·w + x
      │ ■■■     ■■■     ■■■        │ pixel 0        column  (y + dy)·w + x + dx
      │  ■■■     ■■■     ■■■       │ pixel 1
      │   ■■■     ■■■     ■■■      │ pixel 2     so the address is linear in (dy, dx, y, x): the band is a
      └────────────────────────────┘             strided view of the product, read by one copy, without indices.

The product computes more than is needed, but at the speed of a matrix product, and into a scratch buffer that is
reused and stays in the cache: on a CPU, touching fresh memory costs more than the arithmetic. A small grid is
multiplied whole, for as many frames at once as fit into the scratch buffer. The backward pass copies the gradient into
the same band and multiplies it by either operand.

Three pitfalls. Without spare columns on both sides of each row of the product, the band of one pixel would reach into
the next row. In a grid narrower than the band, two displacements would share an address, so it is widened with zeros.
And the channels of contiguous maps are often a multiple of 4 KiB apart, so that all values of a pixel compete for the
same few cache lines: each frame is first copied to compact memory, and then its pixels are gathered.
"""

import torch
from torch import Tensor

from hcml_lightning.ops.cost_volume_grids import Grids


def write_costs(
    features: Tensor, costs: Tensor, max_displacement: int, stride: int, eps: float
) -> None:
    """Write the cost volume of `features` into `costs`.

    Args:
        features: shape (B, C, T, H, W), any strides.
        costs: overwritten, shape (B, M, T, H, W), any strides.
        max_displacement: d, in cells.
        stride: s, in cells.
        eps: the smallest norm that a vector is divided by.
    """
    grids = Grids(features, max_displacement // stride, stride)
    unit, _ = _normalise(features, grids, eps)
    scratch = unit.new_zeros(grids.scratch_elements)
    costs = torch.unflatten(costs, 1, (grids.window, grids.window))
    for step in grids.steps():
        torch.bmm(
            grids.blocks(unit, step),
            grids.surroundings(unit, step).mT,
            out=grids.products(scratch, step),
        )
        for band, part in grids.paired(scratch, step.of(costs), step):
            part.copy_(band)
    _clear_outside(costs.movedim(2, 0), grids)


def write_gradient(
    grad: Tensor,
    features: Tensor,
    grad_features: Tensor,
    max_displacement: int,
    stride: int,
    eps: float,
) -> None:
    """Write the gradient with respect to `features` into `grad_features`.

    Args:
        grad: gradient with respect to the costs, shape (B, M, T, H, W), any strides.
        features: shape (B, C, T, H, W), any strides.
        grad_features: overwritten, shape (B, C, T, H, W), any strides.
        max_displacement: d, in cells.
        stride: s, in cells.
        eps: the smallest norm that a vector is divided by.
    """
    grids = Grids(features, max_displacement // stride, stride)
    unit, inverse = _normalise(features, grids, eps)
    grad_unit = torch.zeros_like(unit)
    scratch = unit.new_zeros(grids.scratch_elements)
    grad = torch.unflatten(grad, 1, (grids.window, grids.window))
    for step in grids.steps():
        if step.grids.start == 0:
            near = step.of(grad).clone()
            _clear_outside(near.movedim(1, 0), grids)
        for band, part in grids.paired(scratch, near, step):
            band.copy_(part)
        products, blocks = grids.products(scratch, step), grids.blocks(unit, step)
        grids.blocks(grad_unit, step).baddbmm_(products, grids.surroundings(unit, step))
        grad_surroundings = grids.surroundings(grad_unit, step)
        # The surroundings of neighbouring blocks overlap, so one call may add only to every n-th of them.
        n = grids.overlap
        for i in range(min(n, len(blocks))):
            grad_surroundings[i::n].baddbmm_(products[i::n].mT, blocks[i::n])

    unit, grad_unit, extra = unit[:, :-1], grad_unit[:, :-1], grad_unit[:, -1]
    grad_unit[:, -1].add_(extra)
    # The gradient through x / |x| keeps only the part orthogonal to x, unless the norm was clamped to a constant.
    radial = torch.linalg.vecdot(grad_unit, unit).mul_(inverse * eps < 1)
    grad_unit.addcmul_(unit, radial[..., None], value=-1).mul_(inverse[..., None])
    if grad_features.dtype == torch.float16:
        limit = torch.finfo(torch.float16).max
        grad_unit.clamp_(-limit, limit)
    for piece, grad_piece in grids.pieces(grad_features, grad_unit):
        near = piece
        if grids.are_far(piece):
            near = piece.new_empty(*piece.shape[1:], grids.channels).movedim(-1, 0)
        for pixels, grad_pixels in grids.pixels(near, grad_piece):
            pixels.copy_(grad_pixels)
        if near is not piece:
            piece.copy_(near)


def _clear_outside(costs: Tensor, grids: Grids) -> None:
    """Set costs, (dx, ..., W), to zero where dx leaves the frame: the product holds values of other rows there."""
    for cost, reach in zip(costs, range(-grids.radius, grids.radius + 1), strict=True):
        beside = reach * grids.stride
        if reach:
            cost[..., slice(0, -beside) if reach < 0 else slice(-beside, None)].zero_()


def _normalise(features: Tensor, grids: Grids, eps: float) -> tuple[Tensor, Tensor]:
    """Split the maps into grids, channels last, and divide by the norms; return the result and the inverse norms."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    unit = torch.zeros(grids.buffer_shape, dtype=dtype, device=features.device)
    for piece, unit_piece in grids.pieces(features, unit):
        near = piece.clone() if grids.are_far(piece) else piece
        for pixels, unit_pixels in grids.pixels(near, unit_piece):
            unit_pixels.copy_(pixels)
    frames = unit[:, :-1]
    inverse = torch.linalg.vector_norm(frames, dim=-1).clamp_min_(eps).reciprocal_()
    frames.mul_(inverse[..., None])
    unit[:, -1] = frames[:, -1]
    return unit, inverse

"""[predicted future → **contrastive loss**]

The pairing of predictions with targets, and the loss that pulls each prediction to its target and away from the others.

Paper: Yang et al., Hierarchical Contrastive Motion Learning, Sec. 3.2, Eq. 2, and Appendix A.2.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from hcml_lightning.ops.precision import full_precision
from hcml_lightning.ranges import check_above_zero, check_at_least

# Number of similarities in memory at a time. All of them, P × S, would be hundreds of megabytes at the paper's sizes.
# Small blocks suit a CPU's cache; a GPU gets larger ones (32 MiB, which still fit into its level 2 cache) because every
# block takes two dozen kernel launches.
BLOCK = 1 << 20
GPU_BLOCK = 1 << 23


def sample_locations(
    batch_size: int,
    height: int,
    width: int,
    num_locations: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw N different cells of an H × W grid for every clip (A.2).

    Args:
        batch_size: B.
        height: H, cells.
        width: W, cells.
        num_locations: N; if the grid has no more than N cells, all are drawn.
        device: device of the result.
        generator: random generator on that device.

    Returns:
        Flat indices y·W + x, int64, (B, min(N, H·W)).

    Raises:
        ValueError: if `num_locations` is less than 1.

    Example:
        >>> sample_locations(2, 7, 7, 5).shape
        torch.Size([2, 5])
    """
    check_at_least(1, num_locations=num_locations)
    keys = torch.rand(batch_size, height * width, device=device, generator=generator)
    return keys.topk(min(num_locations, height * width), dim=1).indices


def pair_with_future(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Match every prediction of a frame inside the clip with the row of its only positive target.

    All other rows of the targets are negatives (A.2): (N − 1)·T spatial (same clip, other place), T − 1 temporal (same
    clip and place, other time) and (B − 1)·N·T easy (other clips).

    Args:
        predictions: P̂ made at time t for t + δ, (B, T, N, Δ, C), at index δ − 1 along Δ.
        targets: motion features of the level below, (B, T, N, C).

    Returns:
        predicted (P, C), targets (S, C) with S = B·T·N, and positive, int64, (P,): the row of targets for each
        prediction.

    Raises:
        ValueError: if the shapes do not match, or the clip has fewer than two frames.

    Example:
        >>> predicted, targets, positive = pair_with_future(torch.rand(2, 4, 5, 3, 8), torch.rand(2, 4, 5, 8))
        >>> len(predicted), len(targets)  # 2 · 5 · (3 + 2 + 1) and 2 · 4 · 5
        (60, 40)
    """
    batch_size, num_frames, num_locations, max_offset, channels = predictions.shape
    if targets.shape != (batch_size, num_frames, num_locations, channels):
        raise ValueError(
            f"targets must be (B, T, N, C) = {(batch_size, num_frames, num_locations, channels)} "
            f"like the predictions, got {tuple(targets.shape)}"
        )
    if num_frames < 2:
        raise ValueError(
            "a clip needs at least 2 frames at the level below to have a future; raise clip_length"
        )
    rows = torch.arange(batch_size * num_frames * num_locations, device=targets.device)
    rows = rows.view(batch_size, num_frames, num_locations)
    offsets = range(1, min(max_offset, num_frames - 1) + 1)
    predicted = [
        rearrange(predictions[:, : num_frames - k, :, k - 1], "b t n c -> (b t n) c")
        for k in offsets
    ]
    positive = [rows[:, k:].flatten() for k in offsets]
    return torch.cat(predicted), rearrange(targets, "b t n c -> (b t n) c"), torch.cat(positive)


def contrastive_loss(
    predicted: Tensor, targets: Tensor, positive: Tensor, temperature: float = 0.07
) -> Tensor:
    """Pull each predicted motion feature to its own target and away from all others (Eq. 2).

    Args:
        predicted: P̂, one row for each location, start time and offset, (P, C).
        targets: motion features of the level below, (S, C), S = B·N·T; they receive no gradient.
        positive: the row of `targets` that each prediction should match, int64, (P,).
        temperature: τ, divides the cosine similarity.

    Returns:
        Scalar, mean over the P predictions, in nats; ln S for predictions that carry no information.

    Raises:
        ValueError: if the shapes do not match, there is no prediction, the temperature is not positive or needs a
            gradient, or `positive` is not int64 or points outside the targets (checked only on a CPU).
        NotImplementedError: in a backward pass with `create_graph`.

    Example:
        >>> x = torch.eye(4)
        >>> bool(contrastive_loss(x, x, torch.arange(4)) < contrastive_loss(x, x, torch.arange(4).flip(0)))
        True
    """
    _check(predicted, targets, positive)
    check_above_zero(temperature=temperature)
    # Only a tensor can need one.
    if getattr(temperature, "requires_grad", False):
        raise ValueError(
            "temperature gets no gradient from this loss; pass a number, or temperature.detach()"
        )
    # Departure: Eq. 2 is written as a sum; a mean keeps γ independent of B, N and T.

    # Autocast would multiply in half precision, and 1/τ would turn the rounding of a cosine into an error of 0.1 nats.
    with full_precision(predicted.device.type):
        loss: Tensor = _StreamedCrossEntropy.apply(
            predicted, _unit(_as_fine(targets.detach(), predicted)), positive, temperature
        )
    return loss


@torch.no_grad()
def contrastive_accuracy(predicted: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Return the share of predictions whose own target is the nearest one; arguments as in `contrastive_loss`.

    Returns:
        Scalar in 0..1.

    Raises:
        ValueError: if the shapes do not match, there is no prediction, or `positive` is invalid as in
            `contrastive_loss`.
    """
    _check(predicted, targets, positive)
    with full_precision(predicted.device.type):
        unit = _unit(_as_fine(targets, predicted)).t()
        rows = torch.split(_unit(_as_fine(predicted, targets)), _rows_per_block(targets))
        best = [(block @ unit).max(dim=1) for block in rows]
    nearest = torch.cat([row.indices for row in best])
    # The nearest of a row of NaN would be row 0.
    known = ~torch.cat([row.values for row in best]).isnan()
    return ((nearest == positive) & known).float().mean()


class _StreamedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of cosine similarities, computed for one block of rows at a time.

    The loss is a mean, so its incoming gradient is one number, and the gradient of the predictions can be computed in
    the forward pass, while a block is in memory: every block is computed once, and none is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, predicted: Tensor, targets: Tensor, positive: Tensor, temperature: float
    ) -> Tensor:
        ctx.dtype = predicted.dtype
        wants_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(predicted, dtype=targets.dtype) if wants_grad else targets
        total = targets.new_zeros(())
        size = _rows_per_block(targets)
        for start in range(0, len(predicted), size):
            block, right = predicted[start : start + size], positive[start : start + size]
            norm = torch.linalg.vector_norm(block, dim=1, keepdim=True, dtype=targets.dtype)
            clamped = norm.clamp_min(_smallest_norm(ctx.dtype))
            rows = block / clamped
            logits = (rows @ targets.t()).div_(temperature)
            total = total - logits.gather(1, right[:, None]).sum()
            highest = logits.amax(dim=1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            partition = exponentials.sum(dim=1, keepdim=True)
            total = total + (partition.log() + highest).sum()
            if wants_grad:
                pull = (exponentials.div_(partition) @ targets).sub_(targets[right])
                # The gradient through x / |x| keeps only the part orthogonal to x, unless the norm was clamped to a
                # constant.
                radial = (pull * rows).sum(dim=1, keepdim=True).mul_(norm == clamped)
                torch.div(
                    pull.addcmul_(rows, radial, value=-1), clamped, out=grad[start : start + size]
                )
        if wants_grad:
            ctx.save_for_backward(grad.div_(temperature * len(predicted)))
        return total / len(predicted)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        # The gradient was computed outside the autograd graph, so a second derivative would silently be zero.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError(
                "`contrastive_loss` can be differentiated only once; leave out create_graph"
            )
        (grad,) = ctx.saved_tensors
        return (grad * grad_loss).to(ctx.dtype), None, None, None


def _rows_per_block(targets: Tensor) -> int:
    block = BLOCK if targets.is_cpu else GPU_BLOCK
    return max(1, block // max(1, len(targets)))


def _as_fine(features: Tensor, others: Tensor) -> Tensor:
    # Match double precision only. `_unit` promotes half precision, and needs its dtype to choose the smallest norm.
    return features.double() if others.dtype == torch.float64 else features


def _unit(features: Tensor) -> Tensor:
    dtype = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.to(dtype), dim=1, eps=_smallest_norm(features.dtype))


def _smallest_norm(dtype: torch.dtype) -> float:
    # The gradient of a zero vector may be as large as 1 / (ε · τ), which float16 must be able to represent.
    return 1e-3 if dtype in (torch.float16, torch.bfloat16) else 1e-6


def _check(predicted: Tensor, targets: Tensor, positive: Tensor) -> None:
    shapes = tuple(predicted.shape), tuple(targets.shape), tuple(positive.shape)
    if predicted.ndim != 2 or targets.ndim != 2 or predicted.shape[1] != targets.shape[1]:
        raise ValueError(f"predicted (P, C) and targets (S, C) must share C, got {shapes[:2]}")
    if len(predicted) == 0:
        raise ValueError("there must be at least one prediction, got P = 0, which has no mean")
    if positive.shape != predicted.shape[:1] or positive.dtype != torch.int64:
        raise ValueError(
            f"positive must be int64 of shape (P,), got {positive.dtype} {shapes[2]} for P = {len(predicted)}"
        )
    # Reading the values would stall a GPU or break a compiled graph. In these cases the `gather` of the loss checks the
    # range, and the accuracy counts a row that does not exist as a miss.
    if positive.is_cpu and not torch.compiler.is_compiling():
        low, high = int(positive.min()), int(positive.max())
        if low < 0 or high >= len(targets):
            raise ValueError(
                f"positive must index the {len(targets)} rows of targets, got {low}..{high}"
            )

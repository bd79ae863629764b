"""[features → **cost volume** → prime motion block]

How similar each cell of a feature map is to its surroundings in the next frame: the public function with its checks,
the `torch.library` operator behind it (so that compile, export and FLOP counting see one node), and a readable
reference. The operator is implemented in `cost_volume_cpu.py` and `cost_volume_triton.py`.
Paper: Yang et al., Hierarchical Contrastive Motion Learning, Sec. 3.2, Eq. 1, and A.3.
"""

import importlib
import importlib.util
import math
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils.flop_counter import register_flop_formula

from hcml_lightning.ops import cost_volume_cpu

# Unstated in the paper: the cosine of a zero vector, and the cost of a displacement that leaves the frame. In every
# implementation, norms are at least this value and a displacement out of the frame costs 0.
NORM_EPS = 1e-6

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def cost_volume(features: Tensor, max_displacement: int = 6, stride: int = 2) -> Tensor:
    """Compute the cosine similarity of every cell with the cells around it in the next frame (Eq. 1).

    The displacements are (dy, dx), row-major with dx running fastest, each from -⌊d/s⌋·s to ⌊d/s⌋·s in steps of s:
    with d = 6 and s = 2, M = 49 of them cover a 13 × 13 neighbourhood. A displacement that leaves the frame costs 0.
    The last frame has no successor and is paired with itself (Sec. 3.2). The function normalises the vectors, in
    float32 or better for every dtype; a zero vector costs 0 and has a finite gradient.

    Args:
        features: feature maps, shape (B, C, T, H, W); float32, float64, bfloat16 or float16. Contiguous and
            `channels_last_3d` memory are both read without a copy. Autocast does not change the dtype.
        max_displacement: d, largest displacement, cells of the feature map.
        stride: s, step between displacements, cells of the feature map.

    Returns:
        Similarities in [-1, 1], shape (B, M, T, H, W) with M = (2⌊d/s⌋ + 1)², in the dtype and the memory format of
        `features`.

    Raises:
        ValueError: if `features` is not five-dimensional, is empty along C, T, H or W (a batch may be empty), or
            has another dtype, or if `max_displacement` or `stride` is not an integer in range.
        NotImplementedError: in forward-mode differentiation.
        RuntimeError: from PyTorch, in a second derivative and in `torch.func.grad`. `cost_volume_reference` supports
            these and forward mode.

    Example:
        >>> cost_volume(torch.ones(1, 4, 2, 5, 5), max_displacement=1, stride=1)[0, :, 0, 0, 0].view(3, 3)
        tensor([[0., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """
    _check(features, max_displacement, stride)
    # PyTorch would silently use a zero tangent, because our operator has no forward-mode derivative.
    if not torch.compiler.is_compiling() and unpack_dual(features).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            "`cost_volume` has no forward-mode derivative; use reverse mode or `cost_volume_reference`"
        )
    costs: Tensor = _forward_op(features, int(max_displacement), int(stride))
    return costs


def cost_volume_reference(features: Tensor, max_displacement: int = 6, stride: int = 2) -> Tensor:
    """Compute the same as `cost_volume` in a few lines of plain PyTorch: slower, but easy to read.

    Args:
        features: feature maps, shape (B, C, T, H, W).
        max_displacement: d, cells of the feature map.
        stride: s, cells of the feature map.

    Returns:
        Similarities, shape (B, M, T, H, W), in the dtype of `features`.

    Raises:
        ValueError: as for `cost_volume`.
    """
    _check(features, max_displacement, stride)
    height, width = features.shape[-2:]
    reach = max_displacement // stride * stride
    unit = F.normalize(
        features.to(torch.promote_types(features.dtype, torch.float32)), dim=1, eps=NORM_EPS
    )
    following = torch.cat([unit[:, :, 1:], unit[:, :, -1:]], dim=2)
    padded = F.pad(following, (reach, reach, reach, reach))
    costs = [
        (unit * padded[..., y : y + height, x : x + width]).sum(dim=1)
        for y in range(0, 2 * reach + 1, stride)
        for x in range(0, 2 * reach + 1, stride)
    ]
    return torch.stack(costs, dim=1).to(features.dtype)


def num_displacements(max_displacement: int, stride: int) -> int:
    """Return M, the number of channels of a cost volume: (2⌊d/s⌋ + 1)²."""
    return int(2 * (max_displacement // stride) + 1) ** 2


def check_displacements(max_displacement: int, stride: int) -> None:
    """Raise if there is no cost volume with this largest displacement and stride.

    Raises:
        ValueError: if one of them is not an integer in range.
    """
    if not hasattr(max_displacement, "__index__") or max_displacement < 0:
        raise ValueError(
            f"`max_displacement` must be a whole number of cells, 0 or more, got {max_displacement!r:.40}"
        )
    if not hasattr(stride, "__index__") or stride < 1:
        raise ValueError(f"`stride` must be a whole number of cells, 1 or more, got {stride!r:.40}")


def _check(features: Tensor, max_displacement: int, stride: int) -> None:
    if features.dim() != 5:
        raise ValueError(f"`features` must have shape (B, C, T, H, W), got {tuple(features.shape)}")
    if features.dtype not in _DTYPES:
        raise ValueError(
            f"`features` must be float32, float64, bfloat16 or float16, got {features.dtype}"
        )
    if any(size == 0 for size in features.shape[1:]):
        raise ValueError(
            f"`features` must not be empty along C, T, H or W, got shape {tuple(features.shape)}"
        )
    check_displacements(max_displacement, stride)


def _is_channels_last(features: Tensor) -> bool:
    # A tensor that has both formats (for example if C = 1) counts as contiguous, as everywhere in PyTorch.
    return (
        features.is_contiguous(memory_format=torch.channels_last_3d)
        and not features.is_contiguous()
    )


def _new_empty(features: Tensor, channels: int) -> Tensor:
    # The strides are explicit because an operator and its fake must agree on them; `empty_like` keeps unusual ones.
    batch, _, frames, height, width = features.shape
    if _is_channels_last(features):
        return features.new_empty(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)
    return features.new_empty(batch, channels, frames, height, width)


# `custom_op` rather than `triton_op`, which needs the driver of a GPU even when it is traced on a CPU.
@torch.library.custom_op("hcml::cost_volume", mutates_args=())
def _forward_op(features: Tensor, max_displacement: int, stride: int) -> Tensor:
    costs = _new_empty(features, num_displacements(max_displacement, stride))
    with torch.autocast(features.device.type, enabled=False):
        kernels = _kernels(features, max_displacement, stride)
        kernels.write_costs(features, costs, max_displacement, stride, NORM_EPS)
    return costs


@torch.library.custom_op("hcml::cost_volume_backward", mutates_args=())
def _backward_op(grad: Tensor, features: Tensor, max_displacement: int, stride: int) -> Tensor:
    grad_features = _new_empty(features, features.shape[1])
    with torch.autocast(features.device.type, enabled=False):
        kernels = _kernels(features, max_displacement, stride)
        kernels.write_gradient(grad, features, grad_features, max_displacement, stride, NORM_EPS)
    return grad_features


def _kernels(features: Tensor, max_displacement: int, stride: int) -> ModuleType:
    # The CPU implementation is plain PyTorch, so it runs on every device where the Triton kernels do not apply.
    if features.is_cuda and features.dtype != torch.float64 and importlib.util.find_spec("triton"):
        triton_kernels = importlib.import_module("hcml_lightning.ops.cost_volume_triton")
        if triton_kernels.suits(features, max_displacement, stride):
            return triton_kernels
    return cost_volume_cpu


@_forward_op.register_fake
def _(features: Tensor, max_displacement: int, stride: int) -> Tensor:
    return _new_empty(features, num_displacements(max_displacement, stride))


@_backward_op.register_fake
def _(grad: Tensor, features: Tensor, max_displacement: int, stride: int) -> Tensor:
    return _new_empty(features, features.shape[1])


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    features, ctx.max_displacement, ctx.stride = inputs
    ctx.save_for_backward(features)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (features,) = ctx.saved_tensors
    return _backward_op(grad, features, ctx.max_displacement, ctx.stride), None, None


_forward_op.register_autograd(_backward, setup_context=_save_for_backward)


@register_flop_formula(torch.ops.hcml.cost_volume)
def _forward_flops(shape: torch.Size, max_displacement: int, stride: int, **_: Any) -> int:
    # A multiply-add counts as two operations, as everywhere in PyTorch's counter; the normalisation is not counted.
    return 2 * math.prod(shape) * num_displacements(max_displacement, stride)


@register_flop_formula(torch.ops.hcml.cost_volume_backward)
def _backward_flops(
    grad_shape: torch.Size, shape: torch.Size, max_displacement: int, stride: int, **_: Any
) -> int:
    return 4 * math.prod(shape) * num_displacements(max_displacement, stride)

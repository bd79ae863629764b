"""Compare the cost volume with its usual implementations and with the most similar libraries.

`python benchmarks/cost_volume.py --device cuda --dtype bfloat16 --shapes 8x32x16x56x56` times forward and backward of
every provider, on shapes (B, C, T, H, W); without `--shapes`, on the three levels of R2D-50. Normalisation and the
pairing of frames are part of every provider's work. `spatial-correlation-sampler` and `localcorr` are included if they
are installed (see docs/performance.md).
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial

import measure
import report
import torch
import torch.nn.functional as F
from torch import Tensor

from hcml_lightning.ops import cost_volume, cost_volume_reference

LEVELS = ((32, 16, 56, 56), (64, 8, 28, 28), (128, 4, 14, 14))
REACH, STRIDE, WINDOW = 6, 2, 7
# All inputs together should not fit into the cache of a GPU; that of an H200 has 60 MB.
ROTATED_BYTES = 2e8


def paired(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors of every frame and of the frame after it, each (B·T, C, H, W)."""
    unit = F.normalize(features, dim=1, eps=1e-6).transpose(1, 2)
    following = torch.cat([unit[:, 1:], unit[:, -1:]], dim=1)
    return unit.flatten(0, 1), following.flatten(0, 1)


def unpaired(costs: Tensor, features: Tensor) -> Tensor:
    """Convert costs: (B·T, ..., H, W) → (B, M, T, H, W)."""
    batch, _, frames, height, width = features.shape
    return costs.reshape(batch, frames, WINDOW**2, height, width).transpose(1, 2)


def unfold(features: Tensor) -> Tensor:
    """Compute the costs as most code does: all displaced vectors by `F.unfold`, one product, one sum."""
    unit, following = paired(features)
    seen = F.unfold(following, WINDOW, dilation=STRIDE, padding=REACH)
    seen = seen.unflatten(1, (-1, WINDOW**2)).unflatten(3, unit.shape[2:])
    return unpaired((seen * unit[:, :, None]).sum(1), features)


def by_library(sample: Callable[[Tensor, Tensor], Tensor], features: Tensor) -> Tensor:
    """Compute the costs by a library's correlation, (N, C, H, W) twice → (N, 7, 7, H, W) or (N, 49, H, W)."""
    unit, following = paired(features)
    return unpaired(sample(unit.contiguous(), following.contiguous()), features)


def providers(device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return all providers that are available here; "ours, contiguous" differs from "ours" in memory format only."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": cost_volume,
        "ours, contiguous": cost_volume,
        "eager": unfold,
        "eager loop": cost_volume_reference,
        "compiled": torch.compile(unfold, dynamic=False),
        "compiled loop": torch.compile(cost_volume_reference, dynamic=False),
    }
    if device == "cpu" and importlib.util.find_spec("spatial_correlation_sampler"):
        module = importlib.import_module("spatial_correlation_sampler")
        sample = partial(
            module.spatial_correlation_sample, patch_size=WINDOW, dilation_patch=STRIDE
        )
        found["spatial-correlation-sampler"] = partial(by_library, sample)
    if device == "cuda" and importlib.util.find_spec("localcorr"):
        module = importlib.import_module("localcorr.blocks")
        sample = module.get_localcorr_sampler(patch_size=WINDOW, dilation_patch=STRIDE)
        found["localcorr"] = partial(by_library, sample)
    return found


def floors(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, measure.Floor]:
    """Return the least work: features in, costs out; backward: features and gradient in, gradient out."""
    batch, channels, frames, height, width = shape
    pixels = batch * frames * height * width * dtype.itemsize
    operations = 2 * batch * frames * height * width * channels * WINDOW**2
    forward = measure.Floor(pixels * (channels + WINDOW**2), operations)
    backward = measure.Floor(pixels * (2 * channels + WINDOW**2), 2 * operations)
    both = measure.Floor(forward.bytes + backward.bytes, 3 * operations)
    return {"forward": forward, "backward": backward, "both": both}


def num_sets(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> int:
    """Return how many inputs take turns, so that none of them is still in the cache of a GPU."""
    return (
        math.ceil(ROTATED_BYTES / floors(shape, dtype)["forward"].bytes) if device == "cuda" else 1
    )


def work(function: Callable[[Tensor], Tensor], features: Tensor, grad: Tensor) -> measure.Work:
    """Return the forward and backward pass of one provider on one input."""
    leaf = features.detach().requires_grad_()
    return measure.Work(
        lambda: function(leaf), lambda costs: torch.autograd.grad(costs, leaf, grad)
    )


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int
) -> tuple[Tensor, Tensor]:
    """Return random features and a random gradient of their costs."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator).to(device, dtype)
    grad = torch.randn(shape[0], WINDOW**2, *shape[2:], generator=generator).to(device, dtype)
    return features, grad


def results(function: Callable[[Tensor], Tensor], features: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the costs and the gradient of the features."""
    leaf = features.detach().requires_grad_()
    costs = function(leaf)
    return [costs.detach(), *torch.autograd.grad(costs, leaf, grad)]


def in_format(provider: str, tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Copy tensors to channels last, as in our networks, for "ours", and to contiguous memory for the others."""
    last = provider == "ours"
    layout = torch.channels_last_3d if last else torch.contiguous_format
    return tuple(t.contiguous(memory_format=layout) for t in tensors)


def benchmark(
    subject: report.Subject, limits: tuple[float, float], names: list[str] | None, repeats: int
) -> list[dict[str, object]]:
    """Check, then time, all providers on one shape."""
    shape, dtype, device = subject.shape, subject.dtype, subject.device
    functions = providers(device)
    functions = {name: functions[name] for name in report.chosen(functions, names)}
    floor = floors(shape, dtype)
    drawn = [inputs(shape, dtype, device, seed) for seed in range(num_sets(shape, dtype, device))]
    expected = results(cost_volume_reference, *(t.double() for t in drawn[0]))
    checks = {
        name: partial(results, function, *in_format(name, drawn[0]))
        for name, function in functions.items()
    }
    right = measure.only_right(checks, expected)
    works = {
        name: [work(functions[name], *in_format(name, one)) for one in drawn] for name in right
    }
    peaks = {name: measure.peak_mb(sets[0], device) for name, sets in works.items()}
    samples = measure.measure(works, device, repeats, graphs=True)
    rooflines = {name: measure.roofline_ms(least, limits) for name, least in floor.items()}
    return report.rows(subject, samples, peaks, rooflines)


def main() -> None:
    """Benchmark all shapes and record the rows."""
    options = report.parser(__doc__, "cost_volume").parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    batch = 8 if options.device == "cuda" else 2
    limits = measure.ceilings(options.device, dtype, tensor_cores=True)
    for shape in options.shapes or [(batch, *level) for level in LEVELS]:
        subject = report.Subject("cost_volume", shape, dtype, options.device)
        made = benchmark(subject, limits, options.providers, options.repeats)
        report.record(made, options.output)


if __name__ == "__main__":
    main()

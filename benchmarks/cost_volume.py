"""Time and memory of the cost volume beside the ways in which it is usually written.

`python benchmarks/cost_volume.py [--device cuda] [--dtype bfloat16] [--repeats 9]` prints one row for each
implementation and each level of R2D-50, and appends it to results/cost_volume.csv. The variants take turns in one
process, and the fastest turn counts: neighbours on the machine then disturb all of them alike. Nothing is timed
before its numbers agree with the reference.
"""

import argparse
import csv
import datetime
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hcml_lightning.ops import cost_volume, cost_volume_reference

LEVELS = {
    "res2": (2, 32, 16, 56, 56),
    "res3": (2, 64, 8, 28, 28),
    "res4": (2, 128, 4, 14, 14),
}
RESULTS = Path(__file__).parent / "results" / "cost_volume.csv"


def unfold(features: Tensor, max_displacement: int = 6, stride: int = 2) -> Tensor:
    """All displaced vectors by `F.unfold`, one product, one sum: what most code does."""
    batch, channels, frames, height, width = features.shape
    reach = max_displacement // stride * stride
    window = 2 * (max_displacement // stride) + 1
    unit = F.normalize(features, dim=1, eps=1e-6).transpose(1, 2).flatten(0, 1)
    following = unit.unflatten(0, (batch, frames))
    following = torch.cat([following[:, 1:], following[:, -1:]], dim=1).flatten(0, 1)
    seen = F.unfold(following, window, dilation=stride, padding=reach)
    costs = (seen.view(batch * frames, channels, window**2, height, width) * unit[:, :, None]).sum(
        1
    )
    return costs.unflatten(0, (batch, frames)).transpose(1, 2)


VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "ours": cost_volume,
    "ours, channels last": cost_volume,
    "unfold": unfold,
    "loop over displacements": cost_volume_reference,
}


def check(features: Tensor, grad: Tensor) -> None:
    """Stop unless all variants agree with the reference in float64, in values and gradients."""
    leaf = features.double().requires_grad_()
    expected = cost_volume_reference(leaf)
    expected = [expected, *torch.autograd.grad(expected, leaf, grad.double())]
    for name, variant in VARIANTS.items():
        leaf = features.detach().requires_grad_()
        costs = variant(leaf)
        for actual, wanted in zip(
            [costs, *torch.autograd.grad(costs, leaf, grad)], expected, strict=True
        ):
            error = ((actual.double() - wanted).norm() / wanted.norm()).item()
            if not error < (1e-5 if features.dtype == torch.float32 else 2e-2):
                raise RuntimeError(f"{name} is wrong by {error:.1e}: nothing is timed")


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(level: str, device: str, dtype: torch.dtype, repeats: int) -> list[dict[str, object]]:
    """Fastest forward and fastest forward + backward of every variant, in turns."""
    generator = torch.Generator().manual_seed(0)
    shape = LEVELS[level]
    features = torch.randn(shape, generator=generator).to(device, dtype)
    grad = torch.randn(shape[0], 49, *shape[2:], generator=generator).to(device, dtype)
    check(features, grad)
    forward, both = dict.fromkeys(VARIANTS, float("inf")), dict.fromkeys(VARIANTS, float("inf"))
    for _ in range(repeats):
        for name, variant in VARIANTS.items():
            last = "channels last" in name
            layout = torch.channels_last_3d if last else torch.contiguous_format
            x = features.detach().to(memory_format=layout)
            g = grad.to(memory_format=layout)
            forward[name] = min(forward[name], seconds(lambda v=variant, x=x: v(x), device))
            x.requires_grad_()
            step = lambda v=variant, x=x, g=g: torch.autograd.grad(v(x), x, g)  # noqa: E731
            both[name] = min(both[name], seconds(step, device))
    return [
        {
            "level": level,
            "variant": name,
            "dtype": str(dtype).removeprefix("torch."),
            "forward_ms": round(1e3 * forward[name], 2),
            "forward_backward_ms": round(1e3 * both[name], 2),
            "times_faster_than_unfold": round(both["unfold"] / both[name], 1),
        }
        for name in VARIANTS
    ]


def where(device: str) -> dict[str, object]:
    """Everything that a number depends on."""
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def main() -> None:
    """Measure all levels, print and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for level in LEVELS:
        for row in measure(
            level, arguments.device, getattr(torch, arguments.dtype), arguments.repeats
        ):
            print(*row.values(), sep="\t", flush=True)
            rows.append(row | where(arguments.device))
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

"""Compare tilings of the maps for the Triton kernels of the cost volume.

`python benchmarks/tune.py --device cuda --dtype bfloat16` compares, for every level of R2D-50, other tilings with the
one that `cost_volume_triton.tiling` chooses ("chosen"), separately for forward and backward. Tilings that do not
compile or give wrong results are left out. All candidates are compiled first, in several processes. On a CPU it needs
Triton's interpreter (TRITON_INTERPRET=1), and only shows that this program works, not which tiling is good.
"""

import itertools
import multiprocessing
import os
import sys
from functools import partial
from typing import Any

import measure
import report
import torch
from cost_volume import LEVELS, REACH, STRIDE, floors, inputs, num_sets
from torch import Tensor

from hcml_lightning.ops import cost_volume_reference
from hcml_lightning.ops import cost_volume_triton as kernels
from hcml_lightning.ops.cost_volume import NORM_EPS

Change = dict[str, int]
AXES = {
    "forward": {"ROWS": (1, 2, 4, 8), "NY": (1, 2, 4), "UNROLL": (1, 7)},
    "backward": {"ROWS": (1, 2, 4, 8), "BC": (16, 32), "UNROLL": (1, 7)},
}
# Fewer candidates for small maps, whose launch takes longer than their work.
SMALL_AXES = {
    "forward": {"ROWS": (1, 2, 4), "NY": (2, 4)},
    # Without ROWS=1, which takes longest to compile here.
    "backward": {"ROWS": (2, 4), "BC": (32, 64, 128)},
}
DIRECTIONS = ("forward", "backward")


def candidates(level: int, direction: str) -> dict[str, Change]:
    """Return the changes of tilings to try at a level, by name; the first one changes nothing."""
    axes = (AXES if level == 0 else SMALL_AXES)[direction]
    changes = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return {"chosen": {}, **{" ".join(f"{k}={v}" for k, v in c.items()): c for c in changes}}


def changed(tiles: kernels.Tiling, direction: str, change: Change) -> kernels.Tiling:
    """Return a tiling with other constants for one direction and the same number of warps per row.

    Raises:
        ValueError: if a block would have more channels than the padded features.
    """
    rows = tiles.constants["ROWS"]
    constants = {**tiles.constants, "ROWS": change.get("ROWS", rows)}
    own = {**getattr(tiles, direction), **change}
    own["num_warps"] = own["num_warps"] * constants["ROWS"] // rows
    own.pop("ROWS", None)
    if own["BC"] > constants["CP"]:
        raise ValueError(f"a block of {own['BC']} channels is more than there are")
    return tiles._replace(**{"constants": constants, direction: own})


def launch(
    direction: str, change: Change, features: Tensor, grad: Tensor, target: Tensor
) -> Tensor:
    """Run one pass with a changed tiling, and return its result in `target`."""
    usual = kernels.tiling
    try:
        tiles = usual(features, REACH, STRIDE)
        if change:
            tiles = changed(tiles, direction, change)
        kernels.tiling = lambda *_: tiles
        if direction == "forward":
            kernels.write_costs(features, target, REACH, STRIDE, NORM_EPS)
        else:
            kernels.write_gradient(grad, features, target, REACH, STRIDE, NORM_EPS)
    finally:
        kernels.tiling = usual
    return target


def drawn(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: torch.memory_format, seed: int
) -> tuple[Tensor, Tensor]:
    """Return random features and a gradient of their costs in a memory format."""
    features, grad = inputs(shape, dtype, device, seed)
    return features.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)


def compile_one(
    job: tuple[tuple[int, ...], torch.dtype, torch.memory_format, str, Change],
) -> None:
    """Compile one candidate into Triton's cache on disk; errors are ignored here and reported when it is timed."""
    shape, dtype, layout, direction, change = job
    # Triton specialises kernels on their size arguments; the number of samples is not one, so one sample is enough.
    features, grad = drawn((1, *shape[1:]), dtype, "cuda", layout, 0)
    target = torch.empty_like(grad if direction == "forward" else features)
    try:
        launch(direction, change, features, grad, target)
        torch.cuda.synchronize()
    except Exception:
        return


def compile_all(jobs: list[Any]) -> None:
    """Compile in as many processes as there are cores, at most 14."""
    cores = min(14, os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for _ in pool.imap_unordered(compile_one, jobs):
            pass


def benchmark(
    subject: report.Subject,
    tried: dict[str, dict[str, Change]],
    layout: torch.memory_format,
    limits: tuple[float, float],
    repeats: int,
) -> list[dict[str, object]]:
    """Check and time all candidates of one shape."""
    sets = [
        drawn(subject.shape, subject.dtype, subject.device, layout, seed)
        for seed in range(num_sets(subject.shape, subject.dtype, subject.device))
    ]
    features, grad = sets[0]
    leaf = features.double().requires_grad_()
    costs = cost_volume_reference(leaf, REACH, STRIDE)
    (gradient,) = torch.autograd.grad(costs, leaf, grad.double())
    expected = {"forward": costs.detach(), "backward": gradient}
    del costs, gradient, leaf
    made = []
    for direction in DIRECTIONS:
        targets = [torch.empty_like(g if direction == "forward" else f) for f, g in sets]
        works: dict[str, list[measure.Work]] = {}
        for name, change in tried[direction].items():
            one = partial(launch, direction, change)
            try:
                result = one(features, grad, targets[0].fill_(torch.nan))
                measure.require_close(name, [result], [expected[direction]])
            except Exception as error:
                if name == "chosen":
                    raise
                print(f"{direction} {name} is left out: {str(error)[:100]}", file=sys.stderr)
                continue
            works[name] = [
                measure.Work(partial(one, *pair, target))
                for pair, target in zip(sets, targets, strict=True)
            ]
        samples = measure.measure(works, subject.device, repeats, graphs=True)
        samples = {name: {direction: times["forward"]} for name, times in samples.items()}
        floor = measure.roofline_ms(floors(subject.shape, subject.dtype)[direction], limits)
        peaks = dict.fromkeys(samples, float("nan"))
        made += report.rows(subject, samples, peaks, {direction: floor})
    return made


def main() -> None:
    """Time all candidates and record the rows."""
    parser = report.parser(__doc__, "tune")
    parser.add_argument("--contiguous", action="store_true", help="instead of channels last")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    layout = torch.contiguous_format if options.contiguous else torch.channels_last_3d
    shapes = options.shapes or [(8, *level) for level in LEVELS]
    tried = []
    for shape in shapes:
        level = 0 if shape[-1] > 32 else 1
        every = {direction: candidates(level, direction) for direction in DIRECTIONS}
        tried.append(
            {
                d: {n: one[n] for n in report.chosen(one, options.providers)}
                for d, one in every.items()
            }
        )
    if options.device == "cuda":
        jobs = [
            (shape, dtype, layout, direction, change)
            for shape, one in zip(shapes, tried, strict=True)
            for direction in DIRECTIONS
            for change in one[direction].values()
        ]
        compile_all(jobs)
    limits = measure.ceilings(options.device, dtype, tensor_cores=True)
    for shape, one in zip(shapes, tried, strict=True):
        op = "cost_volume tiling, contiguous" if options.contiguous else "cost_volume tiling"
        subject = report.Subject(op, shape, dtype, options.device)
        rows = benchmark(subject, one, layout, limits, options.repeats)
        report.record(rows, options.output)


if __name__ == "__main__":
    main()

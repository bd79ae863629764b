"""[backbone → **multiply-adds**]

`hcml flops`: what the motion blocks cost, counted on the meta device, next to the paper's numbers
(Table 2, Table 6, Appendix C).
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hcml_lightning.tools.console.output import HelpFormatter

if TYPE_CHECKING:
    from torch import Tensor, nn

NORM_OPERATIONS = 4


class Cost(NamedTuple):
    """What one clip costs, in 10⁹ multiply-adds.

    Attributes:
        total: convolutions, classifier and cost volumes.
        without_volume: the same without the cost volumes.
        with_norm: `total` plus 4 for each element of a batch norm's output, a common counting rule when the
            paper was written.
    """

    total: float
    without_volume: float
    with_norm: float


def count(
    backbone: str, frames: int, size: int, levels: Sequence[int] = (0, 1, 2), num_classes: int = 400
) -> Cost:
    """Count the multiply-adds of the network that inference keeps, for one clip.

    Args:
        backbone: name of the backbone.
        frames: T.
        size: rows and columns of the clip, pixels.
        levels: levels that have a motion block.
        num_classes: K.

    Returns:
        The cost by three counting rules.
    """
    # Imported here, so that `hcml flops --help` does not wait for PyTorch.
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from hcml_lightning.models import MotionHierarchy

    elements = 0

    def add_norm(module: "nn.Module", inputs: object, output: "Tensor") -> None:
        nonlocal elements
        elements += output.numel()

    with torch.device("meta"):
        model = MotionHierarchy(backbone=backbone, num_classes=num_classes, levels=tuple(levels))
        clip = torch.empty(1, 3, frames, size, size)
    network = model.network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(add_norm)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(clip)
    # The counter counts a multiply-add as two operations.
    by_operator = {str(op): n / 2e9 for op, n in counter.get_flop_counts()["Global"].items()}
    total = sum(by_operator.values())
    volume = sum(n for op, n in by_operator.items() if "cost_volume" in op)
    return Cost(total, total - volume, total + NORM_OPERATIONS * elements / 1e9)


class Row(NamedTuple):
    """One setting, plain and with motion blocks."""

    name: str
    plain: Cost
    motion: Cost
    paper: str


def table(rows: Sequence[Row]) -> str:
    """Return the costs as a table of text."""
    names = ("convolutions and cost volume", "convolutions only", "also 4 per batch-norm element")
    lines = [f"{'10^9 multiply-adds':<30}" + "".join(f"{row.name:>34}" for row in rows)]
    for i, name in enumerate(names):
        cells = (
            f"{_shown(r.plain[i])} -> {_shown(r.motion[i])} ({r.motion[i] / r.plain[i]:.3f}x)"
            for r in rows
        )
        lines.append(f"{name:<30}" + "".join(f"{cell:>34}" for cell in cells))
    if any(row.paper for row in rows):
        lines.append(f"{'paper':<30}" + "".join(f"{row.paper:>34}" for row in rows))
    return "\n".join(lines)


def _shown(cost: float) -> str:
    return f"{cost:.1f}" if cost >= 10 else f"{cost:.3g}"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml flops`."""
    parser = argparse.ArgumentParser(
        prog="hcml flops",
        description="Count the multiply-adds of one clip through the network that inference uses, plain -> with motion "
        "blocks. Without --backbone: the two settings of the paper's Tables 2 and 6.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--backbone", help="r2d50, r2plus1d101 or r2d_tiny")
    parser.add_argument("--frames", type=int, default=16, help="T; used with --backbone only")
    parser.add_argument(
        "--size", type=int, default=256, help="rows and columns of the clip, pixels"
    )
    parser.add_argument(
        "--levels", type=int, nargs="*", default=[0, 1, 2], help="levels with a motion block"
    )
    parser.add_argument("--num_classes", type=int, default=400, help="classes of the classifier")
    return parser


def main(words: Sequence[str]) -> int:
    """Print the multiply-adds of one clip, without and with motion blocks, next to the paper's."""
    parser = make_parser()
    options = parser.parse_args(words)
    for name in ("frames", "size", "num_classes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    settings = [("r2d50", 16, "49 (1.18x)"), ("r2plus1d101", 32, "150 (1.11x)")]
    if options.backbone is not None:
        settings = [(options.backbone, options.frames, "")]
    rows = []
    for backbone, frames, paper in settings:
        plain, motion = (
            count(backbone, frames, options.size, levels, options.num_classes)
            for levels in ((), options.levels)
        )
        as_in_paper = options.size == 256 and options.levels == [0, 1, 2]
        name = f"{backbone}, T = {frames}, {options.size}x{options.size}"
        rows.append(Row(name, plain, motion, paper if as_in_paper else ""))
    print(table(rows))
    return 0

"""[known motion → **video files**]

`hcml synthesize ROOT`: writes a dataset of shapes in known motion, in the layout of any dataset that the package reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hcml_lightning.tools.console.output import HelpFormatter

# Repeated here, because the module that defines them imports PyTorch, for which `--help` should not wait.
LAYOUTS = ("ucf101", "kinetics", "something_v1", "something_v2", "folder")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml synthesize`."""
    parser = argparse.ArgumentParser(
        prog="hcml synthesize",
        description="Write videos of textured shapes in known motion. Classes come in pairs that differ only in the "
        "direction of time, so a single frame says nothing about them.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="ucf101", help="dataset whose layout to use"
    )
    parser.add_argument("--num_train", type=int, default=16, help="training videos of each class")
    parser.add_argument("--num_val", type=int, default=4, help="held-out videos of each class")
    parser.add_argument("--num_frames", type=int, default=24, help="frames of each video")
    parser.add_argument("--height", type=int, default=64, help="pixels")
    parser.add_argument("--width", type=int, default=64, help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same videos")
    return parser


def main(words: Sequence[str]) -> int:
    """Write a dataset of synthetic videos of shapes in known motion."""
    parser = make_parser()
    options = parser.parse_args(words)
    if options.root.exists() and any(options.root.iterdir()):
        parser.error(f"{options.root} is not empty; choose a new folder")
    # Imported late, so that `--help` does not wait for PyTorch.
    from hcml_lightning.data.synthetic import write_synthetic

    write_synthetic(**vars(options))
    print(f"wrote videos in the {options.layout} layout to {options.root}")
    return 0

"""[words of the command line → **options** → top classes of your own videos, and when]

`hcml predict`: network, clips and class names come from the checkpoint; a file that cannot be read is reported, and the
others are still processed.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from hcml_lightning.tools.console.output import HelpFormatter
from hcml_lightning.tools.prediction.prediction_files import FORMATS


def main(words: Sequence[str]) -> int:
    """Recognise what videos show, and write the top classes of each to a csv or json file.

    Returns:
        0 if at least one video was read, else 1.
    """
    options = _options(words)
    # Imported late, so that `--help` and errors in the options do not wait for PyTorch.
    from hcml_lightning.tools.prediction.predicting import predict_all

    return predict_all(options)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = make_parser()
    options = parser.parse_args(words)
    if options.output.suffix not in FORMATS:
        parser.error(f"--output must end in {' or '.join(FORMATS)}, got {options.output}")
    if options.hop is not None and options.window is None:
        parser.error("--hop is the distance between windows; pass --window too")
    for name in ("window", "hop"):
        if (seconds := getattr(options, name)) is not None and not 0 < seconds < math.inf:
            parser.error(
                f"--{name} must be a finite number of seconds greater than 0, got {seconds}"
            )
    if options.top_k < 1:
        parser.error(f"--top_k must be at least 1, got {options.top_k}")
    if options.num_workers < 0:
        parser.error(f"--num_workers must be at least 0, got {options.num_workers}")
    return options


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml predict`."""
    parser = argparse.ArgumentParser(
        prog="hcml predict",
        description="Write the top classes of videos as csv or json. Settings come from the checkpoint.",
        epilog="A file that cannot be read is reported in the output, and the others are still processed; the exit "
        "status is 1 if none could be read.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="video, folder of frames, folder of videos, or pattern",
    )
    parser.add_argument(
        "--ckpt_path", type=Path, required=True, help="checkpoint of a recognition stage"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("found.csv"), help=".csv or .json file to write"
    )
    parser.add_argument(
        "--top_k", type=int, default=5, help="number of classes for each video or window"
    )
    parser.add_argument(
        "--window",
        type=float,
        help="seconds; classify a long video window by window, not as a whole",
    )
    parser.add_argument(
        "--hop",
        type=float,
        help="seconds from one window to the next; half a window if not set",
    )
    parser.add_argument(
        "--annotate", type=Path, metavar="DIR", help="also write videos with the classes drawn in"
    )
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode")
    parser.add_argument(
        "--device",
        default="auto",
        help="where to compute: auto (cuda if available, else cpu), cpu, cuda or cuda:N",
    )
    return parser

"""[words of the command line → **options** → network in other formats]

`hcml export`: writes the recogniser for use without this package.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hcml_lightning.tools.console.output import HelpFormatter, print_table

FORMATS = ("pt2", "onnx", "safetensors")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml export`."""
    parser = argparse.ArgumentParser(
        prog="hcml export",
        description="Write a recogniser that works without this package: a PyTorch program (.pt2), ONNX, and "
        "safetensors, each with class names and preprocessing inside.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--ckpt_path", type=Path, required=True, help="checkpoint of a recognition stage"
    )
    parser.add_argument("--output", type=Path, default=Path("exported"), help="folder to write to")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="formats to write"
    )
    return parser


def main(words: Sequence[str]) -> int:
    """Export the recogniser of a checkpoint to formats that are usable without this package."""
    parser = make_parser()
    options = parser.parse_args(words)
    if options.output.suffix[1:] in FORMATS:
        parser.error(
            f"--output {options.output}: expected a folder, for files of several formats; pass a folder, and set the "
            f"format with --formats {options.output.suffix[1:]}"
        )
    # Imported late, so that --help and errors in options are printed at once.
    from hcml_lightning.tools.console.noise import quiet
    from hcml_lightning.tools.prediction.exporting import export
    from hcml_lightning.tools.prediction.recognizer import Recognizer

    recognizer = Recognizer.from_checkpoint(options.ckpt_path)
    with quiet():
        written = export(recognizer, options.output, options.formats)
    rows = [["file", "MB", "largest difference"]]
    rows += [
        [str(path), f"{path.stat().st_size / 1e6:.1f}", f"{difference:.1e}"]
        for path, difference in written
    ]
    print_table(rows)
    print(
        "\nlargest difference: of the logits from those of the network, on random clips\n"
        "docs/export.md shows how to use the files"
    )
    return 0

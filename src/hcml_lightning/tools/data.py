"""[words of the command line → **tool for data**]

`hcml data TOOL …`: runs one of the tools that check, prepare or time the videos of a dataset.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

TOOLS = {
    "check": "decode all videos, say what is wrong, write the manifest that later runs use",
    "prepare": "copy a dataset for training: short side scaled down, H.264 with short GOP",
    "bench": "time the loader of a config, and say how many cores feed a GPU",
}


def main(words: Sequence[str]) -> int:
    """Run one of the tools for the videos of a dataset.

    Returns:
        Exit status of the tool.

    Raises:
        SystemExit: for `--help`, and with status 2 if there is no such tool.
    """
    name = words[0] if words else "--help"
    if name in TOOLS:
        return int(import_module(f"hcml_lightning.tools.{name}").main(words[1:]))
    lines = ["usage: hcml data TOOL [options]     (hcml data TOOL --help says more)", ""]
    lines += [f"  {tool:<8} {text}" for tool, text in TOOLS.items()]
    lines += [
        "",
        "All take the data as `hcml fit` does:",
        "  hcml data check -c configs/data/ucf101.yaml --data.root /data/ucf101",
    ]
    if name in ("-h", "--help"):
        print("\n".join(lines))
        raise SystemExit(0)
    print("\n".join(lines), file=sys.stderr)
    print(f"\nhcml data: no tool '{name}'; there are {', '.join(TOOLS)}", file=sys.stderr)
    raise SystemExit(2)

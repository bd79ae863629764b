"""[words of the command line → **tool for data**]

`hcml data TOOL …`: runs one of the tools that check, prepare or time the videos of a dataset.
"""

import sys
from collections.abc import Sequence

from hcml_lightning.tools.commands import DATA_COMMANDS


def main(words: Sequence[str]) -> int:
    """Run one of the tools for the videos of a dataset.

    Returns:
        Exit status of the tool.

    Raises:
        SystemExit: for `--help`, and with status 2 if there is no such tool.
    """
    name = words[0] if words else "--help"
    if name in DATA_COMMANDS:
        return DATA_COMMANDS[name].run(words[1:])
    lines = ["usage: hcml data TOOL [options]     (hcml data TOOL --help for details)", ""]
    lines += [f"  {word:<8} {tool.purpose}" for word, tool in DATA_COMMANDS.items()]
    lines += [
        "",
        "All accept data as `hcml fit` does:",
        "  hcml data check -c configs/data/ucf101.yaml --data.root /data/ucf101",
    ]
    if name in ("-h", "--help"):
        print("\n".join(lines))
        raise SystemExit(0)
    print("\n".join(lines), file=sys.stderr)
    print(
        f"\nhcml data: unknown tool '{name}'; choose from {', '.join(DATA_COMMANDS)}",
        file=sys.stderr,
    )
    raise SystemExit(2)

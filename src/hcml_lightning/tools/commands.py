"""[arguments → **command** → what runs]

The commands of `hcml`, and the module that runs each. Nothing heavy is imported here, so that `hcml --help` answers at
once.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Tool(NamedTuple):
    """A command that is not one of Lightning's.

    Attributes:
        module: its module below `hcml_lightning.tools`, with `make_parser()` and `main(words)`.
        purpose: one line for `--help`.
    """

    module: str
    purpose: str

    def run(self, words: Sequence[str]) -> int:
        """Run the command with the words after its name, and return its exit status."""
        return int(import_module(f"hcml_lightning.tools.{self.module}").main(words))


# Commands that run one stage, described by configs, with Lightning's command line.
TRAINER_COMMANDS = {
    "fit": "train one stage: -c STAGE.yaml -c DATA.yaml [-c EXTRA.yaml] [--model.lr 0.01 …]",
    "validate": "compute the validation metrics of a checkpoint: -c … --ckpt_path X",
    "test": "run the multi-view test of a checkpoint: -c … --ckpt_path X",
}
TOOL_COMMANDS = {
    "progressive": Tool(
        "recipe.progressive", "train all stages in order, then test; resumes an interrupted run"
    ),
    "data": Tool("datasets.data", "check, prepare and time the videos of a dataset"),
    "predict": Tool(
        "prediction.predict",
        "write the top classes of your own videos, and when they occur, as csv or json",
    ),
    "report": Tool(
        "reports.report", "write one HTML page about a run: curves, flow, confusions, settings"
    ),
    "export": Tool(
        "prediction.export",
        "write a recogniser that works without this package: .pt2, ONNX, safetensors",
    ),
    "synthesize": Tool("datasets.synthesize", "write videos of shapes in known motion"),
    "flops": Tool("flops", "count multiply-adds, next to the paper's"),
    "completion": Tool(
        "completion", "print a script that lets bash or zsh complete commands and options"
    ),
    "demo": Tool("demo", "run the whole method on synthetic videos, in minutes on a CPU"),
}
# The commands of `hcml data`.
DATA_COMMANDS = {
    "check": Tool(
        "datasets.check",
        "decode all videos, report what is wrong, write the manifest that later runs use",
    ),
    "prepare": Tool(
        "datasets.prepare",
        "copy a dataset for training: short side scaled down, H.264 with short GOP",
    ),
    "bench": Tool(
        "datasets.bench", "time the loader of a config, and report how many cores keep a GPU busy"
    ),
}

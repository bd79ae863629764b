"""[arguments → **command** → what runs]

The commands of `hcml`. This file imports nothing, so that `hcml --help` answers at once.
"""

# Commands that run one stage, described by configs, with Lightning's command line.
TRAINER_COMMANDS = {
    "fit": "train one stage: -c STAGE.yaml -c DATA.yaml [-c EXTRA.yaml] [--model.lr 0.01 …]",
    "validate": "validation metrics of a checkpoint: -c … --ckpt_path X",
    "test": "multi-view test of a checkpoint: -c … --ckpt_path X",
}
# All other commands: each calls hcml_lightning.tools.<name>.main(arguments).
TOOL_COMMANDS = {
    "progressive": "all stages and the test in order; resumes what was interrupted",
    "data": "check, prepare and time the videos of a dataset",
    "predict": "the top classes of your own videos, and when, as csv or json",
    "report": "one html page about a run: curves, flow, confusions, settings",
    "export": "the recogniser for use without this package: .pt2, ONNX, safetensors",
    "synthesize": "write videos of shapes in known motion",
    "flops": "multiply-adds beside the paper's",
    "completion": "a script that lets bash or zsh complete commands and options",
    "demo": "the whole method on synthetic videos, in minutes on a CPU",
}

"""Run all experiments or some of them; runs in the tables are skipped, interrupted ones resume.

    python experiments/run.py --data DIR                                     # everything, on one dataset and split
    python experiments/run.py --data DIR table2 --methods full --seeds 0     # one row
    python experiments/summarise.py                                         # RESULTS.md and figures from the tables

DIR holds datasets in the layout of UCF-101, one folder for each. Several of these commands may run at the same time on
different experiments or seeds. Options of `hcml progressive`, such as --recognition.trainer.max_epochs=120, are passed
on to it; with them, choose other folders with --runs and --results.
"""

import argparse
from pathlib import Path

import figure2
import figure3
import figure4
import ridge
import table1
import table2
import table7
from protocol import FOLDER, Protocol

EXPERIMENTS = (
    *("ridge", "table2", "dense", "control", "table7", "figure2", "table1", "figure3", "figure4"),
)


def main() -> None:
    """Run the experiments that the command line names."""
    options, words = _parser().parse_known_args()
    protocol = Protocol(
        options.protocol,
        options.data.resolve(),
        options.runs.resolve(),
        options.results.resolve(),
        options.backbone,
        tuple(words),
    )
    names = EXPERIMENTS if "all" in options.experiments else options.experiments
    for seed in options.seeds:
        for name in names:
            print(f"== {name}, seed {seed}", flush=True)
            _run(name, protocol, options, seed)


def _run(name: str, protocol: Protocol, options: argparse.Namespace, seed: int) -> None:
    where = (protocol, options.dataset, options.split, seed)
    if name == "ridge":
        ridge.run(protocol, options.dataset, options.split)
    elif name in ("table2", "dense", "control"):
        table2.run(*where, methods=options.methods, variant=name)
    elif name == "table7":
        table7.run(*where, others=options.others, longer=options.longer)
    elif name == "figure2":
        figure2.run(*where)
    elif name == "table1":
        table1.run(*where)
    elif name == "figure3":
        figure3.run(protocol, seed)
    else:
        figure4.run(*where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments",
        nargs="*",
        default="all",
        choices=("all", *EXPERIMENTS),
        help=f"some of {', '.join(EXPERIMENTS)}; default: all",
        metavar="EXPERIMENT",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--protocol", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--backbone", default="r2d_tiny")
    parser.add_argument("--dataset", default="utdmhad_depth27", help="folder in DIR")
    parser.add_argument("--split", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", default=list(table2.METHODS), help="of table2 and dense"
    )
    parser.add_argument(
        "--others", nargs="*", default=[], help="of table7: datasets to pre-train on instead"
    )
    parser.add_argument(
        "--longer",
        action="store_true",
        help="of table7: also train from random weights for as long as pre-training and fine-tuning together",
    )
    parser.add_argument("--runs", type=Path, default=FOLDER / "runs", help="folder for runs")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the tables")
    return parser


if __name__ == "__main__":
    main()

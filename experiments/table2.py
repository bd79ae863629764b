"""Table 2: what motion blocks add to the plain network, and what self-supervision adds to them."""

from collections.abc import Iterable
from typing import Literal

from hcml_lightning.tools.stages import PAPER
from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

METHODS = {
    "baseline": ("baseline", "test"),
    "motion": ("motion_only", "test"),
    "full": PAPER,
}


def run(
    protocol: Protocol,
    dataset: str,
    split: int,
    seed: int,
    methods: Iterable[str] = METHODS,
    variant: Literal["table2", "dense", "control"] = "table2",
) -> None:
    """Train and test methods with the same schedule.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of all random numbers.
        methods: some of `METHODS`.
        variant: in "dense", joint training and the test also use frames 2 apart, as in the paper, instead of frames
            spread over the whole video; in "control", motion blocks train with labels only, for as many epochs as all
            stages of the full method together.
    """
    table = protocol.results / "results.csv"
    words: list[str] = []
    if variant == "dense":
        words = ["--data.frame_stride", "2"]
    elif variant == "control":
        methods = ["motion"]
        words = ["--motion_only.trainer.max_epochs", str(protocol.epochs(PAPER[:-1]))]
    for method in methods:
        key = {
            **{"experiment": variant, "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        name = method if variant == "table2" else f"{method}_{variant}"
        runs = protocol.run(name, dataset, split, seed, METHODS[method], words)
        row = accuracy_row(protocol, variant, dataset, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

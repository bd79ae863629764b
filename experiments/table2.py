"""Table 2: what motion blocks add to the plain network, and what self-supervision adds to them."""

from collections.abc import Iterable

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
    dense: bool = False,
) -> None:
    """Train and test all methods with the same schedule.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of all random numbers.
        methods: some of `METHODS`.
        dense: whether joint training and the test also use frames 2 apart, as in the paper, instead of frames spread
            over the whole video.
    """
    table = protocol.results / "results.csv"
    experiment, words = ("dense", ["--data.frame_stride", "2"]) if dense else ("table2", [])
    for method in methods:
        key = {
            **{"experiment": experiment, "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        name = f"{method}_dense" if dense else method
        runs = protocol.run(name, dataset, split, seed, METHODS[method], words)
        row = accuracy_row(protocol, experiment, dataset, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

"""Control for Table 2: motion blocks trained with labels only, for as many epochs as all stages of the full method."""

from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows
from table2 import METHODS


def run(protocol: Protocol, dataset: str, split: int, seed: int) -> None:
    """Train and test the network of the full method without self-supervision.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of all random numbers.
    """
    table = protocol.results / "results.csv"
    key = {
        **{"experiment": "control", "dataset": dataset, "split": split, "method": "motion"},
        **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
    }
    if is_done(table, key):
        return
    epochs = protocol.epochs(METHODS["full"][:-1])
    words = ["--motion_only.trainer.max_epochs", str(epochs)]
    runs = protocol.run("motion_control", dataset, split, seed, METHODS["motion"], words)
    row = accuracy_row(protocol, "control", dataset, split, "motion", seed, runs)
    write_rows(table, ACCURACY, [row])

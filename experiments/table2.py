"""Table 2: what motion blocks add to the plain network, and what self-supervision adds to them."""

from collections.abc import Iterable

from hcml_lightning.tools.plan import PAPER
from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

METHODS = {
    "baseline": ("baseline", "test"),
    "motion": ("motion_only", "test"),
    "full": PAPER,
}


def run(
    protocol: Protocol, dataset: str, split: int, seed: int, methods: Iterable[str] = METHODS
) -> None:
    """Train and test, with the same schedule for all methods.

    Args:
        protocol: how and where.
        dataset: name of its folder.
        split: fold.
        seed: of everything random.
        methods: some of `METHODS`.
    """
    table = protocol.results / "results.csv"
    for method in methods:
        key = {
            **{"experiment": "table2", "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        runs = protocol.run(method, dataset, split, seed, METHODS[method])
        row = accuracy_row(protocol, "table2", dataset, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

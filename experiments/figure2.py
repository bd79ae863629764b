"""Figure 2: the levels of the hierarchy, added one by one."""

from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

# The three levels together are the full method of Table 2, and none are its baseline.
LEVELS = {
    "level 0": ("[0]", ("flow", "recognition", "test")),
    "levels 0, 1": ("[0, 1]", ("flow", "contrast1", "recognition", "test")),
}


def run(protocol: Protocol, dataset: str, split: int, seed: int) -> None:
    """Train and test with one level, and with two.

    Args:
        protocol: how and where.
        dataset: name of its folder.
        split: fold.
        seed: of everything random.
    """
    table = protocol.results / "results.csv"
    for method, (levels, stages) in LEVELS.items():
        key = {
            **{"experiment": "figure2", "dataset": dataset, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        name = method.replace(", ", "_").replace(" ", "_")
        runs = protocol.run(name, dataset, split, seed, stages, ["--model.levels", levels])
        row = accuracy_row(protocol, "figure2", dataset, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

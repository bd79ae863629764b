"""Table 7: fine-tuning from self-supervised pre-training, on the same and on other data, against random weights."""

from collections.abc import Sequence

from labels import with_share_of_labels
from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

PRETRAINING = ("flow", "contrast1", "contrast2")


def run(
    protocol: Protocol,
    dataset: str,
    split: int,
    seed: int,
    percent: int = 25,
    others: Sequence[str] = (),
) -> None:
    """Train by labels alone, on a share of them: from random weights, and from pre-training without any label.

    Args:
        protocol: how and where.
        dataset: name of its folder, whose training videos are all used for pre-training.
        split: fold.
        seed: of everything random.
        percent: share of the labels.
        others: datasets to pre-train on instead.
    """
    few = f"{dataset}_labels{percent}"
    with_share_of_labels(protocol.data / dataset, protocol.runs / "data" / few, percent)
    table = protocol.results / "results.csv"
    methods = {
        "random": None,
        "self-supervised": dataset,
        **{f"self-supervised on {other}": other for other in others},
    }
    for method, source in methods.items():
        key = {
            **{"experiment": "table7", "dataset": few, "split": split, "method": method},
            **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
        }
        if is_done(table, key):
            continue
        options = ["-c", f"{protocol.config.removesuffix('.yaml')}_finetune.yaml"]
        if source is not None:
            # The stages of the full method of Table 2, or what of them is still to be done.
            before = protocol.run("full", source, split, seed, PRETRAINING)
            options.append(f"--motion_only.model.init_from={before[-1].checkpoint}")
        name = method.replace(" ", "_")
        runs = protocol.run(name, few, split, seed, ("motion_only", "test"), options)
        row = accuracy_row(protocol, "table7", few, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

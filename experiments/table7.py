"""Table 7: fine-tuning from self-supervised pre-training on the same or other data, against random weights."""

from collections.abc import Sequence

from labels import with_share_of_labels
from protocol import ACCURACY, Protocol, accuracy_row, is_done, write_rows

PRETRAINING = ("flow", "contrast1", "contrast2")
LONGER = "random, for longer"


def run(
    protocol: Protocol,
    dataset: str,
    split: int,
    seed: int,
    percent: int = 25,
    others: Sequence[str] = (),
    longer: bool = False,
) -> None:
    """Train with labels alone, on a share of them, from random weights and from pre-training without labels.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder; pre-training uses all its training videos.
        split: fold.
        seed: seed of all random numbers.
        percent: share of the labels, in %.
        others: other datasets; each is also used for pre-training, in place of `dataset`.
        longer: also train from random weights for as many videos as pre-training and fine-tuning have together.
    """
    few = f"{dataset}_labels{percent}"
    with_share_of_labels(protocol.data / dataset, protocol.runs / "data" / few, percent)
    table = protocol.results / "results.csv"
    methods = {
        "random": None,
        **({LONGER: None} if longer else {}),
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
        if method == LONGER:
            # An epoch of pre-training sees all videos, one of fine-tuning only those whose labels are used.
            pretraining = protocol.epochs(PRETRAINING) * 100 // percent
            epochs = pretraining + protocol.epochs(["motion_only"], options)
            options.append(f"--motion_only.trainer.max_epochs={epochs}")
        if source is not None:
            # The same runs as the full method of Table 2, whose finished stages are not run again.
            before = protocol.run("full", source, split, seed, PRETRAINING)
            options.append(f"--motion_only.model.init_from={before[-1].checkpoint}")
        name = method.replace(",", "").replace(" ", "_")
        runs = protocol.run(name, few, split, seed, ("motion_only", "test"), options)
        row = accuracy_row(protocol, "table7", few, split, method, seed, runs)
        write_rows(table, ACCURACY, [row])

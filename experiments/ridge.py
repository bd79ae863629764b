"""The baseline without learned features: a ridge classifier on differences of eight small grey frames."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.decode import probe, read_frames
from protocol import QUANTITY, Protocol, circumstances, is_done, write_rows

FRAMES = 8
SIDE = 20
# λ of Σ (w · x − y)² + λ |w|², for features scaled by one common factor to standard deviation 1.
PENALTY = 1000.0


def run(protocol: Protocol, dataset: str, split: int) -> None:
    """Fit the classifier on the training videos and measure it on the test videos.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
    """
    table = protocol.results / "measurements.csv"
    key = {
        **{"experiment": "ridge", "dataset": dataset, "split": split, "backbone": "none"},
        **{"method": "frame differences", "seed": 0, "protocol": protocol.name},
    }
    if is_done(table, key):
        return
    data = UCF101DataModule(protocol.root(dataset), fold=split)
    known, label = _described(data, "train")
    asked, truth = _described(data, "test")
    mean, std = known.mean(0), known.std()
    known, asked = (known - mean) / std, (asked - mean) / std
    targets = 2 * F.one_hot(label, data.num_classes).double() - 1
    # The dual form is smaller, because there are fewer videos than features: w = Xᵀ (X Xᵀ + λ I)⁻¹ Y.
    gram = known @ known.T + PENALTY * torch.eye(len(known), dtype=torch.float64)
    scores = asked @ (known.T @ torch.linalg.solve(gram, targets))
    top1 = 100 * float((scores.argmax(1) == truth).double().mean())
    row = key | circumstances(protocol) | {"quantity": "top1", "value": f"{top1:.4g}"}
    write_rows(table, QUANTITY, [row])


def _described(data: UCF101DataModule, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """Return the features (videos, (FRAMES - 1) · SIDE²) and the labels of a split."""
    rows, labels = [], []
    for record in data.records(split):
        places = np.linspace(0, probe(record.path).num_frames - 1, FRAMES).round().astype(int)
        frames = read_frames(record.path, places.tolist())
        grey = frames.double().mean(dim=3)[:, None]
        small = F.interpolate(grey, (SIDE, SIDE), mode="area")
        rows.append(small.diff(dim=0).flatten())
        labels.append(record.label)
    return torch.stack(rows), torch.tensor(labels)

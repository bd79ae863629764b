"""One stage after another on two processes, or the equivalent on one.

Run by test_ranks.py: `python two_ranks.py ROOT FILE`, on each of two ranks.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hcml_lightning import ContrastTask, FlowTask, ProbeTask, RecognitionTask, UCF101DataModule
from hcml_lightning.data.dataset import collate
from hcml_lightning.data.loading import EpochSampler
from hcml_lightning.data.packed import PackedList
from hcml_lightning.losses import contrastive_loss
from hcml_lightning.sync_batch_norm import SyncEverywhere
from hcml_lightning.tasks.contrast import gather_targets

RANKS = 2
LR = 0.02
SMALL = {"clip_length": 4, "frame_stride": 1, "short_side": (64, 72), "crop_size": 64, "flip": "none",
         "test_crop_size": 64, "test_clips": 1, "test_crops": 1, "num_workers": 0}  # fmt: skip
TINY = {"backbone": "r2d_tiny", "num_classes": 8, "warmup_epochs": 0, "dropout": 0.0}
# Name, task, arguments, whether batch norm is synchronised.
CASES = {
    "flow": (FlowTask, {}, True),
    "contrast1": (ContrastTask, {"level": 1}, True),
    "contrast1 gathered": (ContrastTask, {"level": 1, "gather_negatives": True}, True),
    "contrast2": (ContrastTask, {"level": 2}, True),
    "recognition": (RecognitionTask, {}, False),
    "probe": (ProbeTask, {}, False),
}


class Places(pl.Callback):
    """Draws the places of a clip by the number of its video, so that it does not matter which rank has it.

    Attributes:
        losses: of the training steps.
    """

    def __init__(self) -> None:
        self.indices = torch.zeros(0)
        self.losses: list[float] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.indices = batch["index"]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def draw(self, batch_size: int, height: int, width: int, num: int, *_: Any) -> torch.Tensor:
        rows = [
            torch.randperm(height * width, generator=torch.Generator().manual_seed(int(index)))
            for index in self.indices
        ]
        assert len(rows) == batch_size
        return torch.stack(rows)[:, :num]


class Joined(UCF101DataModule):
    """The batches of all ranks on one: together, or one after the other."""

    together = True

    def train_dataloader(self) -> Any:
        dataset = self.dataset("train")
        shares = [list(EpochSampler(dataset, self.seed, RANKS, rank)) for rank in range(RANKS)]
        size = self.batch_size
        steps = [
            [s[i : i + size] for s in shares] for i in range(0, len(shares[0]) - size + 1, size)
        ]
        batches = [[*chain(*step)] for step in steps] if self.together else [*chain(*steps)]
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]


def loss_of_halves(
    predicted: torch.Tensor, targets: torch.Tensor, positive: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The loss that ranks without gathered negatives minimise together."""
    size = len(targets) // RANKS
    parts = []
    for rank, own in enumerate(targets.split(size)):
        mine = positive // size == rank
        parts.append(
            contrastive_loss(predicted[mine], own, positive[mine] - rank * size, temperature)
        )
    return torch.stack(parts).mean()


@contextmanager
def placed(places: Places, halves: bool) -> Iterator[None]:
    with patch("hcml_lightning.tasks.base.sample_locations", places.draw):
        if halves:
            with patch("hcml_lightning.tasks.contrast.contrastive_loss", loss_of_halves):
                yield
        else:
            yield


def run(case: str, root: str, ranks: int) -> dict[str, Any]:
    """Validate seven videos in batches of three, then train an epoch in global batches of four."""
    make, arguments, synchronised = CASES[case]
    settings: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "max_epochs": 1, "precision": "64-true",
        "num_sanity_val_steps": 0, "limit_val_batches": 1.0,
    }  # fmt: skip
    if ranks > 1:
        settings |= {"devices": ranks, "strategy": "ddp"}
    pl.seed_everything(0, verbose=False)
    task = make(**TINY, **arguments, lr=LR / ranks)
    # A displacement that leaves a small map altogether has cost 0 everywhere. Without a bias it would lie at the kink
    # of the ReLU that follows, and the rounding of sums would decide its gradient.
    for norm in (m for m in task.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.constant_(norm.bias, 0.1)
    data = UCF101DataModule(root, batch_size=3, true_flow=make is FlowTask, **SMALL)
    for split, stage in (("val", "validate"), ("test", "test")):
        data.setup(stage)
        dataset = data.dataset(split)  # type: ignore[arg-type]
        dataset.records = PackedList(dataset.records[:-1])
    found: dict[str, Any] = {}
    # Each with its own trainer, as the command line does it.
    for evaluate in ("validate", "test"):
        trainer = pl.Trainer(**settings)
        getattr(trainer, evaluate)(task, datamodule=data, verbose=False)
        found |= {k: float(v) for k, v in trainer.callback_metrics.items()}

    places, plugins = Places(), [SyncEverywhere()] if synchronised else []
    kind = UCF101DataModule
    if ranks == 1:
        kind = Joined
        Joined.together = synchronised
        settings["accumulate_grad_batches"] = 1 if synchronised else RANKS
    data = kind(root, batch_size=2, true_flow=make is FlowTask, **SMALL)
    trainer = pl.Trainer(**settings | {"limit_val_batches": 0}, callbacks=[places], plugins=plugins)
    gathers = arguments.get("gather_negatives", False)
    before = {k: v.clone() for k, v in task.state_dict().items()}
    with placed(places, halves=ranks == 1 and make is ContrastTask and not gathers):
        trainer.fit(task, datamodule=data)
    after = {k: v.cpu() for k, v in task.state_dict().items()}
    return {"metrics": found, "losses": places.losses, "before": before, "after": after}


def gathered(rank: int) -> dict[str, Any]:
    """Targets of ranks of which the second has fewer, since it left a video out."""
    generator = torch.Generator().manual_seed(rank)
    targets = torch.rand(5 - 2 * rank, 3, generator=generator, requires_grad=True)
    joined, positive = gather_targets(targets, torch.arange(len(targets)))
    return {"own": targets.detach(), "joined": joined, "positive": positive}


def counted(rank: int) -> dict[str, Any]:
    """An accuracy, and that of a run resumed from its checkpoint."""
    accuracies: list[float] = []
    checkpoint: dict[str, Any] = {}
    for _ in range(2):
        task: Any = ProbeTask(level=1, **TINY)
        task._trainer = SimpleNamespace(global_rank=rank, predicting=False)
        task.on_load_checkpoint(checkpoint)
        # The first rank is right in two of three, the second in two of five.
        labels = torch.tensor([0, 3, 2, 2, 2])[: 3 + 2 * rank]
        task.train_accuracy.update(torch.arange(len(labels)) % 4, labels)
        task.on_save_checkpoint(checkpoint)
        accuracies.append(float(task.train_accuracy.compute()))
    return {"accuracies": accuracies, "counts": checkpoint["train_counts"]}


def main(root: str, file: str) -> None:
    """Run all cases on this rank."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {case: run(case, root, RANKS) for case in CASES}
    rank = torch.distributed.get_rank()
    found |= {"gathered": gathered(rank), "counted": counted(rank)}
    torch.save(found, Path(file).with_suffix(f".{rank}"))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""[multi-view test → **predictions.csv** → report]

Writes the test's predictions for all videos, from all processes, to one file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hcml_lightning.batch import VideoBatch
from hcml_lightning.tools.run.run_folder import run_folder
from hcml_lightning.tools.run.video_results import FILE_NAME, VideoResult, write_predictions


class VideoResultWriter(pl.Callback):
    """Write `predictions.csv` next to `test.json`: every tested video once, even if two processes tested it."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._columns: list[tuple[Tensor, ...]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear the predictions of an earlier test."""
        self._names, self._columns = [], []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: VideoBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the likeliest class of each video on the device, so that nothing waits for it here."""
        if isinstance(outputs, Mapping) and "probability" in outputs:
            top = outputs["probability"].max(dim=1)
            # A user's loader may give no names with a batch, and a user's task none with its results.
            self._names += outputs.get("video_id") or batch["video_id"]
            self._columns.append((batch["index"], batch["label"], top.indices, top.values))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the predictions of all processes, and write them in the order of the split."""
        columns = [torch.cat(c).tolist() for c in zip(*self._columns, strict=True)]
        found = list(zip(*columns, self._names, strict=True)) if columns else []
        parts: list[Any] = [found]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, found)
        folder = run_folder(trainer)
        # A distributed sampler may give a video to two processes, so that all have equally many.
        unique = {row[0]: row for part in parts for row in part}
        if trainer.is_global_zero and folder is not None and unique:
            names = getattr(pl_module, "class_names", None)
            videos = [
                VideoResult(
                    name, _class_name(names, label), _class_name(names, predicted), probability
                )
                for _, (_, label, predicted, probability, name) in sorted(unique.items())
            ]
            write_predictions(folder / FILE_NAME, videos)


def _class_name(names: Sequence[str] | None, label: int) -> str:
    if label < 0:
        return ""
    return str(label) if names is None else names[label]

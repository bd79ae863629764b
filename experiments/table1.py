"""Table 1: how discriminative and general the motion features of each level are, by kind of supervision."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.dataset import VideoDataset, collate
from hcml_lightning.metrics import efficacy_score
from hcml_lightning.tasks import ProbeTask
from protocol import QUANTITY, Protocol, circumstances, is_done, write_rows

LEVELS = (0, 1, 2)
SUPERVISION = ("action", "preliminary", "hierarchical")


def run(protocol: Protocol, dataset: str, split: int, seed: int) -> None:
    """Probe the features of each level under each kind of supervision.

    Args:
        protocol: the settings of the runs and their folders.
        dataset: name of the dataset's folder.
        split: fold.
        seed: seed of all random numbers.
    """
    table = protocol.results / "measurements.csv"
    for supervision in SUPERVISION:
        for level in LEVELS:
            method = f"{supervision} level {level}"
            key = {
                **{"experiment": "table1", "dataset": dataset, "split": split, "method": method},
                **{"backbone": protocol.backbone, "seed": seed, "protocol": protocol.name},
            }
            if is_done(table, key | {"quantity": "train_top1"}):
                continue
            source = _checkpoint(protocol, dataset, split, seed, supervision, level)
            words = ["--probe.model.level", str(level), "--probe.model.init_from", source]
            # At level 0 both kinds of self-supervision are the same, so they share a probe.
            how = "preliminary" if supervision == "hierarchical" and level == 0 else supervision
            name = f"probe_{how}_level_{level}"
            (probe,) = protocol.run(name, dataset, split, seed, ("probe",), words)
            top1 = 100 * probe.metrics["val/top1"]
            train_top1 = 100 * _accuracy_in_training(probe.checkpoint)
            quantities = {
                "train_top1": train_top1,
                "top1": top1,
                "efficacy": efficacy_score(train_top1, top1),
            }
            same = key | circumstances(protocol)
            rows = [same | {"quantity": k, "value": f"{v:.4g}"} for k, v in quantities.items()]
            write_rows(table, QUANTITY, rows)


def _accuracy_in_training(checkpoint: str) -> float:
    """Return training accuracy of the trained probe on centred clips; on an epoch's augmented clips it is lower."""
    data = UCF101DataModule.load_from_checkpoint(checkpoint)
    videos = VideoDataset(data.usable_records(["train"])["train"], data.recipe("val"))
    loader = DataLoader(videos, data.batch_size, collate_fn=collate)
    task = ProbeTask.load_from_checkpoint(checkpoint, map_location="cpu")
    trainer = pl.Trainer(
        devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    (found,) = trainer.validate(task, loader, verbose=False)
    return float(found["val/top1"])


def _checkpoint(
    protocol: Protocol, dataset: str, split: int, seed: int, supervision: str, level: int
) -> str:
    """Return the checkpoint to probe, after training what is not trained yet."""
    if supervision == "action":
        return protocol.run("motion", dataset, split, seed, ("motion_only",))[-1].checkpoint
    stages = ("flow", "contrast1", "contrast2")[: level + 1]
    chain = protocol.run("full", dataset, split, seed, stages)
    if supervision == "hierarchical" or level == 0:
        return chain[-1].checkpoint
    # Reconstruction alone, in a single stage with as many epochs as all stages of the chain together.
    words = ["--flow.model.level", str(level)]
    words += ["--flow.trainer.max_epochs", str(sum(stage.epochs for stage in chain))]
    # Consecutive frames of level l are 2^l frames of the clip apart, so these levels need longer clips.
    words += ["--flow.data.clip_length", "8"]
    return protocol.run(f"flow_{level}", dataset, split, seed, ("flow",), words)[-1].checkpoint

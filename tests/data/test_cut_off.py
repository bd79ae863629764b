"""Training killed inside an epoch resumes with the clips that would have come next, in one process and in two."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.multiprocessing import ProcessExitedException

from hcml_lightning.cli import main
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.resume import LastCheckpoint

VIDEOS, EPOCHS = 8, 3
# Batch norm over a batch of one clip needs maps of more than one pixel, up to the last.
SMALL = {"clip_length": 4, "short_side": [64, 72], "crop_size": 64, "flip": "mirror"}


class Witness(pl.Callback):
    """Writes a line for every training batch: epoch, videos, and a checksum that tells frames and crops apart.

    Args:
        file: path of the lines, to which each rank appends its number.
        kill_at: line at which the process kills itself, without a chance to prepare.
    """

    def __init__(self, file: str, kill_at: int = -1) -> None:
        self.file, self.kill_at, self.lines = file, kill_at, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.lines += 1
        if self.lines == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = batch["video"].long()
        places = torch.arange(pixels.numel()).reshape(pixels.shape) % 10_007
        content = int((pixels * places).sum())
        with open(f"{self.file}{trainer.global_rank}", "a") as lines:
            lines.write(json.dumps([trainer.current_epoch, batch["video_id"], content]) + "\n")


def seen(file: Path, rank: int = 0) -> list[list]:
    return [json.loads(line) for line in Path(f"{file}{rank}").read_text().splitlines()]


def fit_words(root: Path, folder: Path, witness: Path, kill_at: int = -1) -> list[str]:
    words = ["fit", "-c", "stages/baseline.yaml", "--data=UCF101DataModule", f"--data.root={root}"]
    words += [f"--data.{name}={value}" for name, value in SMALL.items()]
    words += ["--data.test_crop_size=64", "--data.batch_size=1", "--data.num_workers=2"]
    words += ["--model.backbone=r2d_tiny", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    words += [f"--trainer.max_epochs={EPOCHS}", "--trainer.limit_val_batches=1"]
    words += [f"--checkpoint.dirpath={folder}", f"--trainer.default_root_dir={folder}"]
    words += ["--save_every_n_steps=3"]
    words += ["--trainer.callbacks+=test_cut_off.Witness", f"--trainer.callbacks.file={witness}"]
    return [*words, f"--trainer.callbacks.kill_at={kill_at}"]


def test_killed_fit_resumes_with_the_clips_that_come_next(synthetic_root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    root = synthetic_root("ucf101")
    assert main(fit_words(root, tmp_path / "whole", tmp_path / "expected")) == 0
    expected = seen(tmp_path / "expected")
    assert [epoch for epoch, *_ in expected] == [e for e in range(EPOCHS) for _ in range(VIDEOS)]
    words = fit_words(root, tmp_path / "cut", tmp_path / "first", kill_at=14)
    paths = os.pathsep.join(filter(None, sys.path))
    killed = subprocess.run(
        [sys.executable, "-m", "hcml_lightning", *words],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert seen(tmp_path / "first") == expected[:13]
    last = tmp_path / "cut" / "last.ckpt"
    # Written after step 12, the fourth of the second epoch.
    assert torch.load(last, weights_only=True)["global_step"] == 12
    words = fit_words(root, tmp_path / "cut", tmp_path / "second")
    assert main([*words, f"--ckpt_path={last}"]) == 0
    assert seen(tmp_path / "second") == expected[12:]


class Still(pl.LightningModule):
    """Trains one number, and needs no batch for it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0

    def configure_optimizers(self):
        # Schedules ask for this, too; the loader is then made here, before the state of the loops is restored.
        assert self.trainer.estimated_stepping_batches == EPOCHS * VIDEOS // 2
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_on_two(root: str, folder: Path, witness: Path, kill_at: int = -1, resume: bool = False):
    data = UCF101DataModule(root, num_workers=0, batch_size=1, **SMALL)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_notebook",
        max_epochs=EPOCHS,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            LastCheckpoint(folder, every_n_steps=3),
            Witness(str(witness), kill_at),
        ],
    )
    trainer.fit(Still(), datamodule=data, ckpt_path=folder / "last.ckpt" if resume else None)


def train_on_two(root: str, here: Path) -> None:
    """Run a whole, a killed and a resumed training in forks, which share the imported modules."""
    warnings.simplefilter("ignore")
    fit_on_two(root, here / "whole", here / "expected")
    try:
        fit_on_two(root, here / "cut", here / "first", kill_at=8)
    except ProcessExitedException as error:
        (here / "killed").write_text(str(error.signal_name))
    fit_on_two(root, here / "cut", here / "second", resume=True)


def test_two_killed_ranks_resume_with_the_clips_that_come_next(synthetic_root, tmp_path):
    command = [sys.executable, __file__, str(synthetic_root("ucf101")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").read_text() == "SIGKILL"
    together = []
    for rank in range(2):
        expected = seen(tmp_path / "expected", rank)
        assert len(expected) == EPOCHS * VIDEOS // 2
        first = seen(tmp_path / "first", rank)
        # The other rank may be killed a batch before it would kill itself.
        assert 6 <= len(first) <= 7
        assert first == expected[: len(first)]
        # Written after step 6, the second of the second epoch.
        assert seen(tmp_path / "second", rank) == expected[6:]
        together += [videos for epoch, videos, _ in expected if epoch == 1]
    assert len({video for (video,) in together}) == VIDEOS


if __name__ == "__main__":
    train_on_two(sys.argv[1], Path(sys.argv[2]))

"""A recogniser that was fitted for an epoch, for all tests of what is done with one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hcml_lightning.cli import main

STAGES = {"flow": "1_flow", "recognition": "4_recognition"}


@pytest.fixture(scope="session")
def fitted(synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with those of two stages, as `hcml progressive` leaves it."""
    run_dir = tmp_path_factory.mktemp("run")
    for stage, config in STAGES.items():
        words = ["fit", "-c", f"stages/{config}.yaml", "-c", "data/ucf101.yaml"]
        words += [f"--data.root={synthetic_root('ucf101')}", "--model.backbone=r2d_tiny"]
        words += ["--data.clip_length=4", "--data.short_side=[32,32]", "--data.crop_size=32"]
        words += ["--data.test_crop_size=32", "--data.test_clips=2", "--data.num_workers=0"]
        words += ["--data.flip=none", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
        words += [f"--trainer.logger.init_args.save_dir={run_dir}"]
        words += [f"--checkpoint.dirpath={run_dir / stage / 'checkpoints'}"]
        assert main(words) == 0
    return run_dir


@pytest.fixture(scope="session")
def checkpoints(fitted: Path) -> dict[str, Path]:
    """A checkpoint of a recognition stage, and one that knows no classes, by the names of the stages."""
    return {stage: fitted / stage / "checkpoints" / "last.ckpt" for stage in STAGES}

"""A recogniser fitted for two epochs, for all tests of tools that use one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import TINY

from hcml_lightning.cli import main

STAGES = {"flow": "1_flow", "recognition": "4_recognition"}


@pytest.fixture(scope="session")
def fitted(synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two stages, as `hcml progressive` leaves it."""
    run_dir = tmp_path_factory.mktemp("run")
    for stage, config in STAGES.items():
        words = ["fit", "-c", f"stages/{config}.yaml", *TINY, "--trainer.max_epochs=2"]
        # Several views, of clips that skip frames.
        words += ["--data.test_clips=2", "--data.test_crops=3", "--data.frame_stride=2"]
        words += [f"--data.root={synthetic_root('ucf101')}"]
        words += [f"--trainer.logger.init_args.save_dir={run_dir}"]
        words += [f"--checkpoint.dirpath={run_dir / stage / 'checkpoints'}"]
        assert main(words) == 0
    return run_dir


@pytest.fixture(scope="session")
def checkpoints(fitted: Path) -> dict[str, Path]:
    """Checkpoints by the name of their stage: of recognition, and of one that knows no classes."""
    return {stage: fitted / stage / "checkpoints" / "last.ckpt" for stage in STAGES}

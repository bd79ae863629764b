from pathlib import Path
from typing import get_args

import pytest

from hcml_lightning.cli import main
from hcml_lightning.data import UCF101DataModule, synthetic, synthetic_layouts
from hcml_lightning.tools.datasets import synthesize

FEW = ["--num_train=1", "--num_val=1", "--num_frames=4", "--height=32", "--width=32"]


def test_synthesized_dataset_can_be_read(tmp_path: Path):
    assert main(["synthesize", str(tmp_path / "new"), *FEW]) == 0
    data = UCF101DataModule(str(tmp_path / "new"))
    assert data.num_classes == 8


def test_folder_that_is_not_empty_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(SystemExit):
        main(["synthesize", str(tmp_path), *FEW])
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_layouts_are_the_same_wherever_they_are_listed():
    assert synthesize.LAYOUTS == get_args(synthetic.Layout) == tuple(synthetic_layouts.LAYOUTS)

import pytest

from hcml_lightning.models import MotionNetwork
from hcml_lightning.tools.flops import count, main


@pytest.mark.parametrize(
    ("backbone", "frames", "plain", "motion", "ratio"),
    [("r2d50", 16, 40.7, 48.1, 1.184), ("r2plus1d101", 32, 133.0, 148.0, 1.113)],
)
def test_flops_equal_those_of_the_design(
    backbone: str, frames: int, plain: float, motion: float, ratio: float
):
    without, with_blocks = count(backbone, frames, 256, ()), count(backbone, frames, 256)
    assert without.total == pytest.approx(plain, rel=0.005)
    assert with_blocks.total == pytest.approx(motion, rel=0.005)
    assert with_blocks.total / without.total == pytest.approx(ratio, abs=0.001)
    assert without.total == without.without_volume
    assert with_blocks.total > with_blocks.without_volume


@pytest.mark.parametrize(
    ("backbone", "frames", "plain", "motion", "paper"),
    [("r2d50", 16, 41.3, 48.9, 49), ("r2plus1d101", 32, 134.5, 149.8, 150)],
)
def test_flops_with_norms_round_to_those_of_the_paper(
    backbone: str, frames: int, plain: float, motion: float, paper: int
):
    without, with_blocks = count(backbone, frames, 256, ()), count(backbone, frames, 256)
    assert without.with_norm == pytest.approx(plain, rel=0.005)
    assert with_blocks.with_norm == pytest.approx(motion, rel=0.005)
    assert round(with_blocks.with_norm) == paper


def test_table_shows_both_settings_beside_the_paper(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    said = capsys.readouterr().out
    for number in (
        "40.7",
        "48.1",
        "1.184x",
        "133.0",
        "148.0",
        "1.113x",
        "49 (1.18x)",
        "150 (1.11x)",
    ):
        assert number in said


def test_other_backbone_is_shown_without_numbers_of_the_paper(capsys: pytest.CaptureFixture[str]):
    assert main(["--backbone", "r2d_tiny", "--frames", "8", "--size", "64", "--levels", "0"]) == 0
    said = capsys.readouterr().out
    assert "r2d_tiny, T = 8, 64x64" in said
    assert "0.0302 -> 0.0" in said
    assert "paper" not in said


def test_other_size_is_shown_without_numbers_of_the_paper(capsys: pytest.CaptureFixture[str]):
    main(["--size", "64"])
    assert "paper" not in capsys.readouterr().out


def test_each_class_adds_one_row_of_the_classifier():
    few, many = (count("r2d_tiny", 4, 32, (), classes).total for classes in (400, 1400))
    features = MotionNetwork("r2d_tiny", levels=()).fc.in_features
    assert many - few == pytest.approx(1000 * features / 1e9)

"""Reading the metrics of a run, and the curves drawn from them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from hcml_lightning.tools.run.curves import (
    Curve,
    Point,
    by_epoch,
    by_step,
    comparable_points,
    files_of,
    read_points,
)
from hcml_lightning.tools.run.run_folder import keep_curves


def test_later_starts_replace_curves_of_a_resumed_run(tmp_path: Path):
    starts = {
        ".": "0,9,1.0,\n",
        "version_0": "0,9,1.5,\n,14,,0.1\n1,19,2.0,\n",
        "version_10": "2,29,nan,\n",
        "version_2": "1,19,3.0,\n",
        "version_2_before": "1,19,9.0,\n",
    }
    for folder, rows in starts.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        text = "epoch,step,val/x,lr\n" + rows
        (tmp_path / folder / "metrics.csv").write_text(text)
    order = [file.parent.name for file in files_of(tmp_path, "metrics.csv")]
    assert order == [tmp_path.name, "version_0", "version_2", "version_10"]
    points = read_points(tmp_path)
    assert points == {"lr": [Point(14, None, 0.1)], "val/x": [Point(9, 0, 1.5), Point(19, 1, 3.0)]}
    assert by_epoch(points["val/x"]) == Curve([1, 2], [1.5, 3.0])
    assert by_epoch(points["lr"]) == Curve([], [])
    assert by_step(points) == {"lr": [(1.5, 0.1)], "val/x": [(1.0, 1.5), (2.0, 3.0)]}


def test_photometric_error_is_divided_by_the_valid_share_of_the_same_step():
    points = {
        "val/photometric": [Point(9, 0, 0.04), Point(19, 1, 0.03), Point(29, 2, 0.0)],
        "val/photometric_zero": [Point(9, 0, 0.06), Point(19, 1, 0.06), Point(29, 2, 0.06)],
        "val/valid": [Point(9, 0, 0.5), Point(19, 1, 0.75), Point(29, 2, 0.0)],
        "lr": [Point(9, None, 0.1)],
    }
    assert {name: by_epoch(found) for name, found in comparable_points(points).items()} == {
        "val/photometric ÷ valid": Curve([1, 2], [0.08, 0.04]),
        "val/photometric ÷ valid_zero": Curve([1, 2], [0.06, 0.06]),
        "val/valid": Curve([1, 2, 3], [0.5, 0.75, 0.0]),
        "lr": Curve([], []),
    }


def test_run_without_metrics_has_no_curves(tmp_path: Path):
    assert read_points(tmp_path) == {}
    assert by_step({}) == {}


class Elsewhere(Logger):
    """A logger that keeps no table, like that of TensorBoard."""

    def __init__(self, save_dir: Path) -> None:
        super().__init__()
        self._save_dir = str(save_dir)

    @property
    def name(self) -> str:
        return "flow"

    @property
    def version(self) -> int:
        return 3

    @property
    def save_dir(self) -> str:
        return self._save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_run_with_another_logger_also_keeps_its_curves_as_csv(tmp_path: Path):
    trainer = pl.Trainer(logger=Elsewhere(tmp_path), accelerator="cpu", enable_model_summary=False)
    keep_curves(trainer)
    keep_curves(trainer)
    trainer.loggers[-1].log_metrics({"train/loss": 0.5}, step=1)
    trainer.loggers[-1].save()
    (file,) = files_of(tmp_path / "flow" / "version_3", "metrics.csv")
    assert "train/loss" in file.read_text()


def test_curves_beside_the_config_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "metrics.csv").write_text("epoch,step,val/x\n0,9,1.0\n")
    assert list(read_points(tmp_path)) == ["val/x"]

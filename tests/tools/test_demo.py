"""The demo, as small as it can be."""

from pathlib import Path

import pytest
import yaml
from PIL import Image
from tests.conftest import TINY

from hcml_lightning import load_run
from hcml_lightning.cli import main
from hcml_lightning.tools.demo import print_results, results, run_demo
from hcml_lightning.tools.demo_pictures import PANELS, draw_curves, draw_flow
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.stage_folder import StageError
from hcml_lightning.tools.run.curves import comparable_points, read_points
from hcml_lightning.tools.stages import TRAINING
from hcml_lightning.tools.training.configs import read_config


def test_demo_makes_three_runs_a_table_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = yaml.safe_load(Path(TINY[-1]).read_text())
    recipe["synthesize"] = {
        "num_train": 1,
        "num_val": 1,
        "num_frames": 6,
        "height": 32,
        "width": 32,
    }
    recipe["data"]["class_path"] = "UCF101DataModule"
    recipe["trainer"]["max_epochs"] = 1
    recipe["flow"] = {"data": {"init_args": {"true_flow": True}}}
    runs = run_demo(tmp_path, recipe, [], main)
    numbers = results(runs)
    assert set(numbers["top1"]) == {"plain", "motion_only", "full"}
    assert all(0 <= top1 <= 1 for top1 in numbers["top1"].values())
    assert numbers["epe_zero"] > 0
    capsys.readouterr()
    print_results(numbers)
    said = capsys.readouterr().out
    assert "plain R2D baseline" in said
    assert "12.5 %" in said
    assert f"zero flow {numbers['epe_zero']:.3f}" in said

    draw_flow(tmp_path / "full" / "flow", tmp_path / "flow.png")
    with Image.open(tmp_path / "flow.png") as picture:
        assert len(picture.getcolors(2**24) or []) > 10
        # Two frames, two flows and the rebuilt frame of 32 pixels, with a line of two around each, four times as large.
        assert picture.size == (4 * (5 * 34 + 2), 8 * 4 * (32 + 4))
    draw_curves(tmp_path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 100
    for folder, names in (item for lines in PANELS.values() for item in lines.items()):
        assert set(names) <= comparable_points(read_points(tmp_path / folder)).keys()
    curve = load_run(tmp_path / "full" / "flow").curves["val/epe"]
    assert curve.epoch == [1]
    assert curve.value == pytest.approx([numbers["epe"]], rel=1e-4)

    # A second start does nothing; one with another corpus is refused.
    calls: list[list[str]] = []
    assert run_demo(tmp_path, recipe, [], lambda words: len(calls) or 1) == runs
    recipe["synthesize"]["num_frames"] = 7
    with pytest.raises(StageError, match="the recipe asks for"):
        run_demo(tmp_path, recipe, [], main)


def test_classifiers_of_the_demo_differ_only_in_the_method():
    recipe = read_config("demo.yaml")
    recipe.pop("synthesize")
    plan = Plan((yaml.safe_dump(recipe, default_flow_style=True, width=10**6),), ())
    names = ("baseline", "motion_only", "recognition")
    settings = [plan.settings(TRAINING[name]) for name in names]
    method = {"model.levels", "model.flow_weight", "model.contrast_weights", "trainer.logger.name"}
    shared = [{k: v for k, v in found.items() if k not in method} for found in settings]
    assert shared[0] == shared[1] == shared[2]

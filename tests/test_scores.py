"""What a stage has learned, compared with zero flow and with chance."""

import math

import pytest

from hcml_lightning.scores import comparable, remarks, scores

FLOW = {"val/photometric": 0.05, "val/photometric_zero": 0.06, "val/valid": 0.8}
CONTRAST = {"val/contrast_l2": 5.0, "val/contrast_l2_chance": math.log(400)}


def test_error_of_flow_that_leaves_the_frame_does_not_look_better_than_that_of_zero_flow():
    flow, valid = scores(FLOW)
    assert flow == ("val/photometric ÷ valid", pytest.approx(0.0625), "zero flow 0.06")
    assert valid == ("val/valid", 0.8, "")
    (said,) = remarks(FLOW)
    assert "no better (photometric error 0.0625 over the pixels" in said
    assert "than zero flow (0.06)" in said
    assert remarks({**FLOW, "val/photometric": 0.045}) == []


def test_flow_that_always_leaves_the_frame_has_no_error_to_compare():
    outside = {**FLOW, "val/photometric": 0.0, "val/valid": 0.0}
    assert comparable(outside) == {"val/valid": 0.0}
    (said,) = remarks(outside)
    assert said.startswith("the flow points outside the frame for 100% of the pixels")


@pytest.mark.parametrize(
    ("loss", "top1", "named"),
    [
        (5.0, 0.01, []),
        (6.0, 0.01, ["(contrastive loss 6, chance 5.991)"]),
        (5.0, 0.002, ["(top-1 0.002, chance 0.0025)"]),
        (6.0, 0.002, ["(contrastive loss 6, chance 5.991; top-1 0.002, chance 0.0025)"]),
        (5.0, 0.003, []),
    ],
)
def test_predictions_of_the_future_are_compared_with_a_guess(
    loss: float, top1: float, named: list[str]
):
    metrics = {**CONTRAST, "val/contrast_l2": loss, "val/contrast_l2_top1": top1}
    said = remarks(metrics)
    assert [remark.partition("than chance ")[2].partition(", so")[0] for remark in said] == named
    assert all("level 2" in remark for remark in said)
    assert [score.reference for score in scores(metrics)] == ["chance 5.991", "chance 0.0025"]


def test_details_are_no_scores_but_metrics_of_other_tasks_are():
    metrics = {"val/loss": 1.0, "val/rank_l0": 2.0, "val/spread_l0": 3.0, "train/top1": 4.0}
    assert scores({**metrics, "val/efficacy": 5.0}) == [("val/efficacy", 5.0, "")]

from pathlib import Path

import pytest

from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.stages import TRAINING


def test_parts_named_after_a_stage_apply_to_that_stage_only(tmp_path: Path):
    config = tmp_path / "all.yaml"
    config.write_text("trainer: {max_epochs: 1}\nflow: {trainer: {max_epochs: 2}}\n")
    plan = Plan.from_words(["-c", str(config), "--model.lr", "3", "--contrast1.model.lr=4"])
    flow, contrast = plan.settings(TRAINING["flow"]), plan.settings(TRAINING["contrast1"])
    assert (flow["trainer.max_epochs"], flow["model.lr"]) == (2, 3)
    assert (contrast["trainer.max_epochs"], contrast["model.lr"]) == (1, 4)
    assert plan.words(TRAINING["contrast1"])[-3:] == ["--model.lr", "3", "--model.lr=4"]
    assert "{trainer: {max_epochs: 2}}" in plan.words(TRAINING["flow"])
    assert "{trainer: {max_epochs: 2}}" not in plan.words(TRAINING["contrast1"])


def test_baselines_share_the_recipe_of_recognition():
    words = ["--baseline.model.lr", "3", "--recognition.model.lr", "2", "--model.momentum=0.5"]
    settings = {name: Plan.from_words(words).settings(TRAINING[name]) for name in TRAINING}
    assert settings["recognition"]["model.lr"] == settings["motion_only"]["model.lr"] == 2
    assert settings["baseline"]["model.lr"] == 3
    assert "model.lr" not in settings["flow"]
    assert all(found["model.momentum"] == 0.5 for found in settings.values())


def test_config_without_parts_is_passed_on_as_a_file(tmp_path: Path):
    config = tmp_path / "data.yaml"
    config.write_text("data: {init_args: {root: x}}")
    words = Plan.from_words(["-c", str(config)]).words(TRAINING["flow"])
    assert words == ["--config", "stages/1_flow.yaml", "--config", str(config)]


def test_options_that_cannot_change_a_result_are_no_settings():
    plan = Plan.from_words(["--data.num_workers", "3", "--trainer.logger", "false"])
    settings = plan.settings(TRAINING["flow"])
    assert "data.num_workers" not in settings
    assert settings["trainer.logger"] is False
    assert not any(name.startswith("trainer.logger.") for name in settings)


def test_a_word_without_option_is_refused():
    with pytest.raises(ValueError, match="'stray' does not belong to an option"):
        Plan.from_words(["stray"])


def test_part_named_baseline_overrides_the_part_named_recognition():
    plan = Plan.from_words(["-c", "{baseline: {model: {lr: 3}}, recognition: {model: {lr: 2}}}"])
    assert plan.settings(TRAINING["baseline"])["model.lr"] == 3
    words = plan.words(TRAINING["baseline"])
    assert words.index("{model: {lr: 2}}") < words.index("{model: {lr: 3}}")

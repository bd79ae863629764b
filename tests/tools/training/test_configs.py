from pathlib import Path

import pytest

from hcml_lightning.tools.training.configs import (
    check_order,
    find_config,
    order_words,
    read_config,
    typed_num_classes,
)


def test_recipes_are_found_without_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs/stages/1_flow.yaml", "stages/1_flow.yaml"):
        assert read_config(name)["model"]["class_path"] == "FlowTask"


def test_file_in_the_working_folder_precedes_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text("model: {}")
    assert find_config("demo.yaml") == Path("demo.yaml")


def test_sweep_is_no_config():
    with pytest.raises(ValueError, match=r"contrast\.yaml: is a sweep.* `wandb sweep"):
        read_config("sweeps/contrast.yaml")
    with pytest.raises(FileNotFoundError, match=r"^(?!.*sweeps/)"):
        find_config("x.yaml")


def test_missing_config_is_named_with_suggestions():
    with pytest.raises(FileNotFoundError, match=r"config 'x.yaml' not found.*stages/1_flow\.yaml"):
        find_config("x.yaml")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'data/ucf101\.yaml'"):
        find_config("configs/data/ucf_101.yml")


def test_a_config_must_be_a_mapping(tmp_path: Path):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list\.yaml: expected a mapping"):
        read_config(tmp_path / "list.yaml")


def test_a_key_twice_in_a_mapping_is_refused_with_its_places(tmp_path: Path):
    twice = tmp_path / "twice.yaml"
    twice.write_text("trainer:\n  max_epochs: 3\nmodel: {}\ntrainer:\n  devices: 2\n")
    with pytest.raises(ValueError, match=r"twice\.yaml: 'trainer' is at 1:1 and again at 4:1"):
        read_config(twice)
    with pytest.raises(ValueError, match=r"'lr' is at 1:10 and again at 1:17"):
        read_config("{model: {lr: 1, lr: 2}}")


def test_the_same_key_in_two_mappings_and_in_a_merged_one_is_no_repetition(tmp_path: Path):
    merged = tmp_path / "merged.yaml"
    merged.write_text(
        "flow: {trainer: &few {max_epochs: 3, devices: 2}}\ntrainer: {<<: *few, devices: 1}"
    )
    assert read_config(merged)["trainer"] == {"max_epochs": 3, "devices": 1}


def test_a_config_of_comments_changes_nothing(tmp_path: Path):
    (tmp_path / "later.yaml").write_text("# trainer:\n#   max_epochs: 3\n")
    assert order_words(["-c", str(tmp_path / "later.yaml"), "--model.lr", "1"]) == [
        "--model.lr",
        "1",
    ]


def test_order_words_puts_classes_first_and_options_last(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("data: {init_args: {batch_size: 3}}")
    (tmp_path / "b.yaml").write_text("data: {class_path: UCF101DataModule}")
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    words = order_words(["--model.lr", "1", "-c", a, f"--config={b}"])
    classes = "{data: {class_path: UCF101DataModule}}"
    assert words == ["--config", classes, "--config", a, "--config", b, "--model.lr", "1"]


def test_a_config_option_needs_a_value():
    with pytest.raises(ValueError, match="expected a config after it; add its path"):
        order_words(["-c"])


@pytest.mark.parametrize(
    "words",
    [
        ["--model.num_classes=7"],
        ["--model.init_args.num_classes", "7"],
        ["--model", "{class_path: FlowTask, init_args: {num_classes: 7}}"],
        ["--model.init_args={num_classes: 7}"],
        ["-c", "{model: {init_args: {num_classes: 7}}}"],
        ["-c", "{model.init_args.num_classes: 7}"],
        ["--model.num_classes=8", "--model", "{init_args: {num_classes: 7}}"],
    ],
)
def test_num_classes_is_found_in_every_spelling(words: list[str]):
    assert typed_num_classes(words) == 7


def test_num_classes_is_not_read_from_other_words():
    assert (
        typed_num_classes(["--data.num_classes=7", "--model={lr: 1", "--seed_everything=1"]) is None
    )
    assert typed_num_classes(["--model={num_classes: 7"]) is None


def test_extra_config_before_its_stage_is_refused(tmp_path):
    (tmp_path / "extra.yaml").write_text("trainer: {max_epochs: 1}")
    (tmp_path / "stage.yaml").write_text("model: {class_path: X}\ntrainer: {max_epochs: 9}")
    with pytest.raises(ValueError, match="max_epochs"):
        check_order([str(tmp_path / "extra.yaml"), str(tmp_path / "stage.yaml")])

"""The command line: what it prints, what it refuses, what it writes."""

import csv
import fcntl
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.plugins.io import AsyncCheckpointIO
from tests.conftest import TINY

import hcml_lightning
from hcml_lightning import ContrastTask, FlowTask, RecognitionTask
from hcml_lightning.cli import TOOL_COMMANDS, TRAINER_COMMANDS, main
from hcml_lightning.resume import LastCheckpoint
from hcml_lightning.tasks import MotionTask
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.run.checkpoints import check_checkpoint, no_file
from hcml_lightning.tools.run.run_folder import RunConfigCallback
from hcml_lightning.tools.run.screens import before, onwards
from hcml_lightning.tools.training.motion_cli import MotionCLI


@pytest.fixture(scope="module")
def words(synthetic_root: Callable[[str], Path]) -> list[str]:
    return [*TINY, f"--data.root={synthetic_root('ucf101')}", "--data.test_clips=2"]


@pytest.fixture(scope="module")
def trained(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a baseline that was trained for one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    save = [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.max_epochs=1"]
    assert main(["fit", "-c", "configs/stages/baseline.yaml", *words, *save]) == 0
    return folder / "baseline" / "version_0"


def test_run_leaves_threads_to_its_workers_and_takes_them_back(words, monkeypatch):
    numbers = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    once = ["--trainer.fast_dev_run=true", "--data.num_workers=1"]
    assert main(["fit", "-c", "configs/stages/baseline.yaml", *words, *once]) == 0
    assert numbers == [3, 2, 3]


def test_seconds_of_a_run_add_up_over_its_starts(words, trained, tmp_path):
    stored = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < stored["seconds"] < 1000
    (tmp_path / "checkpoints").mkdir()
    torch.save({**stored, "seconds": 1000.0}, tmp_path / "checkpoints" / "last.ckpt")
    for epochs in (2, 2):
        options = [f"--checkpoint.dirpath={tmp_path}/checkpoints", "--ckpt_path=last"]
        options += [f"--trainer.logger.init_args.save_dir={tmp_path}"]
        options += [f"--trainer.max_epochs={epochs}"]
        assert main(["fit", "-c", "configs/stages/baseline.yaml", *words, *options]) == 0
        (record,) = tmp_path.rglob("fit.json")
        assert 1000 < json.loads(record.read_text())["seconds"] < 2000


def test_help_names_every_command_without_importing_torch():
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hcml_lightning", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in (*TRAINER_COMMANDS, *TOOL_COMMANDS):
        assert f"  {name}" in answer.stdout
    assert " torch" not in answer.stderr


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert hcml_lightning.__version__ in capsys.readouterr().out


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "unknown command 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("command", TOOL_COMMANDS)
def test_every_tool_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"hcml {command}" in capsys.readouterr().out


def test_commands_of_a_stage_accept_both_options_for_help(capsys: pytest.CaptureFixture[str]):
    said = []
    for word in ("-h", "--help"):
        with pytest.raises(SystemExit) as stopped:
            main(["test", word])
        assert stopped.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "--ckpt_path" in said[0]


def test_public_names_exist():
    for name in hcml_lightning.__all__:
        assert getattr(hcml_lightning, name) is not None
    assert set(dir(hcml_lightning)) == set(hcml_lightning.__all__)
    for name in ("data", "losses", "metrics", "models", "ops", "tasks"):
        assert hcml_lightning.__getattr__(name).__name__ == f"hcml_lightning.{name}"
    with pytest.raises(AttributeError, match="Nothing"):
        _ = hcml_lightning.Nothing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--model.zetta=1"], "RecognitionTask has no option 'zetta'; choose from backbone,"),
        (["--model.temprature=1"], "no option 'temprature'; did you mean 'temperature'?"),
        (["--modle.lr=1"], "unknown option '--modle.lr=1'; did you mean '--model.lr'?"),
        (["--lr=1"], "unknown option '--lr=1'; did you mean '--model.lr'?"),
        (["--data.batchsize=1"], "UCF101DataModule has no option 'batchsize'; did you mean"),
        (
            ["-c", "{trainer: {max_epoch: 1}}"],
            "unknown option 'trainer.max_epoch' in a config; did you",
        ),
        (["-c", "configs/tiny.yaml"], "configs/tiny.yaml: is for `hcml progressive`, because"),
        (["--flow.model.lr=1"], "unknown option '--flow.model.lr=1'; did you mean '--model.lr'?"),
        (
            ["--model=RecognitonTask"],
            "unknown class 'RecognitonTask'; did you mean 'RecognitionTask'?",
        ),
        (["--model=hcml_lightning.Nope"], "; choose from ContrastTask, FlowTask, "),
        (["--model=ClassificationTask"], "expected a class: ContrastTask, FlowTask, ProbeTask, "),
        (["--data=UCF"], "unknown class 'UCF'; choose from "),
        (
            ["--trainer.logger=WandbLoger"],
            "unknown class 'WandbLoger'; did you mean 'WandbLogger'?",
        ),
        (["--model.lr=abc"], "--model.lr: expected a number, got 'abc'"),
        (["--data.flip=mirro"], "expected one of none, plain, mirror, got 'mirro'; did you mean"),
        (["--trainer.max_epochs=1.5"], "expected a whole number or null, got '1.5'"),
        (["--trainer.enable_checkpointing=false"], "remove it (--trainer.fast_dev_run true"),
        (["--trainer.strategy=dp"], "--trainer: You selected an invalid strategy name"),
        (
            ["-c", "configs/data/something_v1.yaml", "-c", "configs/stages/1_flow.yaml"],
            "Later configs override earlier ones",
        ),
        (["-c", "configs/stages/none.yaml"], "config 'configs/stages/none.yaml' not found"),
        (["--data.root=nowhere"], "root=nowhere: there is no such folder"),
        (["--model.num_classes=7"], "the data has 8 classes"),
        (["--model.num_classes=abc"], "expected a whole number, got 'abc'"),
        (["--ckpt_path=nowhere.ckpt"], "there is no file 'nowhere.ckpt'"),
        (["--ckpt_path=best"], "there is no file 'best'"),
        (["--ckpt_path=README.md"], "README.md cannot be read as a checkpoint"),
        (["--model.init_from=nowhere.ckpt"], "--model.init_from: there is no file 'nowhere.ckpt'"),
        (["--model.init_from=README.md"], "README.md cannot be read as a checkpoint"),
    ],
)
def test_wrong_option_is_named_in_few_lines(
    wrong: list[str],
    message: str,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    save = f"--trainer.logger.init_args.save_dir={tmp_path}"
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "configs/stages/baseline.yaml", *words, save, *wrong])
    said = f"{stopped.value.code}{capsys.readouterr().err}"
    assert message in said
    assert "usage:" not in said
    assert "Traceback" not in said
    assert said.count("\n") < 20


def test_missing_root_is_asked_for(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["fit", "-c", "configs/stages/1_flow.yaml", "--data=KineticsDataModule"])
    said = capsys.readouterr().err
    assert "--data.root is missing; pass it with the folder of the dataset\n" in said


@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (2, False)])
def test_training_that_will_never_be_validated_is_warned_of(
    epochs: int, warned: bool, words: list[str], tmp_path: Path
):
    words = ["-c", "configs/stages/baseline.yaml", *words, f"--trainer.max_epochs={epochs}"]
    words += ["--trainer.check_val_every_n_epoch=2", "--trainer.limit_train_batches=1"]
    words += [f"--trainer.logger.init_args.save_dir={tmp_path}"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(["fit", *words])
    said = [str(one.message) for one in caught if "nothing will be validated" in str(one.message)]
    assert len(said) == warned


@pytest.mark.parametrize("command", ["validate", "test"])
def test_random_weights_are_not_evaluated(command: str, words: list[str]):
    words = [command, "-c", "configs/stages/baseline.yaml", *words, "--trainer.logger=false"]
    with pytest.raises(SystemExit, match="the weights would be random"):
        main(words)
    # Lightning itself would look for one, find none, warn and continue.
    with pytest.raises(SystemExit, match="there is no file 'last'"):
        main([*words, "--ckpt_path=last"])


def test_last_checkpoint_is_of_the_last_epoch(words: list[str], tmp_path: Path):
    """Even if the monitored metric does not improve, and the last epoch had no validation."""
    words = ["fit", "-c", "configs/stages/baseline.yaml", *words, "--trainer.logger=false"]
    words += ["--model.lr=0", "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
    assert main([*words, f"--checkpoint.dirpath={tmp_path}/checkpoints"]) == 0
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["epoch"] == 2
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["checkpoint"] == f"{tmp_path}/checkpoints/last.ckpt"


def test_stage_prints_where_its_weights_come_from(
    words: list[str], trained: Path, capsys: pytest.CaptureFixture[str]
):
    stage = ["fit", "-c", "configs/stages/probe.yaml", *words, "--trainer.fast_dev_run=true"]
    assert main([*stage, "--model.levels=[0]"]) == 0
    assert "UNTRAINED, and the frozen ones stay so" in capsys.readouterr().out
    stage = ["fit", "-c", "configs/stages/baseline.yaml", *words, "--trainer.fast_dev_run=true"]
    source = trained / "checkpoints" / "last.ckpt"
    assert main([*stage, f"--model.init_from={source}"]) == 0
    assert f"from {source}" in capsys.readouterr().out


def test_run_leaves_config_checkpoint_metrics_and_summary(trained: Path):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1
    assert config["checkpoint"]["monitor"] == "val/top1"
    assert "val/top1" in (trained / "metrics.csv").read_text()
    record = json.loads((trained / "fit.json").read_text())
    assert record["epochs"] == 1
    assert record["finished"] is True
    assert 0 <= record["metrics"]["val/top1"] <= 1
    checkpoint = torch.load(record["checkpoint"], weights_only=True)
    assert checkpoint["hyper_parameters"]["num_classes"] == 8
    assert len(checkpoint["class_names"]) == 8


def test_summary_shows_what_trains_and_the_next_stage(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save = [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.max_epochs=1"]
    main(["fit", "-c", "configs/stages/1_flow.yaml", *words, *save, "--model.lr=0.5"])
    said = capsys.readouterr().out
    assert "FlowTask level 0" in said
    assert "frozen         network.layer2" in said
    assert "0.5 per device x 1 = 0.5" in said
    assert "4 per device x 1 device x 1 accumulated = 4 clips" in said
    assert "8 training videos, 8 validation videos, 8 classes; clips of 4 frames" in said
    assert re.search(r"^time  .* s without start-up, 1 epoch$", said, re.MULTILINE)
    assert "separate statistics on each device" in said
    assert "2_contrast_level1.yaml" in said


@pytest.mark.parametrize(
    ("make", "levels", "command"),
    [
        (FlowTask, (0, 1, 2), "2_contrast_level1.yaml -c DATA.yaml --model.init_from a"),
        (
            FlowTask,
            (0, 2),
            "3_contrast_level2.yaml -c DATA.yaml --model.init_from a --model.levels [0,2]",
        ),
        (FlowTask, (0,), "4_recognition.yaml -c DATA.yaml --model.init_from a --model.levels [0]"),
        (
            functools.partial(ContrastTask, level=1),
            (0, 1),
            "4_recognition.yaml -c DATA.yaml --model.init_from a --model.levels [0,1]",
        ),
        (
            functools.partial(ContrastTask, level=2),
            (0, 1, 2),
            "4_recognition.yaml -c DATA.yaml --model.init_from a",
        ),
    ],
)
def test_suggested_next_command_follows_the_chosen_levels(
    make: Callable[..., MotionTask], levels: tuple[int, ...], command: str
):
    task = make(backbone="r2d_tiny", levels=levels)
    ((_, text),) = onwards(task, "fit", {"checkpoint": "a"})
    assert text == f"hcml fit -c configs/stages/{command}"


def test_suggested_command_can_be_pasted_whatever_the_path():
    for task in (FlowTask(backbone="r2d_tiny"), RecognitionTask(backbone="r2d_tiny")):
        ((_, text),) = onwards(task, "fit", {"checkpoint": "my runs/a.ckpt"})
        assert shlex.split(text)[-1] == "my runs/a.ckpt"


def test_own_way_of_writing_checkpoints_takes_precedence(words: list[str]):
    with quiet():
        fit = ["-c", "stages/baseline.yaml", *words, "--trainer.plugins=AsyncCheckpointIO"]
        trainer = MotionCLI([*fit, "--trainer.logger=false"], run=False).trainer
    assert isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO)


@pytest.mark.parametrize(
    ("end", "schedule", "epoch"),
    [
        (["--trainer.max_epochs=2"], "warm-up 0.5 of 2 epochs, then half a cosine", "epoch 1/2  "),
        (
            ["--trainer.max_epochs=1", "--trainer.max_steps=1000"],
            "warm-up 0.5 of 1 epoch, then half a cosine",
            "epoch 1  ",
        ),
        (
            ["--trainer.max_epochs=1", "--model.warmup_epochs=40"],
            "only rises, because warmup_epochs=40 of 1 leaves no epoch for it to fall; lower it "
            "(--model.warmup_epochs)",
            "epoch 1/1  ",
        ),
        (
            ["--trainer.max_epochs=-1", "--trainer.max_steps=3"],
            "warm-up 1 of 3 steps, then half a cosine",
            "epoch 1  ",
        ),
        (["--trainer.max_steps=3"], "warm-up 1 of 3 steps, then half a cosine", "epoch 1  "),
        (
            ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01"],
            "warm-up 0.5 epochs, then constant",
            "epoch 1  ",
        ),
    ],
)
def test_summary_counts_in_the_unit_that_ends_the_run(
    end: list[str],
    schedule: str,
    epoch: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    words = [*words, "--trainer.logger=false", f"--checkpoint.dirpath={tmp_path}/checkpoints"]
    words += ["--model.warmup_epochs=0.5", "--trainer.enable_progress_bar=false", *end]
    words += ["--trainer.limit_val_batches=0"]
    assert main(["fit", "-c", "configs/stages/baseline.yaml", *words]) == 0
    said = capsys.readouterr().out
    assert f"sgd; {schedule}\n" in said
    assert f"\n{epoch}" in said


def test_summary_does_not_describe_another_schedule():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    screen = before(trainer, FlowTask(backbone="r2d_tiny"))
    assert dict(screen)["learning rate"].endswith("sgd; custom schedule")


def test_epoch_line_without_validation_repeats_no_earlier_metrics(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save = [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.max_epochs=3"]
    save += ["--trainer.check_val_every_n_epoch=2", "--trainer.enable_progress_bar=false"]
    main(["fit", "-c", "configs/stages/1_flow.yaml", *words, *save])
    lines = [li for li in capsys.readouterr().out.splitlines() if li.startswith("epoch ")]
    assert len(lines) == 3
    assert ["val/photometric" in line for line in lines] == [False, True, False]
    folder = next(tmp_path.rglob("fit.json")).parent
    record = json.loads((folder / "fit.json").read_text())
    assert (record["validated_epoch"], record["epochs"]) == (2, 3)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["validated_epoch"] == 2
    assert main(["report", str(folder), "--flow_videos=0"]) == 0
    assert "val/ after epoch 2" in (folder / "report.html").read_text()


def test_epoch_line_shows_the_accuracy_of_its_own_epoch(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save = [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.max_epochs=3"]
    main(["fit", "-c", "configs/stages/baseline.yaml", *words, *save, "--model.lr=0.1"])
    said = [
        re.search(r"^epoch .* train/top1 (\S+)", x) for x in capsys.readouterr().out.split("\n")
    ]
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        logged = [float(row["train/top1"]) for row in csv.DictReader(file) if row["train/top1"]]
    assert len(logged) == 3
    assert [float(found[1]) for found in said if found] == pytest.approx(logged, rel=1e-3)


def test_saved_config_tests_its_own_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [
        "test",
        "-c",
        str(trained / "config.yaml"),
        f"--checkpoint.dirpath={tmp_path}/checkpoints",
    ]
    words += ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]
    assert main([*words, f"--trainer.logger.init_args.save_dir={tmp_path}"]) == 0
    record = json.loads((tmp_path / "test.json").read_text())
    assert set(record["metrics"]) >= {"test/top1", "test/top5"}
    # Metrics of the training, which the checkpoint holds, are not repeated.
    assert {name.partition("/")[0] for name in record["metrics"]} == {"test"}
    said = capsys.readouterr().out
    assert "epochs" not in said
    views = record["views"]
    assert (views["clips"], views["crops"]) == (2, 1)
    assert "views          2 clips x 1 crop, 4 frames of 32 x 32\n" in said
    assert re.fullmatch(r"1 (CPU|GPU) \(.+\)", record["environment"]["device"])
    # Lightning's own table would repeat what the summary shows.
    assert "Test metric" not in said
    assert record["videos"] == {"seen": 8, "in_split": 8}
    assert "videos         8\n" in said
    assert f"written        {tmp_path / 'test.json'}\n" in said
    limited = [*words[1:], "--trainer.limit_val_batches=1", "--data.batch_size=3"]
    assert main(["validate", *limited, f"--trainer.logger.init_args.save_dir={tmp_path}"]) == 0
    record = json.loads((tmp_path / "validate.json").read_text())
    assert {name.partition("/")[0] for name in record["metrics"]} == {"val"}
    assert record["videos"] == {"seen": 3, "in_split": 8}
    assert "3 of 8: a limit on batches skips 5\n" in capsys.readouterr().out


def test_command_line_wins_over_checkpoint_and_config(
    trained: Path, words: list[str], tmp_path: Path
):
    from hcml_lightning.tools.console.noise import quiet
    from hcml_lightning.tools.training.motion_cli import MotionCLI

    given = ["--model.lr=0.125", "-c", str(trained / "config.yaml")]
    given += [f"--trainer.logger.init_args.save_dir={tmp_path}"]
    checkpoint = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]
    with quiet():
        cli = MotionCLI(["validate", *given, *checkpoint])
    assert cli.model.lr == 0.125


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "configs/stages/motion_only.yaml"], "was written with levels"),
        (
            ["-c", "configs/stages/1_flow.yaml"],
            "was written by RecognitionTask, but this run is FlowTask",
        ),
    ],
)
def test_checkpoint_of_another_network_is_refused(
    options: list[str], message: str, trained: Path, words: list[str]
):
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(SystemExit, match=message):
        main(["fit", *options, *words, checkpoint, "--trainer.logger=false"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_names", [f"class {i}" for i in range(8)], "number 0 was 'class 0' and is"),
        ("hyper_parameters", {"num_classes": 5}, "num_classes 5, but the data of this run has 8"),
        ("hyper_parameters", {"max_displacement": 2}, "Pass --model.max_displacement 2"),
        (
            "state_dict",
            {"model.x": torch.zeros(1)},
            r"weights are missing, unexpected .* first of them",
        ),
    ],
)
def test_checkpoint_of_other_data_or_settings_is_refused(
    key: str, value: Any, message: str, trained: Path, words: list[str], tmp_path: Path
):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    before = checkpoint[key]
    checkpoint[key] = {**before, **value} if isinstance(value, dict) else value
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match=message) as stopped:
        main(
            [
                "test",
                "-c",
                str(trained / "config.yaml"),
                *words[2:],
                f"--ckpt_path={tmp_path}/other.ckpt",
            ]
        )
    assert "-c)" in str(stopped.value.code)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"backbone.weight": torch.zeros(1)}, "has no weights of a task"),
        ({"model.backbone.weight": torch.zeros(1)}, "does not fit this model: missing"),
    ],
)
def test_init_from_with_foreign_weights_is_refused(
    state: dict[str, torch.Tensor], message: str, words: list[str], tmp_path: Path
):
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    stage = ["fit", "-c", "configs/stages/baseline.yaml", *words, "--trainer.fast_dev_run=true"]
    with pytest.raises(SystemExit, match=f"init_from: .*{message}"):
        main([*stage, f"--model.init_from={tmp_path}/other.ckpt"])


@pytest.mark.parametrize("data", ["ucf101", "kinetics400", "something_v1", "video_folder"])
def test_a_root_without_the_data_is_named(data: str, tmp_path: Path):
    root = f"--data.root={tmp_path}"
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "stages/baseline.yaml", "-c", f"data/{data}.yaml", root])
    assert str(tmp_path) in str(stopped.value.code)
    assert str(stopped.value.code).count("\n") < 20


def test_resuming_continues_after_the_last_epoch(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["fit", "-c", str(trained / "config.yaml"), "--trainer.max_epochs=3"]
    words += [f"--trainer.logger.init_args.save_dir={tmp_path}"]
    main([*words, f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"])
    said = capsys.readouterr().out
    assert "epoch 2/3" in said
    assert "epoch 1/3" not in said
    # Running this config begins another run.
    (config,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(config.read_text())["ckpt_path"] is None
    (last,) = tmp_path.rglob("last.ckpt")
    with pytest.raises(SystemExit, match=r"max_epochs=1\)\.\nRaise --trainer\.max_epochs to train"):
        main([*words, f"--ckpt_path={last}", "--trainer.max_epochs=1"])


def test_resuming_a_finished_run_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    last = trained / "checkpoints" / "last.ckpt"
    words = ["fit", "-c", str(trained / "config.yaml"), f"--ckpt_path={last}"]
    main([*words, f"--trainer.logger.init_args.save_dir={tmp_path}"])
    said = capsys.readouterr().out
    assert "trained        nothing: the run had already ended" in said
    assert f"--ckpt_path {last}\n" in said
    record = json.loads(next(tmp_path.rglob("fit.json")).read_text())
    assert record["checkpoint"] == str(last)


def test_one_command_starts_a_job_and_resumes_it_at_every_requeue(
    words: list[str],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """The command is the one of `docs/distributed.md`."""
    last, source = tmp_path / "baseline" / "checkpoints" / "last.ckpt", trained / "checkpoints"
    command = ["fit", "-c", "configs/stages/baseline.yaml", *words, "--trainer.max_epochs=3"]
    command += [f"--trainer.logger.save_dir={tmp_path}", f"--checkpoint.dirpath={last.parent}"]
    command += ["--ckpt_path=last", f"--model.init_from={source / 'last.ckpt'}"]
    command += ["--model.warmup_epochs=2"]
    proceed = LastCheckpoint.on_train_epoch_end

    def ended_by_the_scheduler(self: LastCheckpoint, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        proceed(self, *arguments)

    with monkeypatch.context() as ending:
        ending.setattr(LastCheckpoint, "on_train_epoch_end", ended_by_the_scheduler)
        for begins in (f"from {source / 'last.ckpt'}", f"resumed from {last}"):
            with pytest.raises(SystemExit) as stopped:
                main(command)
            assert stopped.value.code == 128 + signal.SIGUSR1
            assert f"weights        {begins}" in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"resumed from {last}" in said
    # The schedule is that of the whole run, not of what is left.
    assert "warm-up 2 of 3 epochs" in said
    assert [f"epoch {n}/3" in said for n in (1, 2, 3)] == [False, False, True]
    assert json.loads((tmp_path / "baseline" / "fit.json").read_text())["epochs"] == 3
    # No whole checkpoint is left to resume from: it begins anew in spite of the broken ones.
    for path in last.parent.glob("last*.ckpt"):
        path.write_bytes(b"cut short")
    assert main([*command, "--trainer.max_epochs=1"]) == 0
    said = capsys.readouterr().out
    assert f"{last} is broken" in said
    assert f"weights        from {source / 'last.ckpt'}" in said


@pytest.mark.parametrize(
    ("tasks", "started_by", "expected"),
    [
        ("2", {}, SLURMEnvironment),
        ("1", {}, LightningEnvironment),
        (
            "2",
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0"},
            TorchElasticEnvironment,
        ),
    ],
)
def test_cluster_environment_matches_the_launcher_under_slurm(
    tasks: str,
    started_by: dict[str, str],
    expected: type,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", tasks)
    for name, value in started_by.items():
        monkeypatch.setenv(name, value)
    words = ["-c", "stages/baseline.yaml", *words, f"--trainer.devices={tasks}"]
    with quiet():
        trainer = MotionCLI([*words, "--trainer.logger=false"], run=False).trainer
    found = trainer._accelerator_connector.cluster_environment
    assert type(found) is expected
    assert not getattr(found, "auto_requeue", False)


def test_ckpt_path_last_requires_a_checkpoint_folder(words: list[str], tmp_path: Path):
    """Otherwise every start would look in a new folder, find nothing and begin anew."""
    command = ["fit", "-c", "configs/stages/1_flow.yaml", *words, "--ckpt_path=last"]
    with pytest.raises(SystemExit, match=r"--ckpt_path last.*--checkpoint\.dirpath"):
        main([*command, f"--trainer.logger.save_dir={tmp_path}", "--trainer.fast_dev_run=true"])


def test_main_accepts_a_dict_in_place_of_words(trained: Path, tmp_path: Path):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    config["trainer"]["fast_dev_run"] = True
    assert main({"subcommand": "fit", "fit": config}) == 0


def test_folder_given_as_a_checkpoint_suggests_the_one_in_it(tmp_path: Path):
    from hcml_lightning.tools.run.checkpoints import no_file

    last = tmp_path / "run/flow/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    for folder in (tmp_path / "run", last.parents[1], last.parent):
        assert (
            no_file(folder) == f"'{folder}' is a folder; pass a .ckpt in it; did you mean {last}?"
        )
    assert no_file(tmp_path) == f"'{tmp_path}' is a folder; pass a .ckpt in it"


def test_run_keeps_its_folder_beside_a_users_own_model_checkpoint(words: list[str], tmp_path: Path):
    """A second ModelCheckpoint and the run each write to the folder that they are given."""
    own = tmp_path / "own.yaml"
    arguments = {"dirpath": str(tmp_path / "every"), "save_top_k": -1}
    callback = {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": arguments}
    own.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "-c", str(own), "--ckpt_path=last"]
    fit.append("--trainer.max_epochs=1")
    fit.append(f"--checkpoint.dirpath={tmp_path / 'run/checkpoints'}")
    assert main(fit) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"config.yaml", "fit.json"}
    assert main([*fit, "--trainer.max_epochs=2"]) == 0
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 1
    assert not list((tmp_path / "every").glob("last*"))


def test_two_runs_do_not_write_to_one_folder_at_a_time(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hcml_lightning.tools.run.run_folder.PATIENCE", 0.0)
    run = tmp_path / "run"
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "--ckpt_path=last"]
    fit += ["--trainer.max_epochs=1", f"--checkpoint.dirpath={run / 'checkpoints'}"]
    run.mkdir()
    other = os.open(run, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(SystemExit, match=r"another run is writing to .*run; wait for it"):
            main(fit)
    finally:
        os.close(other)
    assert not any(run.iterdir())
    # Both the refused run and the one that ends leave the folder unlocked.
    assert main(fit) == 0
    assert main(fit) == 0


def test_a_new_run_that_waited_for_another_does_not_replace_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "--ckpt_path=last"]
    fit += ["--trainer.max_epochs=1", f"--checkpoint.dirpath={tmp_path / 'run/checkpoints'}"]
    claim = RunConfigCallback._claim

    def late(self: RunConfigCallback, folder: Path) -> bool:
        monkeypatch.setattr(RunConfigCallback, "_claim", claim)
        assert main(fit) == 0
        return claim(self, folder) or True

    monkeypatch.setattr(RunConfigCallback, "_claim", late)
    with pytest.raises(SystemExit, match=r"belongs to another run.*or wait for that run to end"):
        main(fit)


def test_chosen_version_of_another_run_is_refused(words: list[str], tmp_path: Path):
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "--trainer.max_epochs=1"]
    fit += [f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.version=mine"]
    assert main(fit) == 0
    (last,) = tmp_path.rglob("mine/checkpoints/last.ckpt")
    content = last.read_bytes()
    with pytest.raises(SystemExit, match=r"mine/checkpoints/last\.ckpt belongs to another run"):
        main(fit)
    assert last.read_bytes() == content


def test_fast_dev_run_leaves_no_trace_in_a_run(words: list[str], tmp_path: Path):
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "--trainer.max_epochs=1"]
    fit.append(f"--checkpoint.dirpath={tmp_path / 'checkpoints'}")
    assert main(fit) == 0
    test = ["test", *fit[1:], f"--ckpt_path={tmp_path / 'checkpoints/last.ckpt'}"]
    assert main(test) == 0
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    assert {path.name for path in before} >= {"fit.json", "test.json", "predictions.csv"}
    for command in (fit, test):
        assert main([*command, "--trainer.fast_dev_run=true"]) == 0
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before


def test_compiled_fit_gives_the_same_weights_and_metrics(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Traced graphs run eagerly here: generating code takes minutes, and that code rounds differently.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    frames = torch._dynamo.utils.counters["frames"]
    frames.clear()
    found = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        fit = ["fit", "-c", "stages/baseline.yaml", *words, "--trainer.max_epochs=1"]
        assert main([*fit, f"--checkpoint.dirpath={folder}", f"--compile={compiled}"]) == 0
        assert (frames["ok"] > 0) == (compiled == "true")
        metrics = json.loads((folder / "fit.json").read_text())["metrics"]
        for name in ("train/clips_per_second", "train/data_wait"):
            metrics.pop(name, None)
        stored = torch.load(folder / "last.ckpt", weights_only=True)
        found.append((stored["state_dict"], metrics))
    torch.testing.assert_close(found[1], found[0])
    torch._dynamo.reset()


def test_compile_together_with_recompute_is_refused(words: list[str]):
    fit = ["fit", "-c", "stages/baseline.yaml", *words, "--compile=true", "--model.recompute=true"]
    with pytest.raises(SystemExit, match=r"--compile and --model\.recompute cannot be combined"):
        main(fit)


def test_load_run_accepts_checkpoint_folders_of_any_name(words: list[str], tmp_path: Path):
    for name in ("first", "second"):
        fit = ["fit", "-c", "stages/baseline.yaml", *words, "--trainer.logger=false"]
        fit.append("--trainer.max_epochs=1")
        assert main([*fit, f"--checkpoint.dirpath={tmp_path / name}"]) == 0
    for name in ("first", "second"):
        run = hcml_lightning.load_run(tmp_path / name)
        assert run.checkpoint == tmp_path / name / "last.ckpt"
        assert run.config["trainer"]["max_epochs"] == 1


def test_start_without_videos_names_their_folder_and_leaves_no_run(
    words: list[str], layout_copy: Callable[[str], Path], tmp_path: Path
):
    root = layout_copy("ucf101")
    (root / "videos").rename(root / "UCF-101")
    fit = ["fit", "-c", "stages/baseline.yaml", *words, f"--data.root={root}"]
    with pytest.raises(SystemExit, match=r"There is no folder .*/videos") as stopped:
        main([*fit, f"--trainer.logger.save_dir={tmp_path / 'runs'}"])
    assert "skip" not in str(stopped.value.code)
    assert list((tmp_path / "runs").rglob("version_*")) == []


def test_checkpoint_of_the_newest_run_is_suggested(tmp_path: Path):
    for number in range(2):
        path = tmp_path / f"version_{number}" / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (number, number))
    assert "version_1/checkpoints/last.ckpt?" in no_file(tmp_path)


@pytest.mark.parametrize(
    ("level", "resumed", "message"),
    [(2, False, "with level 2, but this run has 1"), (1, True, "weights but no training state")],
)
def test_checkpoint_of_another_level_or_without_state_is_refused(
    level: int, resumed: bool, message: str, tmp_path: Path
):
    task = ContrastTask(backbone="r2d_tiny", num_classes=2, level=1)
    settings = {"level": level, "num_classes": 2}
    content = {"state_dict": task.state_dict(), "task": "ContrastTask", "epoch": 3}
    torch.save({**content, "hyper_parameters": settings}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=message):
        check_checkpoint(tmp_path / "x.ckpt", task, ["a", "b"], to_resume=resumed)


@pytest.mark.parametrize("stage", ["baseline", "probe"])
def test_best_checkpoint_is_the_one_with_the_largest_top1(
    synthetic_root: Callable[[str], Path], stage: str
):
    words = ["-c", f"configs/stages/{stage}.yaml", *TINY, f"--data.root={synthetic_root('ucf101')}"]
    with quiet():
        cli = MotionCLI(words, run=False)
    checkpoint = cli.config["checkpoint"]
    assert (checkpoint["monitor"], checkpoint["mode"]) == ("val/top1", "max")

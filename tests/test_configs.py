"""Every recipe that is shipped runs, with every dataset, on generated videos."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hcml_lightning import ContrastTask, RecognitionTask
from hcml_lightning.cli import main
from hcml_lightning.losses import charbonnier, contrastive_loss
from hcml_lightning.ops import cost_volume, cost_volume_reference
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.stages import PAPER, TRAINING
from hcml_lightning.tools.training.configs import CONFIGS

STAGES = sorted(path.stem for path in (CONFIGS / "stages").glob("*.yaml"))
LAYOUTS = {
    "kinetics400": "kinetics",
    "something_v1": "something_v1",
    "something_v2": "something_v2",
    "synthetic": "ucf101",
    "ucf101": "ucf101",
    "video_folder": "folder",
}
# So small that only the wiring is tested.
SMALL = [
    "--model.backbone=r2d_tiny",
    "--data.clip_length=4",
    "--data.short_side=[32, 40]",
    "--data.crop_size=32",
    "--data.test_crop_size=32",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
]


def test_layouts_cover_every_data_config():
    assert sorted(LAYOUTS) == sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


@pytest.mark.parametrize("data", LAYOUTS)
@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_on_data(
    stage: str,
    data: str,
    synthetic_root: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    root = synthetic_root(LAYOUTS[data])
    words = ["fit", "-c", f"configs/stages/{stage}.yaml", "-c", f"configs/data/{data}.yaml"]
    words += [f"--data.root={root}", f"--trainer.default_root_dir={tmp_path}", *SMALL]
    if not data.startswith("something"):
        # A flip would turn the synthetic 'left' into 'right', of which the data warns.
        words.append("--data.flip=none")
    assert main([*words, "--trainer.fast_dev_run=true"]) == 0
    said = capsys.readouterr().out
    assert "fit ended" in said
    assert "8 classes" in said


@pytest.mark.parametrize(
    ("stage", "data", "epochs", "warmup", "lr", "batch_size"),
    [
        ("1_flow", "kinetics400", 80, 10, 0.0025, 8),
        ("2_contrast_level1", "kinetics400", 80, 10, 0.0025, 8),
        ("3_contrast_level2", "kinetics400", 80, 10, 0.0025, 8),
        ("4_recognition", "kinetics400", 200, 40, 0.0025, 8),
        ("baseline", "kinetics400", 200, 40, 0.0025, 8),
        ("1_flow", "something_v1", 150, 50, 0.0025, 8),
        ("4_recognition", "something_v2", 150, 50, 0.0025, 8),
        ("finetune", "ucf101", 30, 4, 0.002, 32),
        ("finetune_selfsupervised", "ucf101", 80, 10, 0.01, 16),
    ],
)
def test_schedules_are_those_of_the_paper(
    stage: str,
    data: str,
    epochs: int,
    warmup: int,
    lr: float,
    batch_size: int,
    synthetic_root: Callable[[str], Path],
):
    cli = parsed(stage, data, synthetic_root(LAYOUTS[data]))
    assert cli.config.trainer.max_epochs == epochs
    assert cli.model.hparams["warmup_epochs"] == warmup
    assert cli.model.hparams["lr"] == lr
    assert cli.datamodule.hparams["batch_size"] == batch_size
    selfsupervised = stage[0] in "123"
    assert cli.config.trainer.sync_batchnorm is selfsupervised


def test_defaults_are_the_numbers_of_the_paper():
    """Those of Sec. 3.3, Sec. 4.1 and B.2."""
    joint = RecognitionTask(backbone="r2d50")
    assert joint.hparams["flow_weight"] == 15
    assert joint.hparams["contrast_weights"] == (0.25, 0.25)
    for task in (joint, ContrastTask(backbone="r2d50")):
        assert task.hparams["temperature"] == 0.07
        assert task.hparams["lr"] == 0.0025
    assert default(contrastive_loss, "temperature") == 0.07
    assert (default(charbonnier, "alpha"), default(charbonnier, "eps")) == (0.45, 1e-3)
    for function in (cost_volume, cost_volume_reference):
        assert (default(function, "max_displacement"), default(function, "stride")) == (6, 2)


def default(function: Callable[..., object], name: str) -> object:
    return inspect.signature(function).parameters[name].default


def test_options_override_the_schedule_of_a_data_config(
    synthetic_root: Callable[[str], Path],
):
    root = synthetic_root("something_v2")
    words = ["-c", "stages/probe.yaml", "-c", "data/something_v2.yaml", f"--data.root={root}"]
    words += ["--trainer.max_epochs=20", "--model.warmup_epochs=1"]
    words += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--model.backbone=r2d_tiny"]
    cli = instantiated(words)
    assert (cli.config.trainer.max_epochs, cli.model.hparams["warmup_epochs"]) == (20, 1)
    assert cli.datamodule.hparams["clip_length"] == 32


@pytest.mark.parametrize(
    ("data", "clip", "stride", "views"),
    [
        ("kinetics400", 16, 2, 30),
        ("ucf101", 16, 2, 30),
        ("something_v1", 32, 1, 9),
        ("something_v2", 32, 1, 9),
    ],
)
def test_clips_and_views_are_those_of_the_paper(
    data: str, clip: int, stride: int, views: int, synthetic_root: Callable[[str], Path]
):
    module = parsed("1_flow", data, synthetic_root(LAYOUTS[data])).datamodule
    hparams = module.hparams
    assert (hparams["clip_length"], hparams["frame_stride"]) == (clip, stride)
    assert hparams["test_clips"] * hparams["test_crops"] == views
    assert (hparams["crop_size"], module.recipe("test").crop_size) == (224, 256)


@pytest.mark.parametrize("sweep", sorted(path.name for path in (CONFIGS / "sweeps").glob("*.yaml")))
def test_sweep_names_existing_settings(
    sweep: str, synthetic_root: Callable[[str], Path], tmp_path: Path
):
    content = yaml.safe_load((CONFIGS / "sweeps" / sweep).read_text())
    chosen = {
        name: rule["values"][-1] if "values" in rule else rule.get("value", rule.get("max"))
        for name, rule in content["parameters"].items()
    }
    chosen["model.init_args.init_from"] = None
    arguments = tmp_path / "args.json"
    arguments.write_text(yaml.safe_dump(chosen))
    command = content["command"]
    words = [str(w).replace("${args_json_file}", str(arguments)) for w in command]
    words = words[words.index("fit") + 1 :]
    words += [f"--data.root={synthetic_root('ucf101')}", "--model.backbone=r2d_tiny"]
    words += ["--trainer.accelerator=cpu", "--trainer.logger=false"]
    cli = instantiated(words)
    for name, value in chosen.items():
        assert cli.model.hparams[name.removeprefix("model.init_args.")] == value
    key, goal = content["metric"]["name"], content["metric"]["goal"]
    assert key.startswith("val/")
    assert goal == "maximize"


def test_contrast_sweeps_vary_nothing_that_makes_their_metric_easier():
    """Fewer targets (S = B·N·T) or nearer ones are easier to find, whatever is learned."""
    easier = {"num_locations", "max_offset", "levels", "level", "batch_size", "clip_length"}
    for path in (CONFIGS / "sweeps").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        if content["metric"]["name"].startswith("val/contrast"):
            swept = {k.split(".")[-1] for k, v in content["parameters"].items() if "value" not in v}
            assert swept, path.name
            assert not swept & easier, path.name


def test_tiny_runs_all_stages(synthetic_root: Callable[[str], Path], tmp_path: Path):
    words = ["-c", "data/video_folder.yaml", "-c", "tiny.yaml"]
    words += [
        f"--data.root={synthetic_root('folder')}",
        "--data.flip=none",
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
    ]
    words += ["--data.batch_size=2", "--data.num_workers=0", "--trainer.limit_train_batches=1"]
    plan = Plan.from_words([*words, "--trainer.accelerator=cpu"])
    assert plan.settings(TRAINING["flow"])["data.frame_stride"] == 2
    assert plan.settings(TRAINING["recognition"])["data.frame_stride"] == "spread"
    records = run_plan(plan, PAPER, tmp_path, main)
    assert [record.stage for record in records] == list(PAPER)
    assert 0 <= records[-1].metrics["test/top1"] <= 1


def parsed(stage: str, data: str, root: Path):
    words = ["-c", f"stages/{stage}.yaml", "-c", f"data/{data}.yaml", f"--data.root={root}"]
    words += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--model.backbone=r2d_tiny"]
    return instantiated(words)


def instantiated(words: list[str]):
    from hcml_lightning.tools.training.motion_cli import MotionCLI

    with quiet():
        return MotionCLI(words, run=False)

"""Weights & Biases, offline: what a run logs, which run it is, and a sweep by W&B's own agent."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import wandb
import yaml
from jsonargparse import ArgumentParser
from tests.conftest import TINY
from tests.tools.wandb_files import OfflineRun, read_runs

from hcml_lightning.cli import main
from hcml_lightning.stop_signals import Stopped
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.run import wandb_runs
from hcml_lightning.tools.run.wandb_runs import choose_run, new_id, note_run
from hcml_lightning.tools.training.configs import CONFIGS


@pytest.fixture
def words(synthetic_root: Callable[[str], Path], tmp_path: Path) -> list[str]:
    words = [*TINY, "-c", "wandb.yaml", f"--data.root={synthetic_root('ucf101')}"]
    words += ["--data.batch_size=2", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]
    return [*words, f"--trainer.logger.init_args.save_dir={tmp_path}"]


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [(Stopped(signal.SIGTERM, is_main=False), 0), (SystemExit(1), 1), (ValueError(), 1)],
    ids=repr,
)
def test_run_stopped_with_status_0_is_not_marked_as_failed(
    end: BaseException, exit_code: int, monkeypatch: pytest.MonkeyPatch
):
    active = iter([None, run := mock.Mock()])
    monkeypatch.setattr(wandb_runs, "_active_run", lambda: next(active))
    with pytest.raises(type(end)), wandb_runs.own_run():
        raise end
    run.finish.assert_called_once_with(exit_code=exit_code)


def test_run_logs_curves_config_and_pictures_and_resumes_under_its_id(
    words: list[str], tmp_path: Path
):
    stage = ["fit", "-c", "stages/4_recognition.yaml", *words]
    assert main(stage) == 0
    (run,) = read_runs(tmp_path)
    assert {"val/top1", "train/loss", "lr-SGD", "train/grad_norm"} <= run.names
    assert run.values("train/clips_per_second")[0] > 0
    assert all(0 <= share <= 1 for share in run.values("train/data_wait"))
    assert set(run.config) - {"_wandb"} == {"cli"}
    assert run.config["cli"]["model"]["init_args"]["backbone"] == "r2d_tiny"
    assert run.exit_code == 0
    for name in ("flow", "grad_cam", "samples"):
        assert run.values(f"pictures/{name}/count") == [4]
    for name in ("grad_cam", "samples"):
        assert "; predicted " in run.values(f"pictures/{name}/captions")[0][0]
    table = next(tmp_path.rglob("confusions*.table.json"))
    assert json.loads(table.read_text())["columns"][:2] == ["true class", "predicted class"]

    folder = tmp_path / "hcml_lightning" / run.run_id
    # The same curves are kept on disk.
    assert "train/grad_norm" in (folder / "version_0" / "metrics.csv").read_text()
    last = folder / "checkpoints" / "last.ckpt"
    again = ["fit", "-c", str(folder / "config.yaml"), f"--ckpt_path={last}"]
    assert main([*again, "--trainer.max_epochs=2"]) == 0
    first, resumed = read_runs(tmp_path)
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert resumed.run_id == first.run_id
    assert min(resumed.values("epoch")) == 1
    # A fit that does not resume is another run.
    assert main([*stage, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]) == 0
    assert read_runs(tmp_path)[-1].run_id != first.run_id


def test_second_start_with_the_same_run_id_replaces_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As when a scheduler restarts a command whose environment names the run."""
    # W&B reads its environment once in a process.
    wandb.teardown()
    monkeypatch.setenv("WANDB_RUN_ID", "again")
    start = ["fit", "-c", "stages/1_flow.yaml", *words, "--trainer.limit_val_batches=0"]
    assert main([*start, "--ckpt_path=last"]) == 0
    last = tmp_path / "hcml_lightning" / "again" / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    with pytest.raises(
        SystemExit, match=r"again/checkpoints/last\.ckpt belongs to another run.*_RUN_ID"
    ):
        main(start)
    assert last.read_bytes() == content
    assert main([*start, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert torch.load(last)["epoch"] == 1
    assert [run.run_id for run in read_runs(tmp_path)] == ["again", "again"]
    wandb.teardown()


def test_run_of_a_checkpoint_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "wandb.json").write_text('{"id": "abc"}')
    monkeypatch.chdir(tmp_path / "checkpoints")
    logger = {"class_path": "WandbLogger", "init_args": {}}
    assert choose_run(logger, Path("last.ckpt")) == "abc"


def test_copy_of_a_run_resumes_as_another_run(tmp_path: Path):
    arguments = {"save_dir": str(tmp_path), "project": "p"}
    for name in ("abc", "branch"):
        (tmp_path / "p" / name / "checkpoints").mkdir(parents=True)
        note_run(tmp_path / "p" / name, "abc")

    def chosen(name: str) -> str | None:
        logger = {"class_path": "WandbLogger", "init_args": dict(arguments)}
        return choose_run(logger, tmp_path / "p" / name / "checkpoints/last.ckpt")

    assert chosen("abc") == "abc"
    assert chosen("branch") != "abc"
    # A run that was moved is the same run.
    shutil.rmtree(tmp_path / "p" / "abc")
    assert chosen("branch") == "abc"


def test_stages_of_one_run_share_a_group(words: list[str], tmp_path: Path):
    run_dir = tmp_path / "ucf"
    quick = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    plan = Plan.from_words([*words, *quick])
    run_plan(plan, ["flow", "contrast1"], run_dir, main)
    first, second = read_runs(run_dir)
    assert first.group.startswith("ucf-")
    assert second.group == first.group
    notes = [json.loads((run_dir / s / "wandb.json").read_text()) for s in ("flow", "contrast1")]
    assert first.run_id != second.run_id
    assert [note["id"] for note in notes] == [first.run_id, second.run_id]


def test_missing_wandb_is_reported_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    monkeypatch.setattr("hcml_lightning.tools.run.wandb_runs.find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"not installed.\nInstall it with pip install.*leave out -c configs"
    ):
        main(["fit", "-c", "stages/baseline.yaml", *words])
    assert choose_run({"class_path": "CSVLogger"}, None) is None


def test_missing_login_is_reported_with_the_next_step(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # W&B reads its environment once.
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "stages/baseline.yaml", *words])
    assert "wandb login" in str(stopped.value.code)
    assert "WANDB_MODE=offline" in str(stopped.value.code)
    wandb.teardown()


def test_wandb_agent_runs_a_sweep_on_two_processes(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    content = yaml.safe_load((CONFIGS / "sweeps" / "joint_weights.yaml").read_text())
    arguments = content["command"].index("--config")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]
    quick = [*two, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    # The parameters come last, so that they take precedence.
    content["command"][arguments:arguments] = [*words, *quick]
    content["parameters"] = {
        "model.init_args.init_from": {"value": None},
        "model.init_args.flow_weight": {"values": [0.0, 5.0]},
        "model.init_args.contrast_weights": {"values": [[0.25, 1.0]]},
    }
    agent = _run_agent(content, monkeypatch, tmp_path)
    assert (agent._finished, agent._failed) == (2, 0)
    runs = read_runs(tmp_path)
    assert sorted(_init_args(run)["flow_weight"] for run in runs) == [0.0, 5.0]
    for run in runs:
        assert _init_args(run)["contrast_weights"] == [0.25, 1.0]
        assert _init_args(run)["init_from"] is None
        assert run.sweep_id == "offline"
        assert content["metric"]["name"] in run.names
        assert run.config["cli"]["trainer"]["devices"] in (2, "2")
        # Drawn once, although both these words and the sweep name configs/wandb.yaml.
        assert run.values("pictures/grad_cam/count") == [4]


def _init_args(run: OfflineRun) -> dict[str, Any]:
    return run.config["cli"]["model"]["init_args"]


def _run_agent(sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """Let W&B's own agent run the grid; only the answers of its server are made here."""
    from wandb import wandb_agent

    points = _grid(sweep["parameters"])

    def heartbeat(api: Any, agent_id: str, metrics: Any, run_status: dict[str, bool]) -> list[Any]:
        if run_status:
            return []
        name, point = next(points, (None, None))
        if point is None:
            return [{"type": "exit"}]
        values = {key: {"value": value} for key, value in point.items()}
        return [{"type": "run", "run_id": name, "program": sweep["program"], "args": values}]

    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_SWEEP_ID", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    # The agent starts the first `python` on the path.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    server = "wandb.apis.public.sweeps"
    with (
        mock.patch(f"{server}._sweep_with_runs", return_value={"config": yaml.safe_dump(sweep)}),
        mock.patch(f"{server}._register_agent", return_value={"id": "agent"}),
        mock.patch(f"{server}._agent_heartbeat", heartbeat),
        mock.patch("wandb.Api", mock.MagicMock),
        mock.patch.object(wandb_agent.Agent, "POLL_INTERVAL", 0.2),
    ):
        agent = wandb_agent.Agent(None, multiprocessing.Queue(), sweep_id="offline")
        agent.run()
    return agent


def _grid(parameters: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    choices = [rule.get("values", [rule.get("value")]) for rule in parameters.values()]
    for number, point in enumerate(product(*choices)):
        yield f"point{number}", dict(zip(parameters, point, strict=True))


def test_new_ids_are_not_parsed_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = ArgumentParser()
    parser.add_argument("--id", type=str | None)
    for digits in ("06753e64", "12345678", "0x123456"):
        monkeypatch.setattr("secrets.token_hex", lambda _, digits=digits: digits)
        name = new_id()
        assert parser.parse_string(parser.dump(parser.parse_object({"id": name}))).id == name

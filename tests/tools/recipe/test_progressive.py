"""All stages in order: finished ones are skipped, interrupted ones resume."""

import csv
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from tests.conftest import TINY

from hcml_lightning import load_run
from hcml_lightning.cli import main
from hcml_lightning.tools.console.output import print_table
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan, stage_rows
from hcml_lightning.tools.recipe.stage_folder import StageError, StageFolder
from hcml_lightning.tools.run.curves import read_points
from hcml_lightning.tools.stages import PAPER, TRAINING


@pytest.fixture
def words(synthetic_root: Callable[[str], Path]) -> list[str]:
    words = [*TINY, f"--data.root={synthetic_root('ucf101')}", "--trainer.max_epochs=1"]
    return [*words, "--flow.data.true_flow=true"]


class Recorder:
    """Runs commands in this process, and can fail at one of them."""

    def __init__(self, fail_at: str = "") -> None:
        self.calls: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, words: list[str]) -> int:
        self.calls.append(words)
        if self.fail_at and any(self.fail_at in word for word in words):
            return 3
        return main(words)


def test_stages_pass_on_their_weights_and_run_once(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plan, run_dir = Plan.from_words(words), tmp_path / "run"
    failing = Recorder(fail_at="3_contrast_level2")
    with pytest.raises(StageError, match=r"stage 'contrast2' failed \(exit status 3\)"):
        run_plan(plan, PAPER, run_dir, failing)
    assert [call[0] for call in failing.calls] == ["fit", "fit", "fit"]

    launch = Recorder()
    records = run_plan(plan, PAPER, run_dir, launch)
    assert [record.stage for record in records] == list(PAPER)
    # The next stage starts by itself, so no command for it is printed.
    assert "\nnext " not in capsys.readouterr().out
    assert [call[0] for call in launch.calls] == ["fit", "fit", "test"]
    before = run_dir / "contrast1" / "checkpoints" / "last.ckpt"
    assert f"--model.init_from={before}" in launch.calls[0]
    assert set(records[-1].metrics) >= {"test/top1", "test/top5"}
    assert records[0].metrics["val/epe_zero"] > 0
    # The contrastive stage has not changed what it does not train.
    flow, contrast = (torch.load(r.checkpoint, weights_only=True) for r in records[:2])
    name = "model.network.conv1.weight"
    assert torch.equal(flow["state_dict"][name], contrast["state_dict"][name])

    again = Recorder()
    assert run_plan(plan, PAPER, run_dir, again) == records
    assert again.calls == []
    rows = stage_rows(records)
    assert [row[0] for row in rows if row[0]] == ["stage", *PAPER]
    flow, contrast = records[0].metrics, records[1].metrics
    right = flow["val/photometric"] / flow["val/valid"]
    zero = f"zero flow {flow['val/photometric_zero']:.4g}"
    assert ["val/photometric ÷ valid", f"{right:.4g}", zero] in [row[3:] for row in rows]
    found = next(row for row in rows if row[3] == "val/contrast_l1_top1")
    guess = math.exp(-contrast["val/contrast_l1_chance"])
    assert found[4:] == [f"{contrast['val/contrast_l1_top1']:.4g}", f"chance {guess:.4g}"]
    assert rows[-1][3:5] == ["test/top5", f"{records[-1].metrics['test/top5']:.4g}"]
    capsys.readouterr()
    print_table(rows)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100

    changed = Plan.from_words([*words, "--contrast1.model.temperature", "0.5"])
    with pytest.raises(StageError, match=r"stage 'contrast1'.*model\.temperature: None -> 0\.5"):
        run_plan(changed, PAPER, run_dir, again)
    # Other weights of the flow stage make the stages that start from it outdated, too.
    done = run_dir / "flow" / "done.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "checkpoint_sha256": "0" * 64}))
    with pytest.raises(StageError, match=r"stage 'contrast1'.*from: flow"):
        run_plan(plan, PAPER, run_dir, again)
    assert again.calls == []


def test_fit_with_the_config_of_a_stage_starts_another_run(words: list[str], tmp_path: Path):
    run_dir = tmp_path / "run"
    stage = run_dir / "recognition"
    run_plan(Plan.from_words(words), ["recognition"], run_dir, Recorder())
    before = {path: path.read_bytes() for path in stage.rglob("*") if path.is_file()}
    curves = read_points(stage)
    last = stage / "checkpoints/last.ckpt"
    assert main(["fit", "-c", str(stage / "config.yaml"), "--model.lr=0.5"]) == 0
    assert main(["test", "-c", str(stage / "config.yaml"), f"--ckpt_path={last}"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.parent.name for path in stage.glob("version_*/config.yaml")) == [
        "version_1",
        "version_2",
    ]
    # The curves of the other runs are not read as those of this one.
    assert read_points(stage) == curves


def test_checkpoints_of_another_run_are_not_replaced(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "one/checkpoints"
    fit = ["fit", "-c", "stages/baseline.yaml", *(w for w in words if not w.startswith("--flow."))]
    fit += [f"--checkpoint.dirpath={folder}", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert main(fit) == 0
    content = (folder / "last.ckpt").read_bytes()
    with pytest.raises(SystemExit, match=r"last\.ckpt belongs to another run.*--ckpt_path last"):
        main(fit)
    # Nor by a run that resumes from elsewhere, or one without a logger and so without its own folder.
    elsewhere = shutil.copy(folder / "last.ckpt", tmp_path / "copy.ckpt")
    with pytest.raises(SystemExit, match=r"last\.ckpt belongs to another run"):
        main([*fit, f"--ckpt_path={elsewhere}", "--trainer.max_epochs=2"])
    alone = [word for word in fit if "dirpath" not in word and "save_dir" not in word]
    alone += ["--trainer.logger=false", f"--trainer.default_root_dir={tmp_path / 'one'}"]
    with pytest.raises(SystemExit, match=r"another run.*omit --trainer\.logger false"):
        main(alone)
    # A run that writes no checkpoint is allowed.
    assert main([*alone, "--trainer.fast_dev_run=true"]) == 0
    assert (folder / "last.ckpt").read_bytes() == content


def test_stage_that_failed_before_learning_may_change_its_settings(
    words: list[str], tmp_path: Path
):
    failing = Recorder(fail_at="1_flow")
    with pytest.raises(StageError):
        run_plan(Plan.from_words(words), ["flow"], tmp_path, failing)
    assert (tmp_path / "flow/settings.json").is_file()
    changed = Plan.from_words([*words, "--data.on_error=skip"])
    (record,) = run_plan(changed, ["flow"], tmp_path, Recorder())
    assert record.settings["data.on_error"] == "skip"


def test_a_mistyped_stage_is_named_before_anything_runs(words: list[str], tmp_path: Path):
    wrong = ["--recogntion.trainer.max_epochs", "3"]
    with pytest.raises(SystemExit, match=r"did you mean '--recognition\.trainer\.max_epochs'"):
        main(["progressive", "--run_dir", str(tmp_path / "run"), *words, *wrong])


def test_finished_stage_without_a_record_is_not_run_again(words: list[str], tmp_path: Path):
    plan, run_dir = Plan.from_words(words), tmp_path / "run"
    records = run_plan(plan, ["flow"], run_dir, Recorder())
    content = Path(records[0].checkpoint).read_bytes()
    assert records[0].checkpoint_sha256 == hashlib.sha256(content).hexdigest()
    (run_dir / "flow" / "done.json").unlink()
    launch = Recorder()
    assert run_plan(plan, ["flow"], run_dir, launch) == records
    assert launch.calls == []


def test_stage_with_a_damaged_last_checkpoint_resumes_from_the_previous(
    words: list[str], tmp_path: Path
):
    plan, run_dir = Plan.from_words([*words, "--trainer.max_epochs=2"]), tmp_path / "run"
    (expected,) = run_plan(plan, ["flow"], run_dir, Recorder())
    last = run_dir / "flow" / "checkpoints" / "last.ckpt"
    weights = torch.load(last, weights_only=True)["state_dict"]
    (run_dir / "flow" / "done.json").unlink()
    last.write_bytes(last.read_bytes()[:1000])
    launch = Recorder()
    (found,) = run_plan(plan, ["flow"], run_dir, launch)
    assert f"--ckpt_path={last.with_name('last.previous.ckpt')}" in launch.calls[0]
    again = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert found.epochs == expected.epochs

    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(
        StageError,
        match=r"'contrast1' cannot start: .*not what the stage wrote.* Delete .*done\.json",
    ):
        run_plan(plan, ["flow", "contrast1"], run_dir, launch)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "ended without a result. If max_epochs"),
        (-signal.SIGKILL, r"was killed \(SIGKILL\), by someone or by a system that had run out"),
        (-signal.SIGABRT, r"crashed \(SIGABRT\) in compiled code"),
        (128 + signal.SIGTERM, r"was told to stop \(SIGTERM\)"),
    ],
)
def test_end_of_a_stage_is_told_by_its_status(status: int, said: str, tmp_path: Path):
    plan = Plan.from_words(["-c", "data/ucf101.yaml"])
    with pytest.raises(StageError, match=f"'baseline' {said}.*run the same command again"):
        run_plan(plan, ["baseline"], tmp_path, lambda _: status)


def test_first_chosen_stage_starts_from_the_stage_done_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("flow", "contrast1"):
        checkpoint = tmp_path / f"{name}.ckpt"
        torch.save({}, checkpoint)
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        record = {"stage": name, "checkpoint": str(checkpoint), "checkpoint_sha256": digest}
        record |= {"epochs": 1, "seconds": 1.0, "metrics": {}, "settings": {}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "done.json").write_text(json.dumps(record))
    words = ["-c", "data/ucf101.yaml", "--baseline.trainer.max_epochs=1"]
    given = [*words, "--recognition.model.init_from=mine.ckpt"]

    def start(stage: str, words: list[str]) -> tuple[str, list[str]]:
        launch = Recorder(fail_at="--checkpoint.dirpath")
        with pytest.raises(StageError, match=r"failed \(exit status"):
            run_plan(Plan.from_words(words), [stage], tmp_path, launch)
        note = json.loads((tmp_path / stage / "settings.json").read_text())
        return note["settings"].get("from", ""), [w for w in launch.calls[0] if "init_from" in w]

    assert start("recognition", words) == (
        f"contrast1 {digest[:12]}",
        [f"--model.init_from={tmp_path}/contrast1.ckpt"],
    )
    assert "recognition: starts from contrast1, which is already done\n" in capsys.readouterr().out
    assert start("probe", words) == (
        f"contrast1 {digest[:12]}",
        [f"--model.init_from={tmp_path}/contrast1.ckpt"],
    )
    assert start("test", words)[0] == f"contrast1 {digest[:12]}"
    said = capsys.readouterr().out
    for name in ("probe", "test"):
        assert f"{name}: starts from contrast1, which is already done\n" in said
    # Baselines start from nothing, and any stage from a checkpoint that is given.
    assert start("baseline", words) == ("", [])
    assert start("motion_only", words) == ("", [])
    (tmp_path / "recognition" / "settings.json").unlink()
    assert start("recognition", given) == ("", ["--model.init_from=mine.ckpt"])
    assert "starts from" not in capsys.readouterr().out


def test_baselines_get_no_weights_of_the_stages_before_them(tmp_path: Path):
    """Nor do the stages that follow get theirs, except for the test and the probe."""
    run_dir = tmp_path / "run"

    def train(words: list[str]) -> int:
        folder = next(w.partition("=")[2] for w in words if "checkpoint.dirpath" in w)
        checkpoint = Path(folder) / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        torch.save({"of": folder}, checkpoint)
        result = {"checkpoint": str(checkpoint), "epochs": 1, "metrics": {}}
        (checkpoint.parents[1] / f"{words[0]}.json").write_text(json.dumps(result))
        started = [w for w in words if "init_from" in w or "ckpt_path" in w]
        starts.append(started[-1].replace(f"{run_dir}/", "") if started else "")
        return 0

    starts: list[str] = []
    words = ["-c", "data/ucf101.yaml"]
    names = ["flow", "motion_only", "contrast1", "baseline", "probe", "test"]
    run_plan(Plan.from_words(words), names, run_dir, train)
    flow, baseline = "flow/checkpoints/last.ckpt", "baseline/checkpoints/last.ckpt"
    assert starts == [
        "",
        "",
        f"--model.init_from={flow}",
        "",
        f"--model.init_from={baseline}",
        "--ckpt_path=probe/checkpoints/last.ckpt",
    ]

    starts.clear()
    shutil.rmtree(run_dir)
    words += ["--model.init_from=all.ckpt", "--contrast2.model.init_from=mine.ckpt"]
    words += ["--motion_only.model.init_from=labels.ckpt"]
    names = ["flow", "contrast1", "contrast2", "motion_only", "baseline", "test"]
    run_plan(Plan.from_words(words), names, run_dir, train)
    assert starts == [
        "--model.init_from=all.ckpt",
        f"--model.init_from={flow}",
        "--model.init_from=mine.ckpt",
        "--model.init_from=labels.ckpt",
        "--model.init_from=all.ckpt",
        f"--ckpt_path={baseline}",
    ]


def test_test_without_a_trained_stage_is_refused(words: list[str], tmp_path: Path):
    with pytest.raises(StageError, match="no stage before it"):
        run_plan(Plan.from_words(words), ["test"], tmp_path, Recorder())


def test_probe_without_a_stage_or_checkpoint_is_refused(words: list[str], tmp_path: Path):
    launch = Recorder(fail_at="--checkpoint.dirpath")
    with pytest.raises(StageError, match=r"no stage before it .*--stages flow,probe"):
        run_plan(Plan.from_words(words), ["probe"], tmp_path, launch)
    given = Plan.from_words([*words, "--probe.model.init_from=mine.ckpt"])
    with pytest.raises(StageError, match=r"failed \(exit status"):
        run_plan(given, ["probe"], tmp_path, launch)
    assert "--probe" not in " ".join(launch.calls[0])


def test_unknown_stage_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["progressive", "--run_dir", "x", "--stages", "flow,walk"])
    assert "unknown stage 'walk'" in capsys.readouterr().err


def test_progressive_refuses_several_tasks_of_slurm(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit, match=r"SLURM was asked for 8 tasks.*srun hcml fit"):
        main(["progressive", "--run_dir", str(tmp_path / "run"), *words])
    assert not (tmp_path / "run").exists()


def test_mistyped_option_of_the_last_stage_is_named_before_the_first(
    words: list[str], tmp_path: Path
):
    wrong = ["--recognition.model.flow_wieght", "3"]
    message = (
        r"'recognition' \(nothing has been run\): RecognitionTask has no option 'flow_wieght'; did"
    )
    with pytest.raises(SystemExit, match=message):
        main(["progressive", "--run_dir", str(tmp_path / "run"), *words, *wrong])
    assert not (tmp_path / "run").exists()


def test_run_without_a_config_of_data_asks_for_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    words = ["--run_dir", str(tmp_path / "run"), "-c", "tiny.yaml", f"--data.root={tmp_path}"]
    with pytest.raises(
        SystemExit, match=r"'flow' .*: --data is missing; pass the data: -c configs"
    ):
        main(["progressive", *words])
    assert capfd.readouterr().err == ""


def test_moved_or_copied_run_continues_with_its_own_weights(words: list[str], tmp_path: Path):
    plan = Plan.from_words(words)
    run_plan(plan, ["flow"], tmp_path / "run", main)
    for name in ("copy", "moved"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    # Whatever has become of the original.
    other = tmp_path / "run/flow/checkpoints/last.ckpt"
    torch.save({"state_dict": {}}, other)

    def source(run_dir: Path) -> list[str]:
        launch = Recorder(fail_at="--checkpoint.dirpath")
        with pytest.raises(StageError):
            run_plan(plan, ["flow", "contrast1"], run_dir, launch)
        return [word for call in launch.calls for word in call if "init_from" in word]

    expected = [f"--model.init_from={tmp_path}/copy/flow/checkpoints/last.ckpt"]
    assert source(tmp_path / "copy") == expected
    assert (
        load_run(tmp_path / "copy/flow").checkpoint == tmp_path / "copy/flow/checkpoints/last.ckpt"
    )
    with pytest.raises(StageError, match="its content is not what the stage wrote"):
        run_plan(plan, ["flow", "contrast1"], tmp_path / "run", Recorder())
    shutil.rmtree(tmp_path / "run")
    expected = [f"--model.init_from={tmp_path}/moved/flow/checkpoints/last.ckpt"]
    assert source(tmp_path / "moved") == expected
    # A stage whose record was lost finds its weights, too.
    (tmp_path / "moved/flow/done.json").unlink()
    assert source(tmp_path / "moved") == expected


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("baseline,test,motion_only,test", "'test' appears twice"),
        ("recognition,flow", "each stage starts from the one before"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(
    stages: str, message: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["progressive", "--run_dir", str(tmp_path / "run"), "--stages", stages, *words])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stages", ["flow", "flow,contrast1"])
def test_config_of_one_stage_is_refused_for_another(stages: str, words: list[str], tmp_path: Path):
    begin = ["progressive", "--run_dir", str(tmp_path / "run"), "--stages", stages]
    with pytest.raises(SystemExit, match="would be a RecognitionTask instead of a FlowTask"):
        main([*begin, "-c", "stages/4_recognition.yaml", *words])
    for given in ("ContrastTask", "hcml_lightning.ContrastTask", "{class_path: ContrastTask}"):
        with pytest.raises(SystemExit, match="ContrastTask instead of a FlowTask"):
            main([*begin, *words, f"--flow.model={given}"])


def test_options_that_change_no_result_may_differ_between_starts(words: list[str], tmp_path: Path):
    root = next(word for word in words if word.startswith("--data.root="))
    plan = Plan.from_words(words)
    (record,) = run_plan(plan, ["baseline"], tmp_path / "run", main)
    other = [f"{root}/" if word == root else word for word in words]
    other += ["--trainer.log_every_n_steps=5", "--trainer.logger=CSVLogger"]
    other += ["--save_every_n_steps=7", "--save_every_n_epochs=2"]
    # Runs begun by earlier versions have noted this option among their settings.
    noted = tmp_path / "run/baseline/settings.json"
    note = json.loads(noted.read_text())
    note["settings"]["trainer.log_every_n_steps"] = 1
    noted.write_text(json.dumps(note))
    (again,) = run_plan(Plan.from_words(other), ["baseline"], tmp_path / "run", Recorder())
    assert again == record


@pytest.fixture
def raw(layout_copy: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A folder of unlabelled videos, and one of labelled videos."""
    labelled = layout_copy("folder")
    (tmp_path / "raw").mkdir()
    for number, path in enumerate(sorted(labelled.rglob("*.mp4"))):
        shutil.copy(path, tmp_path / "raw" / f"{number}.mp4")
    return tmp_path / "raw", labelled


def test_refusal_of_a_later_stage_shows_before_the_first_runs(
    raw: tuple[Path, Path], tmp_path: Path
):
    own = ["-c", "data/video_folder.yaml", *TINY[2:], f"--data.root={raw[0]}"]
    begin = ["progressive", "--run_dir", str(tmp_path / "run")]
    unlabelled = (
        r"'recognition' \(nothing has been run\): num_classes must.*--recognition.data.root"
    )
    with pytest.raises(SystemExit, match=unlabelled):
        main([*begin, *own])
    own.append("--recognition.data.root=nowhere")
    with pytest.raises(
        SystemExit, match=r"'recognition' \(nothing has been run\): .*nowhere: there is no such fol"
    ):
        main([*begin, *own])
    few = [f"--recognition.data.root={raw[1]}", "--recognition.data.batch_size=99"]
    with pytest.raises(
        SystemExit, match=r"'recognition' \(nothing has been run\): .*needs 99 training videos, but"
    ):
        main([*begin, *own, *few])
    wrong = ["--contrast2.model.dropout=1.5", f"--recognition.data.root={raw[1]}"]
    with pytest.raises(SystemExit, match=r"'contrast2' \(nothing has been run\): dropout must be"):
        main([*begin, *own, *wrong])
    assert not (tmp_path / "run").exists()


def test_motion_learned_on_unlabelled_videos_starts_recognition(
    raw: tuple[Path, Path], tmp_path: Path
):
    words = ["-c", "data/video_folder.yaml", *TINY[2:], f"--data.root={raw[0]}"]
    words += [f"--recognition.data.root={raw[1]}", "--trainer.max_epochs=1"]
    *_, last = run_plan(Plan.from_words(words), PAPER, tmp_path / "run", main)
    assert 0 <= last.metrics["test/top1"] <= 1
    learned = torch.load(tmp_path / "run/contrast2/checkpoints/last.ckpt", weights_only=True)
    assert learned["class_names"] == ["unlabelled"]
    record = json.loads((tmp_path / "run/recognition/fit.json").read_text())
    assert Path(record["started_from"]["path"]) == tmp_path / "run/contrast2/checkpoints/last.ckpt"
    recognises = torch.load(tmp_path / "run/recognition/checkpoints/last.ckpt", weights_only=True)
    assert recognises["class_names"] == sorted(p.name for p in (raw[1] / "train").iterdir())


@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_run_resumes_from_its_last_epoch(
    whole_group: bool, words: list[str], tmp_path: Path
):
    run_dir, epochs = tmp_path / "run", 8
    last = run_dir / "flow" / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "hcml_lightning", "progressive", "--run_dir", str(run_dir)]
    command += ["--stages", "flow", *words, "--trainer.max_epochs", str(epochs)]
    with (tmp_path / "first.log").open("w") as log:
        process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        assert process.wait() == -signal.SIGKILL, (tmp_path / "first.log").read_text()

    # The second start waits for what the first one left behind, so read after it.
    second = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert second.returncode == 0, second.stderr
    assert f"flow: resumes from {last}" in second.stdout
    seen = [epochs_in(run_dir / "flow" / f"version_{i}" / "metrics.csv") for i in (0, 1)]
    assert max(seen[1]) == epochs - 1
    assert 0 < min(seen[1]) < epochs
    record = json.loads((run_dir / "flow" / "done.json").read_text())
    assert record["epochs"] == epochs
    assert not (run_dir / "flow" / "checkpoints" / "last-v1.ckpt").exists()


def epochs_in(file: Path) -> set[int]:
    if not file.is_file():
        return set()
    with file.open(newline="") as lines:
        return {int(row["epoch"]) for row in csv.DictReader(lines) if row.get("val/photometric")}


def test_changed_test_options_do_not_outdate_the_training(tmp_path: Path):
    def ends(words: list[str]) -> int:
        checkpoint = tmp_path / "recognition" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, checkpoint)
        result = {"checkpoint": str(checkpoint), "epochs": 1, "metrics": {}}
        name = "test" if words[0] == "test" else "recognition"
        (tmp_path / name / f"{words[0]}.json").write_text(json.dumps(result))
        return 0

    words = ["-c", "data/ucf101.yaml", "--trainer.limit_test_batches=3", "--data.test_clips=2"]
    run_plan(Plan.from_words(words), ["recognition", "test"], tmp_path, ends)
    again = [*words, "--trainer.limit_test_batches=null", "--data.test_clips=5"]
    again += ["--data.test_crops=1", "--data.test_crop_size=32", "--model.views_per_forward=2"]
    run_plan(Plan.from_words(again), ["recognition"], tmp_path, Recorder())
    with pytest.raises(StageError, match=r"'test' .* other settings \(data.test_clips: 2 -> 5"):
        run_plan(Plan.from_words(again), ["recognition", "test"], tmp_path, Recorder())
    shutil.rmtree(tmp_path / "test")
    run_plan(Plan.from_words(again), ["recognition", "test"], tmp_path, ends)


def test_words_that_are_no_yaml_and_numeric_roots_are_passed_on(
    words: list[str],
    synthetic_root: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "2024-01-01"):
        (tmp_path / name).symlink_to(synthetic_root("ucf101"))
    given = [word for word in words if not word.startswith("--data.root")]
    given += ["--checkpoint.filename={epoch}-{step}", "--data.root=2024", "--model.lr=1e-3"]
    stages = ["baseline", "test"]
    records = run_plan(Plan.from_words(given), stages, tmp_path / "run", Recorder())
    assert list((tmp_path / "run/baseline/checkpoints").glob("0-*.ckpt"))
    again = [*given[:-1], "--model.lr=0.001"]
    assert run_plan(Plan.from_words(again), stages, tmp_path / "run", Recorder()) == records
    dated = [*given, "--data.root=2024-01-01"]
    assert run_plan(Plan.from_words(dated), ["baseline"], tmp_path / "dated", Recorder())


class OwnLogger(CSVLogger):
    """A logger without the option `name`."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, "own")


def test_logger_gets_only_the_options_that_it_has(words: list[str], tmp_path: Path):
    logger = f"--trainer.logger={__name__}.OwnLogger"
    plan = Plan.from_words([*words, logger])
    launch = Recorder()
    run_plan(plan, ["baseline"], tmp_path / "run", launch)
    assert not any("logger.init_args.name" in word for word in launch.calls[0])
    assert (tmp_path / "run/own/version_0/metrics.csv").is_file()


def test_second_test_of_a_run_is_refused_before_training(words: list[str], tmp_path: Path):
    plan, launch = Plan.from_words(words), Recorder()
    run_plan(plan, ["baseline", "test"], tmp_path, launch)
    launch.calls.clear()
    with pytest.raises(
        StageError, match=r"the test of 'baseline'.*hcml test -c .*/motion_only/config"
    ):
        run_plan(plan, ["motion_only", "test"], tmp_path, launch)
    assert launch.calls == []


def test_fast_dev_run_of_several_stages_is_refused(words: list[str]):
    plan = Plan.from_words([*words, "--trainer.fast_dev_run=true"])
    with pytest.raises(ValueError, match=r"fast_dev_run keeps no weights.*max_epochs 1"):
        plan.check(["flow", "contrast1"])


def test_time_of_a_stage_adds_up_over_its_starts(words: list[str], tmp_path: Path):
    plan = Plan.from_words(words)
    stage = StageFolder(plan, "flow", TRAINING["flow"], None, tmp_path)
    stage.last.parent.mkdir()
    stage.last.touch()
    os.utime(stage.last, (1005, 1005))
    before = {"settings": stage.settings, "started": 1000, "spent": 100}
    (tmp_path / "settings.json").write_text(json.dumps(before))
    stage._note_start()
    assert json.loads((tmp_path / "settings.json").read_text())["spent"] == 105

"""Untrusted checkpoints: whatever is in the file, nothing of it runs."""

import io
import os
import pickle
import re
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from hcml_lightning import FlowTask, RecognitionTask
from hcml_lightning.checkpoint_files import fault_of, read_checkpoint
from hcml_lightning.cli import main
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.resume import LastCheckpoint

BASELINE = ["-c", "stages/baseline.yaml", "-c", "data/ucf101.yaml", "--model.backbone=r2d_tiny"]
BASELINE += [
    "--trainer.logger=false",
    "--trainer.accelerator=cpu",
    "--trainer.sync_batchnorm=false",
]
BASELINE += ["--trainer.fast_dev_run=true"]
INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"


class Payload:
    """An object that calls a function when it is unpickled, here one that makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(params=["state", "settings", "old format"])
def attack(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that tries to run code, and the folder that would be there if it did."""
    trace = tmp_path / "it_ran"
    task = RecognitionTask(backbone="r2d_tiny", num_classes=4)
    content: dict[str, Any] = {
        "state_dict": dict(task.state_dict()),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pl.__version__,
        "task": "RecognitionTask",
    }
    where = "hyper_parameters" if request.param == "settings" else "state_dict"
    content[where]["model.network.fc.bias"] = Payload(trace)
    path = tmp_path / "stranger.ckpt"
    new = request.param != "old format"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path, trace


def test_payload_runs_when_loaded_without_protection(attack: tuple[Path, Path]):
    """Otherwise the tests below would prove nothing."""
    path, trace = attack
    torch.load(path, weights_only=False)
    assert trace.is_dir()


@pytest.mark.parametrize("trusting", [False, True])
def test_untrusted_checkpoint_runs_no_code(
    attack: tuple[Path, Path], trusting: bool, monkeypatch: pytest.MonkeyPatch
):
    path, trace = attack
    if trusting:
        # With this variable, PyTorch ignores its own safe default.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match=r"could run code\. None of it was run"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=r"could run code\. None of it was run"):
        RecognitionTask.load_from_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        RecognitionTask.load_from_checkpoint(io.BytesIO(path.read_bytes()))
    assert not trace.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"_instantiator": "os.mkdir"},
        {"_instantiator": INSTANTIATOR, "_class_path": "subprocess.Popen"},
        {"_instantiator": INSTANTIATOR, "backbone": {"class_path": "os.mkdir"}},
        {"_instantiator": INSTANTIATOR, "other": {"class_path": "os.mkdir"}},
    ],
)
def test_settings_cannot_name_a_function_to_be_called(settings: dict[str, Any], tmp_path: Path):
    """Lightning builds a task with a function that the checkpoint names, but only with one of its own."""
    task = RecognitionTask(backbone="r2d_tiny", num_classes=4)
    content = {
        "state_dict": dict(task.state_dict()),
        "hyper_parameters": {**task.hparams, **settings},
        "pytorch-lightning_version": pl.__version__,
    }
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(
        (ValueError, ArgumentError), match=r"blocked to prevent|Expected|not accept"
    ):
        RecognitionTask.load_from_checkpoint(tmp_path / "x.ckpt")


def test_settings_given_as_paths_and_numpy_numbers_survive_a_checkpoint(
    synthetic_root: Callable[[str], Path], tmp_path: Path, tiny: Any
):
    start, last = tmp_path / "start.ckpt", tmp_path / "last.ckpt"
    before = FlowTask(**tiny)
    state = {k: v for k, v in before.state_dict().items() if k.startswith("model.")}
    torch.save({"state_dict": state}, start)
    sizes: dict[str, Any] = {"clip_length": 4, "short_side": (np.int64(32), 40), "crop_size": 32}
    sizes |= {"flip": "none"}

    def fit(epochs: int, path: Path | None = None) -> None:
        data = UCF101DataModule(synthetic_root("ucf101"), num_workers=0, batch_size=2, **sizes)
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            limit_train_batches=1,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LastCheckpoint(tmp_path)],
            default_root_dir=tmp_path,
        )
        task = FlowTask(**tiny, lr=np.float64(0.125), init_from=start)
        trainer.fit(task, datamodule=data, ckpt_path=path)

    fit(1)
    assert fault_of(last) is None
    assert FlowTask.load_from_checkpoint(last).hparams["init_from"] == str(start)
    data = UCF101DataModule.load_from_checkpoint(last)
    assert (data.root, data.hparams["short_side"]) == (str(synthetic_root("ucf101")), (32, 40))
    fit(2, last)
    assert torch.load(last, weights_only=True)["epoch"] == 1


def test_data_module_stores_paths_and_numpy_numbers_as_plain_values(
    synthetic_root: Callable[[str], Path],
):
    root = synthetic_root("ucf101")
    assert (
        UCF101DataModule(root, seed=np.int64(1)).hparams
        == UCF101DataModule(str(root), seed=1).hparams
    )
    assert type(UCF101DataModule(root).hparams["root"]) is str


def test_init_from_runs_no_code(attack: tuple[Path, Path], fit: Callable[..., Any], tiny: Any):
    path, trace = attack
    task = FlowTask(**{**tiny, "init_from": str(path)})
    with pytest.raises(ValueError, match=r"init_from: .*None of it was run"):
        fit(task, fast_dev_run=True)
    assert not trace.exists()


@pytest.mark.parametrize("attack", ["state"], indirect=True)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_no_command_runs_code(
    command: str,
    attack: tuple[Path, Path],
    synthetic_root: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    path, trace = attack
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    words = [*BASELINE, f"--data.root={synthetic_root('ucf101')}"]
    words = ["x.mp4"] if command == "predict" else words
    with pytest.raises(SystemExit) as stopped:
        main([command, *words, f"--ckpt_path={path}"])
    assert stopped.value.code != 0
    said = f"{stopped.value.code}{capsys.readouterr().err}"
    assert "None of it was run" in said
    assert not trace.exists()


def test_fit_tells_lightning_to_load_weights_only(
    synthetic_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    told: dict[str, Any] = {}
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, **given: told.update(given))
    main(["fit", *BASELINE, f"--data.root={synthetic_root('ucf101')}"])
    assert told["weights_only"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "another kind of file"),
        (b"PK\x03\x04junk", "another kind of file"),
    ],
)
def test_error_says_why_a_file_is_no_checkpoint(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.ckpt cannot be read as a checkpoint.*{message}"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_file_without_a_state_dict_is_refused(tmp_path: Path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="has no state_dict"):
        read_checkpoint(tmp_path / "x.pt")


def test_only_known_modules_load_checkpoints_and_they_load_weights_only(repository: Path):
    """A further module that loads checkpoints has to be added here, and must load weights only, too."""
    package = repository / "src" / "hcml_lightning"
    found = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if re.search(
            r"torch\.load\(|pickle\.load|yaml\.(unsafe_|full_)?load\(|allow_pickle=True|\beval\(\"",
            path.read_text(),
        )
    ]
    # The second unpacks what the same process has packed.
    assert found == ["checkpoint_files.py", "data/packed.py"]
    calls = re.findall(r"torch\.load\([^)]*\)", (package / "checkpoint_files.py").read_text())
    assert len(calls) == 2
    assert all("weights_only=True" in call for call in calls)


@pytest.mark.parametrize("mmap", [False, True])
def test_checkpoint_with_a_changed_byte_is_refused(mmap: bool, tmp_path: Path):
    path = tmp_path / "last.ckpt"
    weights = torch.arange(100_000.0)
    torch.save({"state_dict": {"weight": weights}}, path)
    assert torch.equal(read_checkpoint(path, mmap)["state_dict"]["weight"], weights)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged in .*data/0: its content is not"):
        read_checkpoint(path, mmap)


def test_levels_may_be_a_range_and_num_classes_a_numpy_integer(
    fit: Callable[..., pl.Trainer], tiny: dict[str, Any], tmp_path: Path
):
    given = {"levels": range(2), "num_classes": np.int64(4), "contrast_weights": (0.25,)}
    task = RecognitionTask(**tiny | given)
    # Of Python, so that the hparams.yaml of a logger can be loaded.
    assert yaml.safe_load(yaml.safe_dump(dict(task.hparams)))["levels"] == [0, 1]
    assert type(task.hparams["num_classes"]) is int
    fit(task).save_checkpoint(tmp_path / "x.ckpt")
    assert RecognitionTask.load_from_checkpoint(tmp_path / "x.ckpt").model.levels == (0, 1)

"""Expected errors become messages; what may be a bug keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch._utils import ExceptionWrapper

from hcml_lightning.callbacks import CollapseError
from hcml_lightning.cli import main
from hcml_lightning.data.decode import VideoError, probe
from hcml_lightning.data.frame_cache import FrameCache
from hcml_lightning.tasks import RecognitionTask
from hcml_lightning.tools.console.output import format_metrics
from hcml_lightning.tools.console.trouble import explain
from hcml_lightning.tools.training.configs import read_config

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return caught.value


def wrapped(error: BaseException) -> None:
    try:
        raise error
    except type(error) as cause:
        raise RuntimeError("what the library says") from cause


def from_worker(call: Callable[[], Any]) -> None:
    """Raise a worker's error again in this process, with its traceback as text, as a DataLoader does."""
    try:
        call()
    except Exception:
        where = "in DataLoader worker process 0"
        ExceptionWrapper(sys.exc_info(), where=where).reraise()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: read_config("nowhere.yaml"), "config 'nowhere.yaml' not found"),
        (lambda: read_config("{a: b: c}"), "is not valid YAML"),
        (
            lambda: wrapped(raised(lambda: read_config("nowhere.yaml"))),
            "config 'nowhere.yaml' not found",
        ),
        (lambda: from_worker(lambda: probe("nowhere.mp4")), "nowhere.mp4"),
        (lambda: wrapped(CollapseError("all point in one direction")), "all point in one"),
        (lambda: wrapped(PermissionError(errno.EACCES, "Permission denied", "a")), "denied: 'a'"),
        (lambda: wrapped(OSError(errno.EROFS, "Read-only", "a")), "'a'; choose a path on a disk"),
        (lambda: wrapped(MisconfigurationException("devices=-3")), "devices=-3"),
        (lambda: EarlyStopping("val/typo")._validate_condition_metric({}), "metric `val/typo`"),
        (lambda: wrapped(ModuleNotFoundError("install `tensorboard`")), "install `tensorboard`"),
        (lambda: torch.nn.BatchNorm2d(2)(torch.ones(1, 2, 1, 1)), "--data.batch_size"),
    ],
)
def test_expected_trouble_becomes_a_message(call: Callable[[], Any], said: str):
    message = explain(raised(call))
    assert message is not None
    assert said in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "call",
    [
        # Of the same type as a refusal and in the same package, but not from a `raise`.
        lambda: format_metrics({"val/top1": "much"}),  # type: ignore[dict-item]
        lambda: from_worker(lambda: format_metrics({"val/top1": "much"})),  # type: ignore[dict-item]
        lambda: wrapped(ZeroDivisionError("division by zero")),
        lambda: wrapped(ValueError("of a library")),
        lambda: wrapped(raised(lambda: import_module("nowhere"))),
        lambda: wrapped(OSError(errno.ECHILD, "No child processes")),
    ],
)
def test_bug_is_not_turned_into_a_message(call: Callable[[], Any]):
    assert explain(raised(call)) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)])
def test_too_little_memory_names_what_to_lower(error: Exception):
    message = explain(raised(lambda: wrapped(error)))
    assert message is not None
    for name in ("batch_size", "clip_length", "recompute", "views_per_forward"):
        assert name in message
    assert str(error)[:30] in message
    assert message.count("\n") < 24


@pytest.fixture
def words(synthetic_root: Callable[[str], Path]) -> list[str]:
    words = ["fit", "-c", "stages/baseline.yaml", "-c", "data/synthetic.yaml", "--data.flip=none"]
    words += [f"--data.root={synthetic_root('ucf101')}", "--data.true_flow=false"]
    words += ["--data.num_workers=0", "--data.batch_size=2", "--trainer.accelerator=cpu"]
    return [*words, "--trainer.fast_dev_run=true"]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr(RecognitionTask, "training_step", step)


def test_out_of_memory_in_a_step_ends_with_a_message(
    words: list[str], monkeypatch: pytest.MonkeyPatch
):
    fail_with(monkeypatch, torch.OutOfMemoryError(CUDA))
    with pytest.raises(SystemExit, match=r"hcml fit: The GPU does not have enough memory"):
        main(words)


def test_bug_in_a_step_is_raised_unchanged(words: list[str], monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        main(words)


@pytest.mark.parametrize("by_option", [True, False])
def test_debug_option_and_variable_show_the_traceback(
    by_option: bool, monkeypatch: pytest.MonkeyPatch
):
    wrong = ["fit", "-c", "nowhere.yaml"]
    with pytest.raises(SystemExit, match=r"config 'nowhere.*' not found"):
        main(wrong)
    if not by_option:
        monkeypatch.setenv("HCML_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match=r"config 'nowhere.*' not found"):
        main([*wrong, "--debug"] if by_option else wrong)


def test_video_error_from_a_worker_keeps_its_message():
    error = raised(lambda: from_worker(lambda: probe("nowhere.mp4")))
    assert isinstance(error, VideoError)
    assert "Original Traceback" in str(error)
    assert explain(error) == str(raised(lambda: probe("nowhere.mp4")))


def test_cache_that_is_too_small_names_the_option(synthetic_root: Callable[[str], Path]):
    video = next(synthetic_root("ucf101").rglob("*.avi"))
    message = explain(raised(lambda: FrameCache(limit=1).probe(str(video))))
    assert message is not None
    assert "--data.cache false" in message


def test_an_interrupted_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hcml_lightning.cli._run", interrupted)
    monkeypatch.setattr("sys.argv", ["hcml", "predict", "a.mp4"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "hcml predict: interrupted\n"
    # A caller in Python gets the interrupt itself.
    with pytest.raises(KeyboardInterrupt):
        main(["predict", "a.mp4"])
    monkeypatch.setenv("HCML_DEBUG", "1")
    with pytest.raises(KeyboardInterrupt):
        main()


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"]])
def test_closed_output_pipe_ends_a_command(words: list[str]):
    read, write = os.pipe()
    # Closed before the command starts, since a quick one would have written everything by then.
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "hcml_lightning", *words],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert ended.stderr == f"hcml {words[0]}: stopped, because the output was closed\n"
    assert ended.returncode == 141


def test_interrupt_caught_by_lightning_is_raised_again(
    words: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Lightning itself would end the process with status 1, and ignore further interrupts."""
    before = signal.getsignal(signal.SIGINT)
    fail_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert signal.getsignal(signal.SIGINT) == before

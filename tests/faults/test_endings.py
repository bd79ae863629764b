"""Whatever ends a stage, the resumed run has the weights and metrics of an undisturbed one."""

import errno
import multiprocessing
import os
import random
import re
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY

from hcml_lightning.checkpoint_files import fault_of, newest_whole, previous_of, write_checkpoint
from hcml_lightning.cli import main
from hcml_lightning.resume import LastCheckpoint
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.recipe.stage_folder import StageError
from hcml_lightning.tools.stages import PAPER

# What ends each stage at its second batch, one entry for each start, and with which status.
ENDS: dict[str, list[tuple[signal.Signals | str, int]]] = {
    "flow": [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGUSR1, 128 + signal.SIGUSR1)],
    "contrast1": [(signal.SIGTERM, 128 + signal.SIGTERM)],
    "contrast2": [(signal.SIGINT, 128 + signal.SIGINT)],
    "recognition": [("disk full", 1), ("worker killed", 1)],
}
OF_THE_CLOCK = ("train/clips_per_second", "train/data_wait")


class Forked:
    """Runs commands in forked processes, and ends those that ENDS names."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.to_come = {stage: [end for end, _ in ends] for stage, ends in ENDS.items()}

    def __call__(self, words: list[str]) -> int:
        stage = next(w for w in words if w.startswith("--checkpoint.dirpath")).split("/")[-2]
        ends = self.to_come.get(stage)
        end = ends.pop(0) if ends else None
        if not (pid := os.fork()):
            status = 1
            try:
                if end is not None:
                    end_with(end)
                status = main(words)
            except SystemExit as stopped:
                status = stopped.code if isinstance(stopped.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.statuses.append(status)
        return status


def end_with(end: signal.Signals | str) -> None:
    """End this process in the given way at its second batch."""
    proceed, seen = LastCheckpoint.on_train_batch_end, []

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def meet(self: LastCheckpoint, *arguments: object) -> None:
        seen.append(1)
        if len(seen) == 2 and isinstance(end, signal.Signals):
            os.kill(os.getpid(), end)
        elif len(seen) == 2 and end == "disk full":
            os.fsync = full  # type: ignore[assignment]
        elif len(seen) == 2:
            for worker in multiprocessing.active_children():
                worker.kill()
        proceed(self, *arguments)  # type: ignore[arg-type]

    LastCheckpoint.on_train_batch_end = meet  # type: ignore[method-assign,assignment]


def test_result_is_the_same_whatever_ends_a_stage(
    synthetic_root: Callable[[str], Path], tmp_path: Path
):
    words = [*TINY, f"--data.root={synthetic_root('ucf101')}", "--data.batch_size=2"]
    words += ["--trainer.max_epochs=2", "--trainer.deterministic=true", "--save_every_n_steps=1"]
    words += ["--recognition.data.num_workers=1"]
    plan = Plan.from_words(words)
    expected = run_plan(plan, PAPER, tmp_path / "whole", main)

    launch, told = Forked(), []
    ends = [status for stage in ENDS.values() for _, status in stage]
    for _ in ends:
        with pytest.raises(StageError) as ended:
            run_plan(plan, PAPER, tmp_path / "cut", launch)
        told.append(ended.value.status)
    found = run_plan(plan, PAPER, tmp_path / "cut", launch)

    assert [s for s in launch.statuses if s] == ends
    # After a signal that asks to stop, the status is that of the stage; a kill counts as a fault.
    assert told == [status if status > 128 else 1 for status in ends]
    assert not list(tmp_path.rglob("*.part"))
    for ours, theirs in zip(found, expected, strict=True):
        numbers = [
            {k: v for k, v in r.metrics.items() if k not in OF_THE_CLOCK} for r in (ours, theirs)
        ]
        assert numbers[0] == numbers[1], theirs.stage
        states = [torch.load(r.checkpoint, weights_only=True)["state_dict"] for r in (ours, theirs)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1]), theirs.stage


def saved(path: Path, number: float) -> None:
    torch.save({"number": torch.full((1000,), number)}, path.with_suffix(".new"))
    write_checkpoint(path, path.with_suffix(".new").read_bytes())


def test_broken_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path):
    path, random_, told = tmp_path / "last.ckpt", random.Random(0), list[str]()
    for number in (1.0, 2.0):
        saved(path, number)
    assert newest_whole(path, told.append) == path
    assert not told
    whole = path.read_bytes()
    for _ in range(20):
        path.write_bytes(whole[: random_.randrange(len(whole))])
        assert newest_whole(path, told.append) == previous_of(path)
        assert "last.ckpt is broken" in told[-1]
    for _ in range(50):
        changed = bytearray(whole)
        changed[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
        path.write_bytes(changed)
        # Bytes between the parts of the archive mean nothing.
        if fault_of(path) is None:
            assert torch.equal(
                torch.load(path, weights_only=True)["number"], torch.full((1000,), 2.0)
            )
    # A broken checkpoint does not replace the whole one before it.
    path.write_bytes(whole[:100])
    saved(path, 3.0)
    assert fault_of(path) is None
    assert torch.load(previous_of(path), weights_only=True)["number"][0] == 1


def test_checkpoint_that_needs_other_classes_is_not_called_damaged(tmp_path: Path):
    path, told = tmp_path / "last.ckpt", list[str]()
    torch.save({"root": Path("videos")}, path)
    assert newest_whole(path, told.append) is None
    assert re.search(r"it asks for pathlib\.\S*PosixPath, which is neither", told[0])


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "last.ckpt"
    saved(path, 1.0)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        saved(path, 2.0)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))

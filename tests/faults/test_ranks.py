"""Two processes reach the losses, weights and metrics of one with the same batches."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import REPOSITORY, TINY
from tests.faults import two_ranks
from tests.faults.two_ranks import CASES, RANKS

pytestmark = pytest.mark.filterwarnings("ignore")

# Relative to what training changed, in double precision: processes add sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def both(
    synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The results of both ranks in all cases."""
    file = tmp_path_factory.mktemp("ranks") / "found"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(RANKS):
        environment = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(RANKS),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
        }
        command = [sys.executable, two_ranks.__file__, str(synthetic_root("ucf101")), str(file)]
        # A file for each, since writing into a shared pipe may block until somebody reads it.
        with file.with_suffix(f".log{rank}").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    for rank, process in enumerate(processes):
        assert process.wait(600) == 0, file.with_suffix(f".log{rank}").read_text()[-3000:]
    return [torch.load(file.with_suffix(f".{rank}"), weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module", autouse=True)
def seed() -> Iterator[None]:
    """Other tests must not inherit the seed that these ask for."""
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_reach_the_metrics_losses_and_weights_of_one(
    case: str, both: list[dict[str, Any]], synthetic_root: Callable[[str], Path]
):
    first, second = (found[case] for found in both)
    alone = two_ranks.run(case, str(synthetic_root("ucf101")), ranks=1)

    # Seven videos in batches of three: the ranks hold four and three. Equal to the last digit.
    assert first["metrics"] == second["metrics"] == alone["metrics"]
    assert any(name.startswith("val/") for name in alone["metrics"])

    steps = len(first["losses"])
    assert steps == 2
    together = [sum(pair) / RANKS for pair in zip(first["losses"], second["losses"], strict=True)]
    # With a batch norm of each device, one process takes the batches of a step one after the other.
    parts = torch.tensor(alone["losses"]).view(steps, -1)
    assert together == pytest.approx(parts.mean(dim=1).tolist(), rel=1e-4)

    # All weights together: the gradient of a single bias may be almost zero, where large terms cancel.
    start, ours, theirs = (
        torch.cat(
            [v.flatten() for k, v in state.items() if v.is_floating_point() and "running" not in k]
        )
        for state in (alone["before"], first["after"], alone["after"])
    )
    assert (ours - theirs).norm() <= TOLERANCE * (theirs - start).norm()
    for name in alone["after"] if CASES[case][2] else []:
        if "running" in name:
            torch.testing.assert_close(
                first["after"][name],
                alone["after"][name],
                rtol=10 * TOLERANCE,
                atol=TOLERANCE,
            )
    weights = [
        name
        for name in first["after"]
        if name.startswith(("model.", "probe.")) and "running" not in name
    ]
    assert all(torch.equal(first["after"][n], second["after"][n]) for n in weights)
    assert any(not torch.equal(alone["before"][n], alone["after"][n]) for n in weights)


def test_an_epoch_without_validation_does_not_separate_the_ranks(
    synthetic_root: Callable[[str], Path], tmp_path: Path
):
    words = ["fit", "-c", "stages/baseline.yaml", *TINY, f"--data.root={synthetic_root('ucf101')}"]
    words += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=2"]
    words += ["--trainer.check_val_every_n_epoch=2", f"--checkpoint.dirpath={tmp_path / 'run'}"]
    ran = subprocess.run(
        [sys.executable, "-m", "hcml_lightning", *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "epoch 1/2" in ran.stdout
    assert "train/top1" in ran.stdout


def test_ranks_with_different_numbers_of_targets_gather_them_all(both: list[dict[str, Any]]):
    found = [rank["gathered"] for rank in both]
    assert [len(f["own"]) for f in found] == [5, 3]
    for f in found:
        assert torch.equal(f["joined"], torch.cat([other["own"] for other in found]))
        assert torch.equal(f["joined"][f["positive"]], f["own"])


def test_training_counts_of_all_ranks_survive_a_resume(both: list[dict[str, Any]]):
    for found in (rank["counted"] for rank in both):
        assert found["accuracies"] == [1 / 2, 1 / 2]
        # Counts of two runs over all ranks, of which the second resumed from the first.
        assert int(found["counts"]["tp"]) == 8
        assert int(found["counts"]["tp"] + found["counts"]["fn"]) == 16


@pytest.fixture(scope="module")
def undisturbed(
    synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """The weights of two processes that nothing has ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, said = train_on_two(synthetic_root("ucf101"), folder, "--save_every_n_steps=1")
    assert status == 0, said
    return last_checkpoint(folder)["state_dict"]


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_process_that_dies_ends_the_run_which_then_resumes_inside_the_epoch(
    rank: int,
    synthetic_root: Callable[[str], Path],
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
):
    root, often = synthetic_root("ucf101"), "--save_every_n_steps=1"
    status, said = train_on_two(root, tmp_path, often, *fault("Dies", rank))
    if rank == 0:
        assert status == -signal.SIGKILL
    else:
        assert status != 0
        assert "process" in said, said
    assert last_checkpoint(tmp_path)["global_step"] == 1
    status, said = train_on_two(root, tmp_path, often, "--ckpt_path=last")
    assert status == 0, said
    assert "Restored all states" in said
    found = last_checkpoint(tmp_path)["state_dict"]
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)


def test_a_bad_batch_of_one_process_ends_the_run_and_is_named(
    synthetic_root: Callable[[str], Path], tmp_path: Path
):
    status, said = train_on_two(synthetic_root("ucf101"), tmp_path, *fault("Spoils", 1))
    assert status != 0
    # Batch norm passes it on to the first process, and either may be the one that is seen to stop.
    messages = [line for line in said.splitlines() if "FlowTask level 0: train/" in line]
    assert messages, said
    for message in messages:
        assert "train/loss is nan" in message
        assert "batch 1, rank" in message
        assert "the bad batch may belong to another process" in message
        assert "Videos in the batch: 'v_" in message
    assert not list(tmp_path.rglob("*.ckpt"))


def fault(name: str, rank: int) -> list[str]:
    """Return the options that add a callback of dying.py, which concerns the process of a rank."""
    return [
        f"--trainer.callbacks+=tests.faults.dying.{name}",
        f"--trainer.callbacks.rank={rank}",
    ]


def last_checkpoint(folder: Path) -> Any:
    return torch.load(folder / "run" / "last.ckpt", weights_only=True)


def train_on_two(root: Path, folder: Path, *options: str) -> tuple[int, str]:
    """Train on two processes.

    Args:
        root: of the data.
        folder: for what is written.
        *options: of `hcml fit`.

    Returns:
        Exit status of the run, and all that it said; no process of it is left.
    """
    words = ["fit", "-c", "stages/1_flow.yaml", *TINY, f"--data.root={root}"]
    words += ["--data.batch_size=1", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += [f"--trainer.default_root_dir={folder}", "--trainer.logger=false"]
    words += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]
    words += [f"--checkpoint.dirpath={folder / 'run'}", *options]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hcml_lightning", *words],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
            stdout=file,
            stderr=file,
        )
        # A process that waits for a dead one would wait for half an hour.
        status = process.wait(180)
    deadline = time.monotonic() + 30
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process.pid)
    return status, log.read_text()


def alive(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(entry.parent.name))
    return found

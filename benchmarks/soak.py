"""[random faults → all stages, again and again → **nothing lost, nothing leaked**]

Train all stages on tiny synthetic videos again and again, while faults happen at random.

Each round trains all stages twice: with `hcml progressive` and random faults, and undisturbed in one process, which
is the same in all rounds and whose memory, open files, threads and children are recorded. After a fault ends the run,
it is started again until it completes, and must have exactly the weights and metrics of the undisturbed run.

    nice python benchmarks/soak.py --minutes 60 --seed 1 --folder /tmp/soak

The last line is a summary as JSON; the exit status is 1 if anything was lost or leaked.
"""

import argparse
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

# Imported before any process is forked, so that no process has to import it itself.
import hcml_lightning.tools.training.motion_cli  # noqa: F401
from hcml_lightning.cli import main
from hcml_lightning.data.synthetic import write_synthetic
from hcml_lightning.tools.console import launch
from hcml_lightning.tools.console.output import write_json
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.recipe.stage_folder import Done
from hcml_lightning.tools.stages import PAPER

TINY = Path(__file__).parents[1] / "tests" / "tiny.yaml"
# Metrics of speed, which differ between any two runs.
OF_THE_CLOCK = ("train/clips_per_second", "train/data_wait")


class Process(NamedTuple):
    """A process of a run.

    Attributes:
        pid: its process ID.
        kind: `progressive`, `stage` or `worker`.
    """

    pid: int
    kind: str


def processes(session: int) -> list[Process]:
    """Find the living processes of a run, including those that outlived their parents."""
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end while it is inspected.
        with suppress(OSError, ValueError):
            pid = int(entry.name)
            state, parent, _, of_session = (
                (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            )
            if int(of_session) == session and state != "Z":
                kind = "stage" if int(parent) == session else "worker"
                found.append(Process(pid, "progressive" if pid == session else kind))
    return found


def fork(work: Callable[[], int], log: Path | None = None) -> int:
    """Run a function in a forked process, and return its process ID.

    A fork, because importing everything again takes longer than all stages of such a tiny network.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        if log is not None:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
        status = work()
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Skip exit handlers, which belong to the parent and would otherwise run twice.
        os._exit(status)


class ForkedStage:
    """A replacement for subprocess.Popen, with which `hcml progressive` starts a stage.

    Args:
        command: `python -m hcml_lightning` and its words.
        preexec_fn: function that is called in the new process.
        pass_fds: not used, because a forked process inherits all file descriptors.
    """

    def __init__(
        self, command: list[str], preexec_fn: Callable[[], None], pass_fds: list[int]
    ) -> None:
        def work() -> int:
            for signum in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(signum, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            preexec_fn()
            return main(command[3:])

        self.pid = fork(work)

    def wait(self) -> int:
        """Wait for the process and return its exit status, negative if a signal ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, signum)


# --- faults -------------------------------------------------------------------------------------


def kill(found: list[Process], kind: str, signum: signal.Signals) -> bool:
    """Send a signal to one process of a kind; return whether there was one."""
    pids = [process.pid for process in found if process.kind == kind]
    for pid in pids[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
            return True
    return False


def fill_disk(found: list[Process], size: int = 262_144) -> bool:
    """Limit the files of a stage to less than the size of a checkpoint, as if the disk were full."""
    for process in found:
        if process.kind == "stage":
            with suppress(OSError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                return True
    return False


def damage(run_dir: Path, random_: random.Random, cut: bool) -> bool:
    """Truncate the last checkpoint of the unfinished stage, or change one byte of it; return if there was one."""
    newest = [
        path
        for path in run_dir.glob("*/checkpoints/last.ckpt")
        if not (path.parents[1] / "done.json").is_file()
    ]
    if not newest:
        return False
    path = newest[0]
    content = bytearray(path.read_bytes())
    if cut:
        path.write_bytes(content[: random_.randrange(len(content))])
    else:
        # Within the weights, because bytes between the parts of the archive have no effect.
        content[random_.randrange(len(content) // 4, len(content) // 2)] ^= 255
        path.write_bytes(content)
    return True


def inject(name: str, session: int, run_dir: Path, random_: random.Random) -> bool:
    """Cause one fault; return False if there was no process that it could affect."""
    found = processes(session)
    kind, _, signum = name.partition(" ")
    if name == "disk full":
        return fill_disk(found)
    if name in ("checkpoint cut", "checkpoint damaged"):
        # Only the next start reads the checkpoint, so kill the stage, and kill it first, so that it cannot end as done.
        if not kill(found, "stage", signal.SIGKILL):
            return False
        damage(run_dir, random_, name.endswith("cut"))
        return True
    if name == "all SIGKILL":
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return bool(found)
    if name == "stage frozen":
        for signum_, pause in ((signal.SIGSTOP, 2.0), (signal.SIGCONT, 0.0)):
            if not kill(found, "stage", signum_):
                return False
            time.sleep(pause)
        return True
    return kill(found, kind, signal.Signals[signum])


FAULTS = (
    "stage SIGKILL", "stage SIGTERM", "stage SIGINT", "worker SIGKILL", "progressive SIGKILL", "progressive SIGTERM",
    "progressive SIGINT", "progressive SIGUSR1", "all SIGKILL", "disk full", "checkpoint cut", "checkpoint damaged",
    "stage frozen",
)  # fmt: skip


# --- one round ----------------------------------------------------------------------------------


def disturbed(
    words: list[str],
    run_dir: Path,
    log: Path,
    random_: random.Random,
    pause: float,
    sessions: list[int],
) -> tuple[Counter[str], Counter[int]]:
    """Run `hcml progressive` until it ends, with a fault about every `pause` seconds.

    Args:
        words: words for the command line.
        run_dir: folder of the run.
        log: file for the output of the processes.
        random_: source of the random faults.
        pause: average seconds between two faults.
        sessions: list to which the session ID of each start is appended.

    Returns:
        How often each fault happened, and how often the starts ended with each status.

    Raises:
        RuntimeError: if a start without faults fails, or the run does not complete within 1000 starts.
    """
    faults, statuses = Counter[str](), Counter[int]()

    def work() -> int:
        os.setsid()
        launch.subprocess = SimpleNamespace(Popen=ForkedStage)  # type: ignore[assignment]
        return main(["progressive", "--run_dir", str(run_dir), *words])

    for _ in range(1000):
        session, met, status = fork(work, log), 0, None
        due = time.monotonic() + random_.expovariate(1 / pause)
        while status is None:
            time.sleep(0.02)
            ended, code = os.waitpid(session, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() > due:
                name = random_.choice(FAULTS)
                if inject(name, session, run_dir, random_):
                    faults[name] += 1
                    met += 1
                due = time.monotonic() + random_.expovariate(1 / pause)
        statuses[status] += 1
        sessions.append(session)
        if status == 0:
            return faults, statuses
        if not met:
            raise RuntimeError(f"no fault, and yet status {status}; see {log}")
    raise RuntimeError(f"the run does not end; see {log}")


def differences(expected: list[Done], run_dir: Path) -> Iterator[str]:
    """Yield what differs between a run and the undisturbed one: metrics, epochs, weights."""
    for record in expected:
        file = run_dir / record.stage / "done.json"
        if not file.is_file():
            yield f"{record.stage}: not done"
            continue
        found = Done(**json.loads(file.read_text()))
        for numbers in (found.metrics, record.metrics):
            for name in OF_THE_CLOCK:
                numbers.pop(name, None)
        if found.metrics != record.metrics or found.epochs != record.epochs:
            yield f"{record.stage}: {found.metrics} instead of {record.metrics}"
        ours, theirs = (
            torch.load(r.checkpoint, weights_only=True)["state_dict"] for r in (found, record)
        )
        if wrong := [key for key in theirs if not torch.equal(ours[key], theirs[key])]:
            yield f"{record.stage}: {len(wrong)} tensors differ, {wrong[0]} among them"


def leftovers(sessions: list[int], run_dir: Path, patience: float = 60.0) -> list[str]:
    """Return what a run left behind: processes that are alive after `patience` seconds, and half-written files."""
    deadline = time.monotonic() + patience
    while (living := [p for s in sessions for p in processes(s)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"process {p.pid} ({p.kind})" for p in living] + [
        f"file {path}" for path in run_dir.rglob("*.part")
    ]


def own_state() -> dict[str, float]:
    """Return this process's memory in MB, open files, threads and children, and the semaphores of the machine."""
    status = Path("/proc/self/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "memory": int(rss.split()[1]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(children),
        "semaphores": len(os.listdir("/dev/shm")),
    }


class Calm:
    """A process that runs all stages undisturbed, again and again, and reports what it holds after each run.

    Args:
        words: words for the command line.
        folder: folder for the runs.
        log: file for its output.
    """

    def __init__(self, words: list[str], folder: Path, log: Path) -> None:
        self._results, write = os.pipe()
        read, self._orders = os.pipe()

        def work() -> int:
            # If this copy stayed open, `read` would never see the end of the pipe.
            os.close(self._orders)
            while name := os.read(read, 100).decode():
                records = run_plan(Plan.from_words(words), PAPER, folder / name, main)
                gc.collect()
                answer = {"state": own_state(), "records": [r._asdict() for r in records]}
                write_json(folder / "answer.json", answer)
                os.write(write, b"done")
            return 0

        self.folder, self.pid = folder, fork(work, log)
        os.close(read)
        os.close(write)

    def run(self, name: str) -> tuple[list[Done], dict[str, float]]:
        """Run all stages in a folder of that name; return their records, and what the process then holds."""
        os.write(self._orders, name.encode())
        if os.read(self._results, 4) != b"done":
            raise RuntimeError("the undisturbed run failed; see calm.log")
        answer = json.loads((self.folder / "answer.json").read_text())
        return [Done(**record) for record in answer["records"]], answer["state"]

    def end(self) -> None:
        """End the process and wait for it."""
        os.close(self._orders)
        os.waitpid(self.pid, 0)


def soak(minutes: float, seed: int, folder: Path, pause: float) -> dict[str, Any]:
    """Run rounds until the time is over, and return a summary."""
    random_, deadline = random.Random(seed), time.monotonic() + 60 * minutes
    data = folder / "videos"
    folder.mkdir(parents=True)
    write_synthetic(
        data, layout="ucf101", num_train=3, num_val=1, num_frames=12, height=48, width=64
    )
    words = ["-c", "data/ucf101.yaml", "-c", str(TINY), f"--data.root={data}"]
    words += ["--data.num_workers=1", "--flow.data.true_flow=true", "--save_every_n_steps=1"]
    words += ["--trainer.max_epochs=3", "--trainer.deterministic=true"]
    calm = Calm(words, folder, folder / "calm.log")
    expected, state = calm.run("expected")
    faults, statuses = Counter[str](), Counter[int]()
    lost: list[str] = []
    leaked: list[str] = []
    states, rounds = [state], 0
    while time.monotonic() < deadline:
        rounds += 1
        run_dir, sessions = folder / f"round{rounds}", list[int]()
        log = run_dir.with_suffix(".log")
        new_faults, new_statuses = disturbed(words, run_dir, log, random_, pause, sessions)
        faults += new_faults
        statuses += new_statuses
        told = len(lost), len(leaked)
        lost += [f"round {rounds}: {text}" for text in differences(expected, run_dir)]
        leaked += [f"round {rounds}: {text}" for text in leftovers(sessions, run_dir)]
        _, state = calm.run("calm")
        states.append(state)
        lost += [f"calm {rounds}: {text}" for text in differences(expected, folder / "calm")]
        shutil.rmtree(run_dir)
        shutil.rmtree(folder / "calm")
        print(
            f"{time.strftime('%X')} round {rounds}: {faults.total()} faults, {len(lost)} results lost, "
            f"{len(leaked)} leaks; {state}",
            *lost[told[0] :],
            *leaked[told[1] :],
            sep="\n",
            flush=True,
        )
    calm.end()
    return {
        "seed": seed,
        "minutes": minutes,
        "rounds": rounds,
        "stages": 2 * rounds * len(PAPER),
        "starts": statuses.total(),
        "faults_in_all": faults.total(),
        "faults": dict(faults.most_common()),
        "statuses": dict(statuses),
        "lost": lost,
        "leaked": leaked,
        "states": states,
    }


def run() -> int:
    """Read the command line, soak, and print the summary; return 1 if anything was lost or leaked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    parser.add_argument(
        "--pause", type=float, default=20, help="seconds between faults, on average"
    )
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(
            f"--folder {options.folder} is there already, perhaps with the logs of an earlier soak: name a new one"
        )
    torch.set_num_threads(1)
    summary = soak(options.minutes, options.seed, options.folder, options.pause)
    print(json.dumps(summary))
    return 1 if summary["lost"] or summary["leaked"] else 0


if __name__ == "__main__":
    sys.exit(run())

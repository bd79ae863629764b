"""[words → **process**]

Each stage runs in a process of its own, so that it may start further processes on other devices and
leaves no memory in use. It ends when the run that started it ends.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hcml_lightning.stop_signals import STOP_SIGNALS

# From linux/prctl.h.
PR_SET_PDEATHSIG = 1


@contextmanager
def locked(run_dir: Path, patience: float = 60.0) -> Iterator[int]:
    """Lock a folder, so that no second run writes into it.

    Processes that `launch_with` starts hold the lock too, so that a run that is started again waits while they still
    save their state.

    Args:
        run_dir: the folder; created if missing.
        patience: seconds to wait for the lock.

    Yields:
        The descriptor of the lock.

    Raises:
        ValueError: if another run still holds the lock after that time.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a") as file:
        lock(file.fileno(), run_dir, patience, "--run_dir")
        yield file.fileno()


def lock(descriptor: int, folder: Path, patience: float, option: str) -> bool:
    """Lock an open file or folder, so that no second run writes into a folder.

    Args:
        descriptor: of the file or folder.
        folder: what the lock stands for, for messages.
        patience: seconds to wait for the lock.
        option: option that chooses another folder, for the error message.

    Returns:
        Whether it had to wait.

    Raises:
        ValueError: if another run still holds the lock after that time.
        OSError: if the drive has no locks.
    """
    deadline = time.monotonic() + patience
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return waited
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"another run is writing to {folder}; wait for it to end, or choose another {option}"
                ) from error
        if not waited:
            print(f"waiting for processes that are still writing to {folder}", flush=True)
        waited = True
        time.sleep(0.2)


def launch_with(lock: int) -> Callable[[list[str]], int]:
    """Return a function that runs a command of this package in a process that holds a lock too."""

    def launch(words: list[str]) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "hcml_lightning", *words],
            pass_fds=[lock],
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        with _passing_on(process) as heard:
            status = process.wait()
        # Even if the process has finished its work, report the signal, so that no further stage is started.
        return 128 + heard[0] if heard else status

    return launch


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass stop signals on to a stage, so that it saves its state before this process ends; yield those received."""
    heard: list[int] = []

    def pass_on(signum: int, _: FrameType | None) -> None:
        heard.append(signum)
        # Ctrl-C sends SIGINT to the stage too, and a second SIGINT would end it at once.
        process.send_signal(signal.SIGTERM if signum == signal.SIGINT else signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, pass_on) for s in STOP_SIGNALS}
    try:
        yield heard
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def end_with_parent(signum: int) -> None:
    """Ask Linux to send a signal to this process when its parent ends, for whatever reason."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def _end_with_parent() -> None:
    end_with_parent(signal.SIGTERM)

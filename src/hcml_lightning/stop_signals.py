"""[signal → **request to end** → exit status]

Signals that ask a run to end, and the status that it ends with.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

# Sent by schedulers before a kill, by SLURM's `--signal` some time before that, and by the keyboard (Ctrl-C).
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def status_of(signum: int) -> int:
    """Return the exit status of a run that a signal has ended: 128 + signal, or 0 for SIGTERM in a W&B sweep.

    The agent of a W&B sweep ends runs that perform badly by SIGTERM, and counts any status but 0 as a failure of the
    run; after a few failures it would give up the sweep.
    """
    by_agent = signum == signal.SIGTERM and "WANDB_SWEEP_ID" in os.environ
    return 0 if by_agent else 128 + signum


class Stopped(SystemExit):
    """Exit of a run that was asked to end and has saved its state.

    Args:
        signum: the signal that asked it to end.
        is_main: whether this is the first of all processes. The others exit with status 0, because their launcher would
            take any other status for a crash and end the run by force.
    """

    def __init__(self, signum: int, is_main: bool = True) -> None:
        super().__init__(status_of(signum) if is_main else 0)


class StopRequest:
    """Record whether a signal has asked this process to end; a second SIGINT ends it at once.

    Attributes:
        signum: the first signal that asked; 0 if none has.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._interrupted = False
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Forget earlier requests and, if this is the main thread (no other can), install the signal handlers."""
        self.signum, self._interrupted = 0, False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._hear) for s in STOP_SIGNALS}

    def stop_listening(self) -> None:
        """Restore the earlier signal handlers."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    def _hear(self, signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= signum == signal.SIGINT
        if not self.signum:
            self.signum = signum
            # Imported late, so that code that starts runs does not wait for it.
            from pytorch_lightning.utilities import rank_zero_info
            from torch.utils.data import get_worker_info

            # Loader workers inherit this handler when they are forked, and Ctrl-C in a terminal reaches them too.
            if get_worker_info() is None:
                rank_zero_info(
                    f"{signal.Signals(signum).name}: the run will save its state and stop after this batch"
                )

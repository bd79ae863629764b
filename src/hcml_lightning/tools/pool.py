"""[videos → **processes** → what was found in each]

One function for many videos, in processes that may die or hang on a damaged file without harm to the others.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast


class Lost(NamedTuple):
    """What is given for an item whose process died or did not answer.

    Attributes:
        reason: how it was lost.
    """

    reason: str


class _Worker:
    """A process that answers one item at a time."""

    def __init__(self, context: Any, function: Callable[[Any], Any]) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        # Of the other end only the worker may hold a copy, or its death would not be noticed.
        theirs.close()
        self.item: Any = None
        self.since = 0.0

    def send(self, item: Any) -> None:
        self.item, self.since = item, time.monotonic()
        self.connection.send(item)

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def run_each(
    function: Callable[[Any], Any], items: Iterable[Any], num_processes: int, limit_s: float = 900
) -> Iterator[tuple[Any, Any]]:
    """Call a function for each item, in processes of their own.

    The processes start from a clean one, not from this one with its threads, and end when this one ends, however it
    does.

    Args:
        function: of a module, with one argument.
        items: its arguments.
        num_processes: how many to run at a time.
        limit_s: seconds after which an item is given up.

    Yields:
        (item, result) in the order of completion; the result is `Lost` where the process died or took too long.

    Raises:
        Exception: what the function raised.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    waiting = iter(items)
    idle: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}
    try:
        for item in waiting:
            _give(context, function, item, idle, busy)
            while len(busy) >= num_processes:
                yield from _take(idle, busy, limit_s)
        while busy:
            yield from _take(idle, busy, limit_s)
    finally:
        for worker in [*idle, *busy.values()]:
            worker.stop()


def _give(
    context: Any,
    function: Callable[[Any], Any],
    item: Any,
    idle: list[_Worker],
    busy: dict[Connection, _Worker],
) -> None:
    worker = idle.pop() if idle else _Worker(context, function)
    worker.send(item)
    busy[worker.connection] = worker


def _take(
    idle: list[_Worker], busy: dict[Connection, _Worker], limit_s: float
) -> Iterator[tuple[Any, Any]]:
    """Yield what has been answered, waiting a second at most, and what is overdue."""
    for ready in wait(list(busy), timeout=1):
        worker = busy.pop(cast("Connection", ready))
        try:
            failed, result = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            yield worker.item, Lost(f"decoding it ended the process ({worker.process.exitcode})")
            continue
        idle.append(worker)
        if failed:
            raise result
        yield worker.item, result
    for connection, worker in list(busy.items()):
        if time.monotonic() - worker.since > limit_s:
            del busy[connection]
            worker.stop()
            yield worker.item, Lost(f"decoding it took longer than {limit_s:.0f} s")


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one tells the others to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = (False, function(item))
        except Exception as error:  # The first process raises it.
            answer = (True, error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return

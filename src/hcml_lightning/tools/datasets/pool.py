"""[videos → **processes** → what was found in each]

Calls one function for many videos, in processes that may die or hang on a damaged file without harm to the others.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast


class Lost(NamedTuple):
    """The result for an item whose process died or did not answer in time.

    Attributes:
        reason: what happened to the process.
    """

    reason: str


class _Worker:
    """A process that handles one item at a time."""

    def __init__(self, context: Any, function: Callable[[Any], Any]) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        # Only the worker may hold the other end of the pipe, or its death would go unnoticed.
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
    """Call a function for each item, in separate processes.

    The processes are forked from a clean server process, because this one may have threads. They end when this process
    ends, for whatever reason.

    Args:
        function: function of one argument, defined at the top level of a module.
        items: its arguments.
        num_processes: number of processes that run at a time.
        limit_s: seconds after which an item is given up.

    Yields:
        (item, result) in the order of completion; the result is `Lost` if the process died or took too long.

    Raises:
        Exception: any exception that the function raises.
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
    while idle:
        worker = idle.pop()
        try:
            worker.send(item)
            break
        except ConnectionError:  # It died since its last item, perhaps because memory ran out.
            worker.stop()
    else:
        worker = _Worker(context, function)
        worker.send(item)
    busy[worker.connection] = worker


def _take(
    idle: list[_Worker], busy: dict[Connection, _Worker], limit_s: float
) -> Iterator[tuple[Any, Any]]:
    """Wait for results for at most a second, then yield those that came, and `Lost` for each overdue item."""
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
            yield worker.item, Lost(f"decoding it took longer than {limit_s:g} s")


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    # Ctrl-C reaches all processes of a terminal, but the main process ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = (False, function(item))
        except Exception as error:  # The main process raises it again.
            answer = (True, error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return

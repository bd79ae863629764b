"""How everything here is timed and checked; `report.py` records it.

Providers take turns in one process, so that neighbours on the machine disturb all of them alike, and medians and
quantiles are over the turns; training steps, which would not fit beside each other, go one by one. On a CPU the time is
that of the one thread, or wall time where there are several. On a GPU it is that of CUDA events, around replayed CUDA
graphs where a provider can be captured, over enough input sets that the cache does not hold them.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo
from torch import Tensor

_MATRIX = 8192


class Work(NamedTuple):
    """What one provider does with one set of inputs.

    Attributes:
        forward: the forward pass; returns what the backward pass starts from.
        backward: the backward pass; None where there is nothing to differentiate.
    """

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], object] | None = None


class Floor(NamedTuple):
    """The least that has to be done: each input read once, each output written once.

    Attributes:
        bytes: moved through memory.
        operations: of floating point, a multiply-add as two.
    """

    bytes: float = 0
    operations: float = 0


def require_close(name: str, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Refuse to go on where a result is wrong.

    Args:
        name: the provider.
        actual: its results.
        expected: the same in float64.

    Raises:
        ArithmeticError: if a relative error is above what the dtype allows.
    """
    for result, wanted in zip(actual, expected, strict=True):
        error = ((result.double() - wanted).norm() / wanted.norm()).item()
        if not error < (1e-3 if result.dtype in (torch.float32, torch.float64) else 3e-2):
            raise ArithmeticError(f"{name} is wrong by {error:.1e}: it is not timed")


def only_right(
    checks: Mapping[str, Callable[[], Sequence[Tensor]]], expected: Sequence[Tensor]
) -> list[str]:
    """Names of the providers whose results are right; says which others are left out, and why.

    Args:
        checks: for every provider, what makes its results. One whose name begins with "ours" must be right.
        expected: the results in float64.

    Raises:
        ArithmeticError: if ours is wrong: then nothing is timed.
    """
    right = []
    for name, results in checks.items():
        try:
            require_close(name, results(), expected)
            right.append(name)
        # Whatever the compiler of a peer raises must not end the measurement of the others.
        except Exception as error:
            if name.startswith("ours"):
                raise
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
    return right


def measure(
    works: Mapping[str, Sequence[Work]], device: str, repeats: int, graphs: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Time all providers in turns.

    Args:
        works: for every provider, the same work on different inputs.
        device: cpu or cuda.
        repeats: turns.
        graphs: whether the work is captured in CUDA graphs, which leaves the time of the launches out.

    Returns:
        Milliseconds for one set of inputs, by provider and by direction: forward, and where there is a backward pass
        also backward and both.
    """
    players = {
        name: _player(name, sets, graphs and device == "cuda") for name, sets in works.items()
    }
    for passes in players.values():
        for _ in range(2):
            for one in passes:
                one()
    samples: dict[str, list[list[float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, passes in players.items():
            marks = [_mark(device)]
            for one in passes:
                one()
                marks.append(_mark(device))
            times = _intervals(marks)
            samples[name].append([t / len(works[name]) for t in times])
    result = {}
    for name, turns in samples.items():
        result[name] = {"forward": [turn[0] for turn in turns]}
        if len(turns[0]) > 1:
            result[name] |= {"backward": [t[1] for t in turns], "both": [sum(t) for t in turns]}
    return result


def _player(name: str, sets: Sequence[Work], graphs: bool) -> list[Callable[[], object]]:
    outputs: list[Tensor] = []

    def forward() -> None:
        outputs[:] = [work.forward() for work in sets]

    def backward() -> None:
        for work, output in zip(sets, outputs, strict=True):
            if work.backward is not None:
                work.backward(output)
        outputs.clear()

    passes = [forward] if sets[0].backward is None else [forward, backward]
    if not graphs:
        return list(passes)
    stream = torch.cuda.current_stream()
    try:
        return _captured(passes)
    except RuntimeError as error:
        # A capture that fails as it ends leaves its own stream the current one.
        torch.cuda.set_stream(stream)
        message = str(error).splitlines()[0]
        print(f"{name} is timed with its launches: {message}", file=sys.stderr, flush=True)
        return list(passes)


def _captured(passes: Sequence[Callable[[], None]]) -> list[Callable[[], object]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            for one in passes:
                one()
    torch.cuda.synchronize()
    captured: list[torch.cuda.CUDAGraph] = []
    for one in passes:
        graph = torch.cuda.CUDAGraph()
        pool = captured[0].pool() if captured else None
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            one()
        captured.append(graph)
    return [graph.replay for graph in captured]


def _mark(device: str) -> float | torch.cuda.Event:
    if device == "cpu":
        # The time of one thread does not count what neighbours take of the machine.
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _intervals(marks: Sequence[float | torch.cuda.Event]) -> list[float]:
    if isinstance(marks[0], float):
        return [1e3 * (b - a) for a, b in pairwise(marks)]
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(marks)]


def compiled(module: torch.nn.Module) -> Callable[..., Tensor]:
    """Compile as if nothing had been compiled before: after some recompilations code silently runs as it is."""
    torch._dynamo.reset()
    return torch.compile(module, dynamic=False)


def peak_mb(work: Work, device: str) -> float:
    """Memory that a forward and a backward pass need on top of their inputs, 10⁶ bytes."""

    def run() -> None:
        output = work.forward()
        if work.backward is not None:
            work.backward(output)

    run()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # Give freed memory back, so that what is needed has to be taken anew and counts.
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (_resident("VmHWM") - before) / 1e6


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def ceilings(device: str, dtype: torch.dtype, tensor_cores: bool = False) -> tuple[float, float]:
    """What the machine reaches: bytes a second of a large copy, operations a second of a large matrix product.

    Args:
        device: cpu or cuda.
        dtype: of the product.
        tensor_cores: whether float32 may be made of three products in TF32 on a GPU, as the cost volume makes it.
    """
    large = device == "cuda"
    thirds = large and tensor_cores and dtype == torch.float32
    size = _MATRIX if large else _MATRIX // 8
    source = torch.empty(1 << (30 if large else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    works = {
        "copy": [Work(lambda: target.copy_(source))],
        "product": [Work(lambda: a @ b)],
    }
    torch.backends.cuda.matmul.allow_tf32 = thirds
    times = {k: min(v["forward"]) / 1e3 for k, v in measure(works, device, repeats=5).items()}
    torch.backends.cuda.matmul.allow_tf32 = False
    operations = 2 * size**3 / (3 if thirds else 1)
    return 2 * source.numel() / times["copy"], operations / times["product"]


def roofline_ms(floor: Floor, limits: tuple[float, float]) -> float:
    """The larger of the times for the bytes and for the operations."""
    return 1e3 * max(floor.bytes / limits[0], floor.operations / limits[1])

"""Time and check the work of the benchmarks; `report.py` records it.

Providers take turns in one process, so that other load on the machine affects all of them alike, and medians and
quantiles are over the turns; training steps run one by one, because they would not fit into memory together. On a CPU
the time is the CPU time of a single thread, or wall time if there are several. On a GPU it is the time between CUDA
events, around replayed CUDA graphs if a provider can be captured, over so many input sets that the cache cannot hold
them.
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
        backward: the backward pass; None if there is nothing to differentiate.
    """

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], object] | None = None


class Floor(NamedTuple):
    """The least possible work: each input read once, each output written once.

    Attributes:
        bytes: bytes moved through memory.
        operations: floating point operations; a multiply-add counts as two.
    """

    bytes: float = 0
    operations: float = 0


def require_close(name: str, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise an error if a result is wrong.

    Args:
        name: name of the provider.
        actual: its results.
        expected: correct results in float64.

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
    """Return the names of the providers whose results are right; print which others are left out and why.

    Args:
        checks: for every provider, a function that returns its results. Names of our own providers begin with "ours".
        expected: correct results in float64.

    Raises:
        ArithmeticError: if one of ours is wrong; nothing is timed then. Other errors of ours are raised as well.
    """
    right = []
    for name, results in checks.items():
        try:
            require_close(name, results(), expected)
            right.append(name)
        # An error of a peer, for example from its compiler, must not end the measurement of the others.
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
        repeats: number of turns.
        graphs: whether to capture the work in CUDA graphs, which excludes the time of kernel launches.

    Returns:
        Milliseconds for one set of inputs, by provider and direction: `forward` and, if there is a backward pass,
        `backward` and `both`.
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
        # A capture that fails at its end leaves its own stream as the current one.
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
        # With one thread, CPU time excludes what other processes use; with several, it would add them up.
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
    """Compile with a fresh compiler state, because after some recompilations code silently runs uncompiled."""
    torch._dynamo.reset()
    return torch.compile(module, dynamic=False)


def peak_mb(work: Work, device: str) -> float:
    """Return the memory that a forward and a backward pass need on top of their inputs, in 10⁶ bytes."""

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
    # Return freed memory to the system, so that memory needed now is allocated again and counted.
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (_resident("VmHWM") - before) / 1e6


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def ceilings(device: str, dtype: torch.dtype, tensor_cores: bool = False) -> tuple[float, float]:
    """Measure the limits of the machine: bytes/s of a large copy, operations/s of a large matrix product.

    Args:
        device: cpu or cuda.
        dtype: dtype of the product.
        tensor_cores: whether a float32 product on a GPU may consist of three TF32 products, as in the cost volume.
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
    """Return the time for the bytes or for the operations, whichever is larger, in ms."""
    return 1e3 * max(floor.bytes / limits[0], floor.operations / limits[1])

"""Command-line options of the benchmarks, and the rows that they append to the tables of results."""

import argparse
import csv
import datetime
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from hcml_lightning.tools.console.provenance import commit

FOLDER = Path(__file__).parent
COLUMNS = (
    *("op", "direction", "shape", "dtype", "device", "provider"),
    *("median_ms", "q20_ms", "q80_ms", "peak_mb", "roofline_ms"),
)


# Separates the name of a provider from that of its variant.
VARIANT = " + "


class Subject(NamedTuple):
    """What a row of the results measures.

    Attributes:
        op: operation that is computed.
        shape: shape of its inputs.
        dtype: dtype of its inputs.
        device: cpu or cuda.
    """

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str


def rows(
    subject: Subject,
    samples: Mapping[str, Mapping[str, Sequence[float]]],
    peaks: Mapping[str, float],
    rooflines: Mapping[str, float],
) -> list[dict[str, object]]:
    """Make and print one row of the results for each provider and direction.

    Args:
        subject: what was measured.
        samples: times that `measure` returned.
        peaks: `peak_mb` of every provider.
        rooflines: `roofline_ms` of every direction.
    """
    made = []
    for provider, directions in samples.items():
        for direction, times in directions.items():
            q20, *_, q80 = statistics.quantiles(times, n=5, method="inclusive")
            row = {
                "op": subject.op,
                "direction": direction,
                "shape": "x".join(map(str, subject.shape)),
                "dtype": str(subject.dtype).removeprefix("torch."),
                "device": device_name(subject.device),
                "provider": provider,
                "median_ms": f"{statistics.median(times):.4g}",
                "q20_ms": f"{q20:.4g}",
                "q80_ms": f"{q80:.4g}",
                "peak_mb": f"{peaks[provider]:.4g}",
                "roofline_ms": f"{rooflines[direction]:.3g}" if direction in rooflines else "",
            }
            made.append(row)
            print(*(f"{row[k]}" for k in COLUMNS if k != "device"), sep="\t", flush=True)
    return made


def record(made: Sequence[Mapping[str, object]], path: Path, packages: Sequence[str] = ()) -> None:
    """Append rows to a table of results, together with versions, commit and date.

    Args:
        made: rows with the same columns.
        path: path of the table, which is created if it is missing.
        packages: packages whose versions are recorded together with the machine, for rows that do not name a device;
            if empty, only the versions of torch and Triton are recorded.

    Raises:
        ValueError: if the table has other columns.
    """
    made = [{**row, **_circumstances(packages)} for row in made]
    columns = list(made[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.read_text().splitlines()[:1] if path.exists() else []
    if known and known != [",".join(columns)]:
        raise ValueError(f"{path}: expected the columns {columns}, but it has {known[0]}.")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not known:
            writer.writeheader()
        writer.writerows(made)


def device_name(device: str) -> str:
    """Return the name of the GPU, or the name of the processor and the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _circumstances(packages: Sequence[str]) -> dict[str, str]:
    where = {"torch": torch.__version__, "triton": _version("triton")}
    if packages:
        versions = " ".join(f"{name}={_version(name) or 'none'}" for name in packages)
        usable, cores = len(os.sched_getaffinity(0)), os.cpu_count()
        bound = "" if usable == cores else f", bound to {usable}"
        where = {"machine": f"{_processor()}, {cores} cores{bound}", "versions": versions}
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    # A copy without git history, for example on a borrowed machine, takes its commit from the environment.
    head = os.environ.get("COMMIT") or commit("src") or "unknown"
    return {**where, "commit": head, "date": today}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that the benchmarks share.

    Args:
        description: docstring of the benchmark; its first line is shown.
        name: name of its table of results.
    """
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    options.add_argument("--shapes", nargs="*", type=shape, help="for example 8x32x16x56x56")
    options.add_argument(
        "--providers", nargs="*", help="only these; '*' matches all, variants (+) too"
    )
    options.add_argument("--repeats", type=int, default=9, help="turns")
    options.add_argument("--threads", type=int, default=1, help="of a CPU")
    options.add_argument("--output", type=Path, default=FOLDER / "results" / f"{name}.csv")
    return options


def shape(text: str) -> tuple[int, ...]:
    """Parse a shape: 8x32x16x56x56 → (8, 32, 16, 56, 56)."""
    return tuple(int(size) for size in text.split("x"))


def chosen(names: Iterable[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the names that match a pattern, in the order of the patterns; without patterns, all but the variants."""
    names = list(names)
    if patterns is None:
        return [name for name in names if VARIANT not in name]
    found = [name for pattern in patterns for name in names if fnmatchcase(name, pattern)]
    return list(dict.fromkeys(found))

"""Where and when something about data was measured, and the row that says so."""

import csv
import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def circumstances(*packages: str) -> dict[str, str]:
    """Machine, versions, commit and date of a measurement.

    Args:
        packages: whose versions to record.
    """
    return {
        "machine": _machine(),
        "versions": " ".join(f"{name}={_version(name)}" for name in packages),
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+" if _git("status", "--short", "src") else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def record(name: str, rows: list[dict[str, str]]) -> None:
    """Write rows to a file of the results, and print them.

    Args:
        name: of the file.
        rows: with the same columns.
    """
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / name
    partial = file.with_name(f".{name}.part")
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)
    print(file.read_text())


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(
        ["git", *words], cwd=folder.parent, capture_output=True, text=True, check=True
    ).stdout.strip()

"""Test check, prepare and training with damaged files and killed processes.

`python benchmarks/robustness.py` adds to `results/robustness.csv`. Damage: 200 variants of generated videos in four
formats, which are cut at a random place or have flipped bits anywhere or in the header, go through check, prepare and
the reader of training. Kills: `hcml data check` and `prepare` are killed by SIGKILL at random moments and started
again, and the files that they write are compared byte for byte with those of an undisturbed run.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import genuine
import numpy as np
from report import FOLDER, record
from videos import OF_DATASETS, all_frames, write_videos, wrong_frames

from hcml_lightning.cli import main as hcml
from hcml_lightning.data.decode import VideoError, read_frames
from hcml_lightning.data.manifest import ManifestRow
from hcml_lightning.data.synthetic import write_synthetic
from hcml_lightning.tools.datasets.check import examine
from hcml_lightning.tools.datasets.pool import Lost, run_each
from hcml_lightning.tools.datasets.prepare_jobs import Job, convert
from hcml_lightning.tools.datasets.transcode import Encoding

KINDS = ("cut", "bytes", "header")


def damage(content: bytes, kind: str, draw: random.Random) -> bytes:
    """Return the bytes of a file cut at a random place, or with bits flipped anywhere or in its first 600 bytes."""
    if kind == "cut":
        return content[: draw.randrange(1, len(content))]
    changed = bytearray(content)
    start, end = (0, min(600, len(content))) if kind == "header" else (0, len(content))
    for _ in range(draw.choice([1, 4, 32])):
        changed[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def outcome_of_frames(path: str, numbers: list[int], truth: np.ndarray) -> str:
    """Return how training reads a damaged file: an error, another size, the right, altered or wrong pictures."""
    try:
        frames = read_frames(path, numbers).numpy()
    except VideoError:
        return "named"
    if frames.shape[1:] != truth.shape[1:]:
        return "other size"
    if np.abs(frames.astype(np.int16) - truth[numbers]).max() <= 2:
        return "the right pictures"
    if wrong_frames(frames, numbers, truth):
        return "WRONG pictures"
    return "the right pictures with altered pixels"


def outcomes(folder: Path, variants: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (question, outcome) for each damaged file and tool."""
    sources = write_videos(folder, OF_DATASETS, num_frames=48)
    truth = {name: all_frames(path) for name, path in sources.items()}
    origin: dict[str, tuple[str, str]] = {}
    for number in range(variants):
        name, kind = list(sources)[number % 4], KINDS[number // 4 % 3]
        path = folder / f"{number:03d}_{name}_{kind}{sources[name].suffix}"
        path.write_bytes(damage(sources[name].read_bytes(), kind, draw))
        origin[str(path)] = (name, kind)
    jobs = {
        Job(path, path, Path(path).name + ".mp4", folder, folder, Encoding()): path
        for path in origin
    }
    said: dict[str, str] = {}
    length: dict[str, int] = {}
    for path, row in run_each(examine, origin, 1, limit_s=60):
        said[path] = _verdict(row)
        known = not isinstance(row, Lost) and row.info is not None
        length[path] = min(row.info.num_frames, 48) if known else 48
        yield "check", said[path]
    for job, row in run_each(convert, jobs, 1, limit_s=60):
        error = row.reason if isinstance(row, Lost) else row[-1]
        agrees = bool(error) == (said[jobs[job]] != "good")
        yield "prepare", ("named" if error else "good") if agrees else "DISAGREES with check"
    for path, (name, _) in origin.items():
        numbers = sorted(draw.choices(range(length[path]), k=8))
        found = outcome_of_frames(path, numbers, truth[name])
        yield f"training, {name}, of a video that check calls {said[path]}", found


def kills(tool: str, folder: Path, times: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (question, outcome) for each kill and restart."""
    root = folder / "data"
    write_synthetic(
        root, "something_v2", num_train=5, num_val=1, num_frames=24, height=96, width=128
    )
    words = ["data", tool, "--data=SomethingDataModule", "--num_workers=1"]
    whole = folder / f"{tool}_whole"
    shutil.copytree(root, whole)
    _run(words, tool, whole, root, folder / "whole")
    expected = _files(whole if tool == "check" else folder / "whole")
    for number in range(times):
        place, target = folder / f"{tool}_{number}", folder / f"{tool}_{number}_to"
        if tool == "check":
            shutil.copytree(root, place)
        command = [
            sys.executable,
            "-m",
            "hcml_lightning",
            *_words(words, tool, place, root, target),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journals = (place / ".hcml_manifest.csv.journal", target / ".hcml_prepare/part.journal")
        while process.poll() is None and not any(file.exists() for file in journals):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 2.0))
        process.send_signal(signal.SIGKILL)
        was_running = process.wait() == -signal.SIGKILL
        half = [
            p for p in target.rglob("[0-9]*.mp4") if ".hcml" not in str(p) and examine(str(p)).error
        ]
        _run(words, tool, place, root, target)
        found = _files(place if tool == "check" else target)
        same = "the same bytes" if found == expected and not half else "DIFFERS"
        yield f"{tool} killed {'at work' if was_running else 'after its end'}", same
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)


def _verdict(row: ManifestRow | Lost) -> str:
    if isinstance(row, Lost):
        return "named (process lost)"
    return "named" if row.error else "good"


def _words(words: list[str], tool: str, place: Path, root: Path, target: Path) -> list[str]:
    if tool == "check":
        return [*words, f"--data.root={place}"]
    return [*words, f"--data.root={root}", f"--output={target}"]


def _run(words: list[str], tool: str, place: Path, root: Path, target: Path) -> None:
    with open(os.devnull, "w") as nothing:
        stdout, sys.stdout = sys.stdout, nothing
        try:
            hcml(_words(words, tool, place, root, target))
        finally:
            sys.stdout = stdout


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def main() -> None:
    """Test and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=200, help="damaged files")
    parser.add_argument("--kills", type=int, default=20, help="of each tool")
    parser.add_argument("--clips", type=Path, help="folder of genuine files, as genuine.py says")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "robustness.csv")
    options = parser.parse_args()
    draw = random.Random(0)
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        found.update(outcomes(Path(folder), options.variants, draw))
        if options.clips is not None:
            found.update(genuine.as_one(options.clips, Path(folder) / "genuine"))
            found.update(genuine.as_they_come(options.clips, Path(folder) / "genuine"))
        for tool in ("check", "prepare") if options.kills else ():
            (Path(folder) / tool).mkdir()
            found.update(kills(tool, Path(folder) / tool, options.kills, draw))
    rows = [
        {"what": what, "outcome": outcome, "count": count}
        for (what, outcome), count in sorted(found.items())
    ]
    print(*(list(row.values()) for row in rows), sep="\n")
    record(rows, options.output, ("av", "torch"))


if __name__ == "__main__":
    main()

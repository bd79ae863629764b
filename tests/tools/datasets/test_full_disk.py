"""Disks that are really full, read-only or gone: small ones, mounted in a separate namespace."""

import faulthandler
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hcml_lightning.cli import main
from hcml_lightning.data.decode import check_video
from hcml_lightning.data.manifest import MANIFEST_NAME
from hcml_lightning.tools.datasets.pool import run_each

NAMESPACE = ["unshare", "--mount", "--propagation", "private"]


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def hcml(*words: str) -> list:
    """Run a command; return its exit status, the line of its error and its output."""
    said, error = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(error):
        try:
            status = main([*words, "--num_workers=1"])
        except SystemExit as stopped:
            status = stopped.code
    lines = [line for line in error.getvalue().splitlines() if "error:" in line]
    return [status, " ".join(lines), said.getvalue()]


def data(tool: str, root: Path) -> list[str]:
    return ["data", tool, "--data=UCF101DataModule", f"--data.root={root}", "--data.flip=mirror"]


@contextmanager
def unmounted_when(source: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Unmount a disk as soon as something has begun, unless the block ends before."""
    ended = threading.Event()

    def watch() -> None:
        while not begun():
            if ended.wait(0.001):
                return
        subprocess.run(["umount", "--lazy", str(source)], check=True)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def sound_copies(target: Path) -> int:
    """Count the copies that can be read from end to end; a broken one raises."""
    copies = [p for p in (target / "videos").rglob("*") if p.is_file()]
    return sum(check_video(path).num_frames == 12 for path in copies)


def prepare_on_a_small_disk(root: Path, here: Path) -> dict:
    """Fill a target, make room and resume; then write-protect it and start again."""
    target, found = here / "target", {}
    words = [*data("prepare", root), f"--output={target}"]
    mount(target, "size=64k")
    found["full"] = hcml(*words)
    found["copies"], found["scratch"] = (
        sound_copies(target),
        [p.name for p in (target / ".hcml_prepare").rglob("*.mp4")],
    )
    remount(target, "size=8m")
    found["again"] = hcml(*words)
    found["same"] = contents(target) == contents(here / "whole")
    remount(target, "ro")
    found["read-only"] = hcml(*words)
    return found


def prepare_while_the_source_leaves(root: Path, here: Path) -> dict:
    """Unmount the disk of a dataset while it is being copied, and bring it back."""
    source, target, found = here / "leaving", here / "left", {}
    mount(source, "size=8m")
    shutil.copytree(root, source, dirs_exist_ok=True)

    def leave_after_three(*given: Any, **named: Any) -> Iterator[tuple[Any, Any]]:
        for number, result in enumerate(run_each(*given, **named), start=1):
            yield result
            if number == 3:
                subprocess.run(["umount", "--lazy", str(source)], check=True)

    words = [*data("prepare", source), f"--output={target}"]
    with patch("hcml_lightning.tools.datasets.prepare.run_each", leave_after_three):
        found["gone"] = hcml(*words)
    found["copies"] = sound_copies(target)
    shutil.copytree(root, source, dirs_exist_ok=True)
    found["again"] = hcml(*words)
    found["same"] = contents(target) == contents(here / "whole")
    return found


def check_while_the_source_leaves(root: Path, here: Path) -> dict:
    """Unmount the disk of a dataset while it is being checked."""
    source = here / "unmounted"
    mount(source, "size=8m")
    for number in range(40):
        shutil.copytree(root / "videos" / "up", source / f"{number:02}")
    journal = source / f".{MANIFEST_NAME}.journal"
    words = ["data", "check", "--data=VideoFolderDataModule", f"--data.root={source}"]
    with unmounted_when(source, lambda: journal.is_file() and journal.stat().st_size > 0):
        gone = hcml(*words, "--data.flip=none")
    return {"gone": gone, "files": [p.name for p in source.iterdir()]}


def check_on_a_small_disk(root: Path, here: Path) -> dict:
    """Leave no room for the journal, then none for the manifest, then enough; then write-protect it."""
    place, found = here / "checked", {}
    mount(place, "size=4m")
    shutil.copytree(root, place, dirs_exist_ok=True)
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    found["no journal"] = hcml(*data("check", place))
    os.truncate(filler, filler.stat().st_size - 4096)
    found["no manifest"] = hcml(*data("check", place))
    found["files"] = sorted(p.name for p in place.glob(".*")) + [
        p.name for p in place.glob("hcml*")
    ]
    filler.unlink()
    found["again"] = hcml(*data("check", place))
    manifest = place / MANIFEST_NAME
    first = manifest.read_bytes()
    manifest.unlink()
    hcml(*data("check", place))
    found["same"] = manifest.read_bytes() == first
    remount(place, "ro")
    found["read-only"] = hcml(*data("check", place))
    return found


@pytest.fixture(scope="module")
def found(synthetic_root, tmp_path_factory) -> dict:
    here = tmp_path_factory.mktemp("disks")
    trial = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(here)], check=False)
    if trial.returncode:
        pytest.skip("this machine lets nobody here mount a disk")
    command = [*NAMESPACE, sys.executable, __file__, str(synthetic_root("ucf101")), str(here)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((here / "found.json").read_text())


def test_full_disk_stops_prepare_which_resumes_when_there_is_room(found):
    status, error, _ = found["prepare"]["full"]
    assert status == 2
    assert "cannot be written: No space left on device" in error
    assert "/target/" in error
    assert "run the same command to resume" in error
    assert 0 < found["prepare"]["copies"] < 16
    assert found["prepare"]["scratch"] == []
    assert found["prepare"]["again"][0] == 0
    assert found["prepare"]["same"]


def test_read_only_target_stops_prepare(found):
    status, error, _ = found["prepare"]["read-only"]
    assert status == 2
    assert "/target cannot be written: Read-only file system" in error


def test_unmounted_source_stops_prepare_which_resumes_when_it_is_back(found):
    status, error, _ = found["leaving"]["gone"]
    assert status == 2
    assert "/leaving: the dataset disappeared while videos/" in error
    assert 0 < found["leaving"]["copies"] < 16
    assert found["leaving"]["again"][0] == 0
    assert found["leaving"]["same"]


def test_unmounted_source_stops_check(found):
    status, error, _ = found["unmounted"]["gone"]
    assert status == 2
    assert "/unmounted: the dataset disappeared while " in error
    assert found["unmounted"]["files"] == []


def test_full_disk_stops_check_which_resumes_when_there_is_room(found):
    for name, file in (("no journal", ".journal"), ("no manifest", MANIFEST_NAME)):
        status, error, _ = found["check"][name]
        assert status == 2
        assert f"{file} cannot be written: No space left on device" in error
    assert found["check"]["files"] == [f".{MANIFEST_NAME}.journal"]
    assert found["check"]["again"][0] == 0
    assert "newly checked: 0 of 16 videos" in found["check"]["again"][2]
    assert found["check"]["same"]


def test_read_only_root_stops_check(found):
    status, error, _ = found["check"]["read-only"]
    assert status == 2
    assert "cannot be written: Read-only file system" in error


if __name__ == "__main__":
    root, here = Path(sys.argv[1]), Path(sys.argv[2])
    # If a command hangs, say where.
    faulthandler.dump_traceback_later(240, exit=True)
    main([*data("prepare", root), f"--output={here / 'whole'}", "--num_workers=1"])
    results = {
        "prepare": prepare_on_a_small_disk(root, here),
        "leaving": prepare_while_the_source_leaves(root, here),
        "unmounted": check_while_the_source_leaves(root, here),
        "check": check_on_a_small_disk(root, here),
    }
    (here / "found.json").write_text(json.dumps(results))

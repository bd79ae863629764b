"""Test check, prepare and training on genuine files, valid and broken, as one dataset and in their own layouts.

Run by `robustness.py --clips FOLDER`, where FOLDER has a folder of files for each source (`ucf101`, `kinetics`, …),
their lists in `annotations`, and broken files in `bad`.
"""

import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from videos import all_frames

from hcml_lightning.cli import main as hcml
from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.manifest import MANIFEST_NAME, read_manifest

SOURCES = ("ucf101", "hmdb51", "kinetics", "jester", "something-something-v2", "bad")
FRAMES = "something-something-frames"
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")
TINY = [
    *("--data.clip_length=4", "--data.short_side=[32, 40]", "--data.crop_size=32"),
    *("--data.batch_size=2", "--data.num_workers=0", "--data.flip=none"),
    *("--model.backbone=r2d_tiny", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    *("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
]


def run(*words: str) -> tuple[int, str]:
    """Run a command, and return its exit status and its output."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = int(hcml(list(words)) or 0)
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
            said.write(str(stopped.code))
    return status, said.getvalue()


def gather(clips: Path, root: Path, most: int) -> None:
    """Link the files into one dataset of class folders: all broken ones, and at most `most` of each other source."""
    for source in SOURCES:
        files = sorted(p for p in (clips / source).rglob("*") if p.suffix in SUFFIXES)
        (root / source).mkdir(parents=True)
        for path in files if source == "bad" else files[:most]:
            (root / source / path.name).symlink_to(path)
    (root / FRAMES).mkdir()
    for folder in sorted((clips / FRAMES).iterdir())[:most]:
        (root / FRAMES / folder.name).symlink_to(folder)


def as_one(clips: Path, folder: Path, most: int = 10_000) -> Iterator[tuple[str, str]]:
    """Yield (question, outcome) for one dataset of all files.

    Args:
        clips: folder of the genuine files.
        folder: folder to work in.
        most: maximum number of valid files of each source.
    """
    root, copy = folder / "one", folder / "copy"
    gather(clips, root, most)
    data = ["--data=VideoFolderDataModule", f"--data.root={root}"]
    bad = {path.name for path in (root / "bad").iterdir()}
    status, _ = run("data", "check", *data)
    rows = read_manifest(root / MANIFEST_NAME)
    for path, row in rows.items():
        verdict = "named" if row.error else "good"
        yield f"check, {'bad' if Path(path).name in bad else 'good'} file", verdict
        if not row.error:
            yield "training's reader, good file", compare(root / path)
    yield "check, exit status", str(status)
    status, said = run("data", "prepare", *data, f"--output={copy}")
    failed = [path for path, row in rows.items() if row.error]
    yield "prepare, exit status", str(status)
    yield "prepare, videos converted", said.removeprefix("converted ").partition(" of ")[0]
    for path in rows.keys() - set(failed):
        made = (copy / path).with_suffix(".mp4")
        same = made.is_file() and probe(made).num_frames == probe(root / path).num_frames
        yield "prepare, good file", "as many frames" if same else "LOST"

    def fit(*words: str) -> tuple[int, str]:
        own = f"--checkpoint.dirpath={tempfile.mkdtemp(dir=folder)}"
        return run("fit", "-c", "stages/baseline.yaml", *TINY, own, *words)

    for name, place in (("files", root), ("copy", copy)):
        # The class of broken files has no converted videos, and training would refuse an empty class.
        shutil.rmtree(copy / "bad", ignore_errors=True)
        status, _ = fit(data[0], f"--data.root={place}", "--data.on_error=skip")
        yield f"training on the {name}, exit status", str(status)
    status, said = fit(*data)
    yield (
        "training, on_error=raise",
        "named" if status and "cannot be read" in said else "NOT NAMED",
    )
    (root / MANIFEST_NAME).unlink()
    status, said = fit(*data)
    yield "training without manifest", "named" if status and "/bad/" in said else "NOT NAMED"


def compare(path: Path) -> str:
    """Read some frames as training does, and compare them with a complete decode in order."""
    info = probe(path)
    numbers = np.random.default_rng(0).integers(info.num_frames, size=4).tolist()
    frames = read_frames(path, numbers).numpy().astype(np.int16)
    if path.is_dir():
        return "the right pictures" if frames.std() > 5 else "WRONG pictures"
    truth = all_frames(path)
    # With another order of threads FFmpeg may round differently, by at most one grey level.
    right = len(truth) == info.num_frames and np.abs(frames - truth[numbers]).max() <= 1
    return "the right pictures" if right else "WRONG pictures"


def as_they_come(clips: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what check reports with the lists of the original datasets, of which most videos are missing."""
    lists = clips / "annotations"
    root = folder / "ucf101"
    shutil.copytree(lists / "ucfTrainTestlist", root / "ucfTrainTestlist")
    (root / "videos").symlink_to(clips / "ucf101")
    yield "check, UCF-101", checked(root, "--data=UCF101DataModule")
    root = folder / "kinetics"
    root.mkdir()
    shutil.copy(lists / "kinetics400" / "kinetics-400_val.csv", root)
    (root / "val").symlink_to(clips / "kinetics")
    yield "check, Kinetics-400", checked(root, "--data=KineticsDataModule")
    root = folder / "something_v2"
    root.mkdir()
    labels = "something-something-v2-labels.json"
    shutil.copy(lists / "something-something-v2" / labels, root / labels)
    shutil.copy(
        lists / "something-something-v2" / "finetune_10shot_train.json",
        root / "something-something-v2-train.json",
    )
    (root / "something-something-v2-validation.json").write_text(
        '[{"id": "166766", "template": "Poking [something] so that [it] falls over"}]'
    )
    (root / "20bn-something-something-v2").symlink_to(clips / "something-something-v2")
    yield "check, Something-Something V2", checked(root, "--data=SomethingDataModule")
    root = folder / "something_v1"
    root.mkdir()
    v1 = "something-something-v1"
    shutil.copy(lists / v1 / "label_map.txt", root / f"{v1}-labels.csv")
    for side in ("train", "validation"):
        rows = "22983;Holding something\r\n151201;Opening something\r\n"
        (root / f"{v1}-{side}.csv").write_text(rows)
    (root / f"20bn-{v1}").symlink_to(clips / FRAMES)
    yield (
        "check, Something-Something V1",
        checked(root, "--data=SomethingDataModule", "--data.version=1"),
    )


def checked(root: Path, *data: str) -> str:
    """Check a dataset, and report the numbers of good, missing and broken videos."""
    run("data", "check", *data, f"--data.root={root}")
    rows = read_manifest(root / MANIFEST_NAME).values()
    good = sum(not row.error for row in rows)
    missing = sum(row.size == -1 for row in rows)
    return f"{good} good, {missing} missing, {len(rows) - good - missing} broken"

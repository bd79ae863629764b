"""Results can be traced to the code that made them, and weights to those that they started from."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import TINY

from hcml_lightning.cli import main
from hcml_lightning.tools.console import provenance
from hcml_lightning.tools.console.provenance import commit


def test_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    assert commit("src") is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *who, "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert commit("src") is None
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").touch()
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "--short", "HEAD")
    (tmp_path / "notes.txt").touch()
    assert commit("src") == head
    (tmp_path / "src" / "b.py").touch()
    assert commit("src") == f"{head}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit("src") is None


def test_run_records_the_weights_that_it_started_from(
    synthetic_root: Callable[[str], Path], tmp_path: Path
):
    shared = [*TINY, f"--data.root={synthetic_root('ucf101')}", "--trainer.limit_val_batches=0"]

    def fit(stage: str, name: str, *words: str) -> dict[str, str] | None:
        folder = f"--trainer.logger.init_args.save_dir={tmp_path / name}"
        assert main(["fit", "-c", f"stages/{stage}.yaml", *shared, folder, *words]) == 0
        newest = max(tmp_path.glob(f"{name}/**/fit.json"), key=lambda path: path.stat().st_mtime)
        record = json.loads(newest.read_text())
        assert record["environment"]["commit"]
        (tmp_path / f"{name}.ckpt").write_bytes(Path(record["checkpoint"]).read_bytes())
        return record["started_from"]

    assert fit("1_flow", "flow", "--trainer.max_epochs=1") is None
    start = tmp_path / "flow.ckpt"
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    expected = {"path": str(start), "sha256": digest}
    began = [f"--model.init_from={start}"]
    assert fit("2_contrast_level1", "one", *began, "--trainer.max_epochs=1") == expected
    start.unlink()
    # Also when it resumes after that file is gone.
    resumed = [*began, f"--ckpt_path={tmp_path / 'one.ckpt'}", "--trainer.max_epochs=2"]
    assert fit("2_contrast_level1", "two", *resumed) == expected

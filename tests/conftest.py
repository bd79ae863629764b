"""What all tests share: an interpreter for the GPU kernels, few threads, and generated videos."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

# Triton decides when a kernel is defined, so this must come before any test imports one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# Two threads that wait for each other on two busy cores are twenty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
TINY = ["-c", "data/ucf101.yaml", "-c", str(REPOSITORY / "tests" / "tiny.yaml")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest tests come first, so that no process is left with them when the others have nothing to do.
    items.sort(key=lambda item: item.path.name not in ("test_notebooks.py", "test_experiments.py"))


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Undo what libraries add to the environment (W&B's agent the id of its run), which the next test would see."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos beside the repository; tests that use them are skipped where they are missing."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real videos at {path}")
    return path


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the root of a tiny generated dataset in the asked layout, written once a session."""
    from hcml_lightning.data.synthetic import write_synthetic

    roots: dict[str, Path] = {}

    def root(layout: str) -> Path:
        if layout not in roots:
            path = tmp_path_factory.mktemp(layout)
            write_synthetic(
                path, layout=layout, num_train=1, num_val=1, num_frames=12, height=48, width=64
            )
            roots[layout] = path
        return roots[layout]

    return root


@pytest.fixture
def layout_copy(synthetic_root: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Give a copy of such a dataset that a test may change."""
    return lambda layout: shutil.copytree(synthetic_root(layout), tmp_path / layout)

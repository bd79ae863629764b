"""Operators write all of their results: what they forget is NaN here."""

import os
from collections.abc import Iterator

import pytest
import torch

# cuBLAS asks for this before it promises deterministic results; read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)

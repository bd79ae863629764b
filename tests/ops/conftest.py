"""Fill new memory with NaN, so that a result which an operator leaves partly unwritten is noticed."""

import os
from collections.abc import Iterator

import pytest
import torch

# cuBLAS needs this for deterministic results; it is read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)

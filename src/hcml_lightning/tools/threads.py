"""[cores of a CPU → **threads of torch** → one stage]

How many threads the network gets where it runs on the cores that also decode.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_given_back() -> Iterator[None]:
    """Leave torch as many threads as it had, for what this process does next."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def leave_cores_to(workers: int) -> None:
    """Leave a core to each process that decodes, and the rest of them to the network.

    Threads that wait for each other on fewer cores than there are of them are twenty times slower.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() - workers))

"""[cores of a CPU → **threads of torch** → one stage]

Sets the number of threads of the network if it runs on the cores that also decode videos.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_given_back() -> Iterator[None]:
    """Restore torch's number of threads after the block, for whatever this process does next."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def leave_cores_to(workers: int) -> None:
    """Leave one core to each worker that decodes, and the others to the network.

    Threads that wait for each other are twenty times slower if there are more of them than cores.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() - workers))

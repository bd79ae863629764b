"""[list of videos → **records in one block of memory** → batch → model → loss → metric]

Forked worker processes share the memory of their parent until one of them writes to it, and even reading a Python
object writes to it, because its reference count changes. With a list of records, every worker ends up with its own
copy of all of them (`tests/data/test_packed.py` compares the memory). Records packed into bytes have no reference
counts.
"""

import pickle
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, cast, overload

import numpy as np

Record = TypeVar("Record")


class PackedList(Sequence[Record], Generic[Record]):
    """An immutable list that creates a new copy of an entry on each access.

    Args:
        entries: entries of the list; anything that can be pickled.

    Example:
        >>> videos = PackedList(["a.mp4", "b.mp4", "c.mp4"])
        >>> len(videos), videos[1], videos[-2:]
        (3, 'b.mp4', ['b.mp4', 'c.mp4'])
    """

    def __init__(self, entries: Iterable[Record]) -> None:
        packed = [pickle.dumps(entry, pickle.HIGHEST_PROTOCOL) for entry in entries]
        # An array, because the numbers in a list are Python objects too.
        self._ends = np.fromiter(accumulate(map(len, packed), initial=0), np.int64)
        self._block = b"".join(packed)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Unpack one entry, or those of a slice.

        Raises:
            IndexError: if there is no entry at that index.
        """
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        start, end = self._ends[place : place + 2]
        return cast(Record, pickle.loads(memoryview(self._block)[start:end]))
